"""The payloads of system transactions (protocol, section 3): strict, canonical, bounded."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from microchain.consensus.genesis import RegistryEntry
from microchain.consensus.state.model import InvalidTransaction
from microchain.crypto.pvss import Deal, Reveal

__all__ = [
    "ClaimPayload",
    "DealPayload",
    "EvidencePayload",
    "OffenceKind",
    "RegisterPayload",
    "RevealPayload",
    "RevokePayload",
    "SharingView",
    "decode_payload",
    "encode_payload",
]

Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
OffenceKind = Annotated[int, Meta(ge=0, le=2)]


class RegisterPayload(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A node that the authority registers."""

    entry: RegistryEntry


class RevokePayload(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A node that the authority revokes, for good."""

    id: Bytes32


class EvidencePayload(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An offence: 0 two headers, 1 two votes, 2 a reveal transaction and the shares that it is false against."""

    offence: OffenceKind
    first: bytes
    second: bytes


class DealPayload(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The sender's deal for a dynasty's randomness."""

    dynasty: Natural
    deal: Deal


class RevealPayload(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The sender's share of all deals together; ``sharing`` is the hash of what was encrypted to the members."""

    dynasty: Natural
    sharing: Bytes32
    reveal: Reveal


class ClaimPayload(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The sender's VRF proof and output for a seat in ``dynasty``."""

    dynasty: Natural
    attempt: Natural
    proof: Annotated[bytes, Meta(max_length=128)]
    output: Annotated[bytes, Meta(min_length=64, max_length=64)]


class SharingView(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A dynasty's members and the sum of the shares encrypted to each."""

    members: tuple[Bytes32, ...]
    encrypted: tuple[Bytes32, ...]


Payload = TypeVar("Payload", bound=Struct)


def encode_payload(payload: Struct) -> bytes:
    """Return the bytes that a transaction carries."""
    return msgspec.msgpack.encode(payload)


def decode_payload(data: bytes, kind: type[Payload]) -> Payload:
    """Decode a payload; InvalidTransaction unless ``data`` is its canonical encoding."""
    try:
        payload = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidTransaction(f"malformed payload: {error}") from None
    if msgspec.msgpack.encode(payload) != data:
        raise InvalidTransaction("the payload is not canonically encoded")
    return payload
