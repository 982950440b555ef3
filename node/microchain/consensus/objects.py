"""Signed objects: transactions, headers and votes (protocol, section 2).

Each travels as an envelope ``[signed_bytes, signature]``. Its id is the tagged hash of ``signed_bytes`` alone, and
the signature is over that id, so neither the envelope nor the signature can make a second object out of one.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from microchain.consensus.types import (
    Digest,
    Dynasty,
    Epoch,
    Height,
    NodeId,
    ProtocolError,
    Slot,
)
from microchain.crypto.hashing import tagged_hash

__all__ = [
    "HEADER_TAG",
    "TRANSACTION_TAG",
    "VOTE_TAG",
    "Header",
    "HeaderBody",
    "MalformedObject",
    "Transaction",
    "TransactionBody",
    "Vote",
    "VoteBody",
    "decode_header",
    "decode_transaction",
    "decode_vote",
    "encode_body",
    "seal",
    "split",
]

TRANSACTION_TAG = "microchain/transaction"
HEADER_TAG = "microchain/header"
VOTE_TAG = "microchain/vote"
VERSION = 1

Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""What a signed 64-bit integer holds, the largest that SQLite stores."""
MAX_SIGNATURE_BYTES = 512


class MalformedObject(ProtocolError):
    """Bytes that are no canonical encoding of the object they should be."""


class TransactionBody(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What a sender signs. ``kind`` is a TransactionKind; ``payload`` is opaque."""

    version: Annotated[int, Meta(ge=VERSION, le=VERSION)]
    chain_id: Bytes32
    kind: Annotated[int, Meta(ge=0, le=6)]
    sender: Bytes32
    valid_until: Natural
    payload: bytes


class HeaderBody(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What a proposer signs (protocol, section 4). ``timestamp`` (ns since 1970) is informative only."""

    version: Annotated[int, Meta(ge=VERSION, le=VERSION)]
    chain_id: Bytes32
    height: Natural
    slot: Natural
    parent: Bytes32
    dynasty: Natural
    tx_root: Bytes32
    votes_root: Bytes32
    state_root: Bytes32
    committee_root: Bytes32
    proposer: Bytes32
    seed_proof: Annotated[bytes, Meta(max_length=128)]
    timestamp: Natural


class VoteBody(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What a committee member signs: one link source → target (protocol, section 5)."""

    version: Annotated[int, Meta(ge=VERSION, le=VERSION)]
    chain_id: Bytes32
    dynasty: Natural
    source: Bytes32
    source_epoch: Natural
    target: Bytes32
    target_epoch: Natural
    voter: Bytes32


class Transaction(Struct, frozen=True):
    """A decoded transaction with the bytes it came in; ``id`` is the tagged hash of the signed bytes."""

    id: Digest
    raw: bytes
    body: TransactionBody
    signature: bytes


class Header(Struct, frozen=True):
    """A decoded block header with its envelope; ``id`` is the block's id."""

    id: Digest
    raw: bytes
    body: HeaderBody
    signature: bytes

    @property
    def height(self) -> Height:
        return Height(self.body.height)

    @property
    def slot(self) -> Slot:
        return Slot(self.body.slot)

    @property
    def parent(self) -> Digest:
        return Digest(self.body.parent)

    @property
    def proposer(self) -> NodeId:
        return NodeId(self.body.proposer)

    @property
    def dynasty(self) -> Dynasty:
        return Dynasty(self.body.dynasty)


class Vote(Struct, frozen=True):
    """A decoded vote with its envelope."""

    id: Digest
    raw: bytes
    body: VoteBody
    signature: bytes

    @property
    def voter(self) -> NodeId:
        return NodeId(self.body.voter)

    @property
    def target(self) -> Digest:
        return Digest(self.body.target)

    @property
    def source(self) -> Digest:
        return Digest(self.body.source)

    @property
    def target_epoch(self) -> Epoch:
        return Epoch(self.body.target_epoch)

    @property
    def source_epoch(self) -> Epoch:
        return Epoch(self.body.source_epoch)


Body = TypeVar("Body", TransactionBody, HeaderBody, VoteBody)

_envelope_decoder = msgspec.msgpack.Decoder(tuple[bytes, Annotated[bytes, Meta(max_length=MAX_SIGNATURE_BYTES)]])
_encoder = msgspec.msgpack.Encoder()
_transaction_decoder = msgspec.msgpack.Decoder(TransactionBody)
_header_decoder = msgspec.msgpack.Decoder(HeaderBody)
_vote_decoder = msgspec.msgpack.Decoder(VoteBody)


def encode_body(body: TransactionBody | HeaderBody | VoteBody) -> bytes:
    """Return the bytes that are signed and hashed."""
    return _encoder.encode(body)


def seal(signed_bytes: bytes, signature: bytes) -> bytes:
    """Return the envelope of one object."""
    return _encoder.encode((signed_bytes, signature))


def split(raw: bytes) -> tuple[bytes, bytes]:
    """Return (signed_bytes, signature) of an envelope; MalformedObject unless ``raw`` is its canonical encoding."""
    try:
        signed, signature = _envelope_decoder.decode(raw)
    except msgspec.MsgspecError as error:
        raise MalformedObject(f"not an envelope: {error}") from None
    if _encoder.encode((signed, signature)) != raw:
        raise MalformedObject("the envelope is not canonically encoded")
    return signed, signature


def _decode(decoder: msgspec.msgpack.Decoder[Body], raw: bytes) -> tuple[Body, bytes, bytes]:
    signed, signature = split(raw)
    try:
        body = decoder.decode(signed)
    except msgspec.MsgspecError as error:
        raise MalformedObject(f"malformed object: {error}") from None
    if _encoder.encode(body) != signed:
        raise MalformedObject("the signed bytes are not canonically encoded")
    return body, signed, signature


def decode_transaction(raw: bytes) -> Transaction:
    """Decode an envelope; MalformedObject says why not. Neither signature nor chain is checked here."""
    body, signed, signature = _decode(_transaction_decoder, raw)
    return Transaction(tagged_hash(TRANSACTION_TAG, signed), raw, body, signature)


def decode_header(raw: bytes) -> Header:
    """Decode a header's envelope; MalformedObject says why not."""
    body, signed, signature = _decode(_header_decoder, raw)
    return Header(tagged_hash(HEADER_TAG, signed), raw, body, signature)


def decode_vote(raw: bytes) -> Vote:
    """Decode a vote's envelope; MalformedObject says why not."""
    body, signed, signature = _decode(_vote_decoder, raw)
    return Vote(tagged_hash(VOTE_TAG, signed), raw, body, signature)
