"""RFC 9162 trees: checked against the RFC's own recursive definitions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.crypto.hashing import Digest
from microchain.crypto.merkle import inclusion_proof, merkle_root, verify_inclusion

LEAVES = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def largest_power_of_two_below(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def recursive_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, to the letter."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = largest_power_of_two_below(len(leaves))
    return hashlib.sha256(b"\x01" + recursive_root(leaves[:k]) + recursive_root(leaves[k:])).digest()


def recursive_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """RFC 9162, section 2.1.3.1, to the letter."""
    if len(leaves) == 1:
        return []
    k = largest_power_of_two_below(len(leaves))
    if index < k:
        return [*recursive_proof(leaves[:k], index), recursive_root(leaves[k:])]
    return [*recursive_proof(leaves[k:], index - k), recursive_root(leaves[:k])]


@given(st.lists(st.binary(max_size=40), max_size=70))
def test_root_is_that_of_the_recursive_definition(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == recursive_root(leaves)


def test_root_of_no_leaves_is_the_hash_of_nothing() -> None:
    assert merkle_root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_every_proof_of_every_small_tree_is_the_recursive_one_and_verifies() -> None:
    for size in range(1, 34):
        leaves = [bytes([n]) for n in range(size)]
        root = merkle_root(leaves)
        for index, leaf in enumerate(leaves):
            proof = inclusion_proof(leaves, index)
            assert list(proof) == recursive_proof(leaves, index)
            assert verify_inclusion(root, leaf, index, size, proof)


@given(LEAVES, st.data())
def test_proof_holds_for_its_own_leaf_and_place_only(leaves: list[bytes], data: st.DataObject) -> None:
    size = len(leaves)
    index = data.draw(st.integers(0, size - 1))
    root, proof = merkle_root(leaves), inclusion_proof(leaves, index)
    assert verify_inclusion(root, leaves[index], index, size, proof)
    other = data.draw(st.integers(0, size - 1))
    if leaves[other] != leaves[index]:
        assert not verify_inclusion(root, leaves[other], index, size, proof)
        assert not verify_inclusion(root, leaves[index], other, size, proof)
    assert not verify_inclusion(root, leaves[index] + b"!", index, size, proof)


@given(LEAVES, st.data())
def test_changed_shortened_or_lengthened_proof_is_refused(leaves: list[bytes], data: st.DataObject) -> None:
    size = len(leaves)
    index = data.draw(st.integers(0, size - 1))
    root, proof = merkle_root(leaves), list(inclusion_proof(leaves, index))
    assert not verify_inclusion(root, leaves[index], index, size, [*proof, bytes(32)])
    if proof:
        assert not verify_inclusion(root, leaves[index], index, size, proof[:-1])
        place = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[place][0] ^ 1]) + proof[place][1:]
        assert not verify_inclusion(root, leaves[index], index, size, [*proof[:place], flipped, *proof[place + 1 :]])
        short = proof[place][:31]
        assert not verify_inclusion(root, leaves[index], index, size, [*proof[:place], short, *proof[place + 1 :]])


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0), (2**70, 4)])
def test_place_outside_the_tree_is_refused(index: int, size: int) -> None:
    leaves = [b"a", b"b", b"c", b"d"]
    assert not verify_inclusion(merkle_root(leaves), b"a", index, size, inclusion_proof(leaves, 0))


@pytest.mark.parametrize("index", [-1, 3])
def test_asking_for_the_proof_of_a_missing_leaf_names_it(index: int) -> None:
    with pytest.raises(IndexError, match=f"leaf {index} of a tree with 3 leaves"):
        inclusion_proof([b"a", b"b", b"c"], index)


@given(st.lists(st.binary(max_size=8), min_size=2, max_size=20))
def test_inner_node_does_not_pass_for_a_leaf(leaves: list[bytes]) -> None:
    left = merkle_root(leaves[:1])
    right = merkle_root(leaves[1:2])
    assert merkle_root([left + right]) != merkle_root(leaves[:2])


def test_long_proof_for_a_forged_size_ends() -> None:
    assert not verify_inclusion(Digest(bytes(32)), b"leaf", 0, 2**200, [bytes(32)] * 199)
