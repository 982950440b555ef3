"""Merkle trees as RFC 9162 (section 2.1) defines them, over SHA-256.

A leaf is hashed after 0x00 and an inner node after 0x01, so neither can pass for the other. A tree of n leaves splits
at the largest power of two below n; level by level that is the same as pairing neighbours and lifting the odd one out.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from microchain.crypto.hashing import Digest

__all__ = ["inclusion_proof", "merkle_root", "verify_inclusion"]

_LEAF = b"\x00"
_NODE = b"\x01"


def _leaf_level(leaves: Sequence[bytes]) -> list[bytes]:
    return [sha256(_LEAF + leaf).digest() for leaf in leaves]


def _next_level(level: list[bytes]) -> list[bytes]:
    parents = [sha256(_NODE + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
    if len(level) % 2:
        parents.append(level[-1])
    return parents


def merkle_root(leaves: Sequence[bytes]) -> Digest:
    """Return the root over ``leaves`` (given unhashed, in order); without leaves it is SHA-256 of the empty string."""
    if not leaves:
        return Digest(sha256().digest())
    level = _leaf_level(leaves)
    while len(level) > 1:
        level = _next_level(level)
    return Digest(level[0])


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """Return the siblings from leaf ``index`` up to the root; IndexError if there is no such leaf."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of a tree with {len(leaves)} leaves")
    proof: list[Digest] = []
    level = _leaf_level(leaves)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            proof.append(Digest(level[sibling]))
        level = _next_level(level)
        index //= 2
    return tuple(proof)


def verify_inclusion(root: Digest, leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bool:
    """Whether ``leaf`` is leaf ``index`` of the ``size`` leaves under ``root`` (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node = sha256(_LEAF + leaf).digest()
    siblings = iter(proof)
    last = size - 1
    while last:
        # The last node of a level of odd size has no sibling and rises as it is.
        if index % 2 or index < last:
            sibling = next(siblings, None)
            if sibling is None:
                return False
            node = sha256(_NODE + (sibling + node if index % 2 else node + sibling)).digest()
        index //= 2
        last //= 2
    return next(siblings, None) is None and node == root
