"""The first record on a link, in both directions: which chain, which node, which version."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from microchain.consensus.types import Digest, NodeId

__all__ = ["VERSION", "CloseReason", "Hello", "LinkError", "check_hello", "encode_hello"]

VERSION = 1
_Id = Annotated[bytes, Meta(min_length=32, max_length=32)]


class CloseReason(Enum):
    """Why a node closes a link; the value is the WebSocket close code."""

    STOPPING = 1001
    OVERSIZED_FRAME = 1009
    BAD_FRAME = 4000
    BAD_MESSAGE = 4001
    BAD_HELLO = 4002
    WRONG_VERSION = 4003
    WRONG_CHAIN = 4004
    WRONG_IDENTITY = 4005
    UNKNOWN_CERTIFICATE = 4006
    WRONG_DIRECTION = 4007
    REPLACED = 4008
    REFUSED = 4009
    MISBEHAVIOUR = 4010
    SILENT = 4011
    QUEUE_FULL = 4012
    HANDSHAKE_TIMEOUT = 4013

    @property
    def label(self) -> str:
        """The name that logs and counters use."""
        return self.name.lower().replace("_", "-")

    @property
    def is_offence(self) -> bool:
        """Whether no honest peer gives this reason, so that the peer is refused for a while."""
        return self in _OFFENCES


_OFFENCES = frozenset(
    {
        CloseReason.OVERSIZED_FRAME,
        CloseReason.BAD_FRAME,
        CloseReason.BAD_MESSAGE,
        CloseReason.BAD_HELLO,
        CloseReason.WRONG_IDENTITY,
        CloseReason.WRONG_DIRECTION,
        CloseReason.MISBEHAVIOUR,
    }
)


class LinkError(ConnectionError):
    """A link that this node ends, with the reason that the peer is told."""

    def __init__(self, reason: CloseReason, detail: str) -> None:
        super().__init__(f"{reason.label}: {detail}")
        self.reason = reason
        self.detail = detail


class Hello(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Who speaks, about which chain."""

    version: int
    chain_id: _Id
    node: _Id


_decoder = msgspec.msgpack.Decoder(Hello)


def encode_hello(chain_id: Digest, node: NodeId) -> bytes:
    """Return this node's hello."""
    return msgspec.msgpack.encode(Hello(VERSION, chain_id, node))


def check_hello(payload: bytes, chain_id: Digest, expected: NodeId) -> None:
    """Check a peer's hello against the node that its certificate belongs to; LinkError says what differs."""
    try:
        hello = _decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise LinkError(CloseReason.BAD_HELLO, str(error)) from None
    if hello.version != VERSION:
        raise LinkError(CloseReason.WRONG_VERSION, f"the peer speaks version {hello.version}, this node {VERSION}")
    if hello.chain_id != chain_id:
        raise LinkError(CloseReason.WRONG_CHAIN, f"the peer is on chain {hello.chain_id.hex()[:16]}")
    if hello.node != expected:
        raise LinkError(
            CloseReason.WRONG_IDENTITY,
            f"the peer claims to be {hello.node.hex()[:16]}, its certificate is {expected.hex()[:16]}'s",
        )
