"""Data transactions: signing, padding to an exact encoded size, and sensor readings as payload."""

from __future__ import annotations

import msgspec

from microchain.client.sensors import Reading
from microchain.consensus.objects import TRANSACTION_TAG, VERSION, TransactionBody, encode_body, seal
from microchain.consensus.types import Digest, Height, NodeId, TransactionKind
from microchain.crypto.hashing import tagged_hash
from microchain.crypto.signatures import SigningKey

__all__ = [
    "DEFAULT_VALIDITY",
    "SignedTransaction",
    "SizeError",
    "compute_payload_size",
    "encode_reading",
    "make_transaction",
    "sized_transaction",
]

DEFAULT_VALIDITY = 1000
"""Blocks above the head for which a transaction is valid unless told otherwise."""

_MAX_PAYLOAD = (1 << 32) - 1


class SizeError(ValueError):
    """A size that no encoded transaction can have, or too small for what it should carry."""


class SignedTransaction(msgspec.Struct, frozen=True, gc=False):
    """An encoded transaction and its id."""

    id: Digest
    raw: bytes


def make_transaction(
    chain_id: Digest, signing_key: SigningKey, sender: NodeId, valid_until: Height, payload: bytes
) -> SignedTransaction:
    """Sign a data transaction; ``raw`` is the envelope that a node takes."""
    signed = encode_body(TransactionBody(VERSION, chain_id, TransactionKind.DATA, sender, valid_until, payload))
    id = tagged_hash(TRANSACTION_TAG, signed)
    return SignedTransaction(id, seal(signed, signing_key.sign(id)))


def sized_transaction(
    chain_id: Digest,
    signing_key: SigningKey,
    sender: NodeId,
    valid_until: Height,
    *,
    reading: Reading,
    nonce: int,
    size: int,
) -> SignedTransaction:
    """Sign a reading so that the envelope has exactly ``size`` bytes; equal readings differ by ``nonce``.

    It signs twice, once to learn how long a signature is; for many transactions see signing.sign_range.
    """
    payload_size = compute_payload_size(size, valid_until, len(signing_key.sign(bytes(32))))
    payload = encode_reading(reading, nonce, payload_size)
    return make_transaction(chain_id, signing_key, sender, valid_until, payload)


def encode_reading(reading: Reading, nonce: int, size: int) -> bytes:
    """Return the reading as JSON, padded with spaces (so that it stays JSON) to ``size`` bytes."""
    document = msgspec.json.encode({"nonce": nonce, **reading})
    if len(document) > size:
        raise SizeError(f"a reading takes {len(document)} bytes, the payload has only {size}; make the size larger")
    return document.ljust(size)


def compute_payload_size(size: int, valid_until: Height, signature_size: int) -> int:
    """Return the payload bytes for which a transaction's envelope has ``size`` bytes; SizeError if there are none.

    A few sizes don't exist: where a msgpack length prefix grows, the envelope grows by more than one byte.
    """
    guess = size - _envelope_size(0, valid_until, signature_size)
    for payload in range(max(0, guess - 6), min(guess, _MAX_PAYLOAD) + 1):
        if _envelope_size(payload, valid_until, signature_size) == size:
            return payload
    smallest = _envelope_size(0, valid_until, signature_size)
    if size < smallest:
        raise SizeError(f"no transaction is as small as {size} bytes; an empty one has {smallest}")
    raise SizeError(f"no transaction encodes to exactly {size} bytes (a length prefix grows there); take {size + 2}")


def _envelope_size(payload: int, valid_until: int, signature: int) -> int:
    """msgpack: array headers, version and kind take one byte each, chain id and sender 2 + 32."""
    signed = 1 + 1 + 34 + 1 + 34 + _uint_size(valid_until) + _bin_size(payload)
    return 1 + _bin_size(signed) + _bin_size(signature)


def _bin_size(length: int) -> int:
    return length + (2 if length < 1 << 8 else 3 if length < 1 << 16 else 5)


def _uint_size(value: int) -> int:
    if value < 1 << 7:
        return 1
    return 2 if value < 1 << 8 else 3 if value < 1 << 16 else 5 if value < 1 << 32 else 9
