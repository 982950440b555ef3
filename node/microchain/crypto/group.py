"""The prime-order subgroup of edwards25519, on libsodium's point arithmetic. Points and scalars are 32 bytes.

libsodium's multiplication refuses what is no canonical encoding of a point of the subgroup, the identity, and the
scalar 0; here that is a GroupError.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha512

from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_from_uniform,
    crypto_core_ed25519_scalar_reduce,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)

from microchain.crypto.hashing import tag_prefix, tagged_hash

__all__ = [
    "IDENTITY",
    "ORDER",
    "GroupError",
    "decode_scalar",
    "encode_scalar",
    "hash_to_point",
    "hash_to_scalar",
    "multiply",
    "multiply_base",
    "sum_points",
]

ORDER = 2**252 + 27742317777372353535851937790883648493
IDENTITY = bytes([1]) + bytes(31)


class GroupError(ValueError):
    """A point or scalar that no honest party comes by."""


def encode_scalar(value: int) -> bytes:
    """Return a number modulo the group's order as 32 bytes."""
    return (value % ORDER).to_bytes(32, "little")


def decode_scalar(data: bytes) -> int:
    """Return the number that 32 bytes stand for; GroupError unless it is below the group's order."""
    value = int.from_bytes(data, "little")
    if len(data) != 32 or value >= ORDER:
        raise GroupError("not a canonical scalar")
    return value


def hash_to_scalar(tag: str, *parts: bytes) -> int:
    """Return the tagged SHA-512 of ``parts`` (of lengths that the tag fixes) modulo the group's order."""
    return int.from_bytes(
        crypto_core_ed25519_scalar_reduce(sha512(tag_prefix(tag) + b"".join(parts)).digest()), "little"
    )


def hash_to_point(tag: str) -> bytes:
    """Return a point of which nobody knows the discrete logarithm (Elligator 2, cofactor cleared)."""
    return crypto_core_ed25519_from_uniform(tagged_hash(tag))


def multiply(scalar: int, point: bytes) -> bytes:
    """Return scalar·point; GroupError for a point that is not of the subgroup, the identity, and a product that is."""
    try:
        return crypto_scalarmult_ed25519_noclamp(encode_scalar(scalar), point)
    except (RuntimeError, ValueError, TypeError):
        raise GroupError("not a canonical point of the prime-order subgroup, or a product with 0") from None


def multiply_base(scalar: int) -> bytes:
    """Return scalar·B; GroupError for the scalar 0."""
    try:
        return crypto_scalarmult_ed25519_base_noclamp(encode_scalar(scalar))
    except RuntimeError:
        raise GroupError("a product with 0") from None


def sum_points(points: Iterable[bytes]) -> bytes:
    """Return the sum of points that were checked before, the identity if there are none."""
    total = IDENTITY
    for point in points:
        total = crypto_core_ed25519_add(total, point)
    return total
