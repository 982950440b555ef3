"""What nodes say to each other. Signed objects travel inside as the bytes that were signed."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from microchain.consensus.objects import Natural
from microchain.consensus.types import ProtocolError

__all__ = [
    "BlocksMissing",
    "CompactBlock",
    "FinalizedBlocks",
    "FullBlock",
    "GetBlocks",
    "GetFinalized",
    "GetHeaders",
    "GetTransactions",
    "Headers",
    "Message",
    "NewView",
    "Prepares",
    "ReplicaStatus",
    "Status",
    "TransactionIds",
    "Transactions",
    "ViewChange",
    "Votes",
    "decode_message",
    "encode_message",
    "phase_of",
]

MAX_IDS = 16384
MAX_OBJECT = 9 << 20

Id = Annotated[bytes, Meta(min_length=32, max_length=32)]
Ids = Annotated[tuple[Id, ...], Meta(max_length=MAX_IDS)]
Raw = Annotated[bytes, Meta(max_length=MAX_OBJECT)]
Raws = Annotated[tuple[Raw, ...], Meta(max_length=MAX_IDS)]


class _Message(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    pass


class Transactions(_Message, tag=1, frozen=True):
    """Whole transactions: pushed by the entry node, or the answer to GetTransactions."""

    transactions: Raws


class TransactionIds(_Message, tag=2, frozen=True):
    """Announces transactions that the sender can supply."""

    ids: Ids


class GetTransactions(_Message, tag=3, frozen=True):
    ids: Ids


class CompactBlock(_Message, tag=4, frozen=True):
    """A block by its header, transaction ids and votes; the receiver fetches the transactions it lacks."""

    header: Raw
    transaction_ids: Ids
    votes: Raws


class FullBlock(_Message, tag=5, frozen=True):
    """A block with its transactions."""

    header: Raw
    transactions: Raws
    votes: Raws


class Votes(_Message, tag=6, frozen=True):
    votes: Raws


class Status(_Message, tag=7, frozen=True):
    """Anti-entropy: what the sender has; ``vote`` is its own last vote, empty if none."""

    head: Id
    head_height: Natural
    justified: Id
    justified_height: Natural
    finalized: Id
    finalized_height: Natural
    vote: Raw


class GetHeaders(_Message, tag=8, frozen=True):
    """Asks for the headers that lead from what the asker has finalized up to ``tip``, oldest first, at most 64."""

    tip: Id
    finalized: Id


class Headers(_Message, tag=9, frozen=True):
    headers: Annotated[tuple[Raw, ...], Meta(max_length=64)]


class GetBlocks(_Message, tag=10, frozen=True):
    ids: Annotated[tuple[Id, ...], Meta(max_length=64)]


class BlocksMissing(_Message, tag=11, frozen=True):
    """The answer for those of GetBlocks or GetHeaders that the sender does not have (any more)."""

    ids: Annotated[tuple[Id, ...], Meta(max_length=64)]


class GetFinalized(_Message, tag=12, frozen=True):
    """Asks for finalized blocks from a height on."""

    from_height: Natural


class FinalizedBlocks(_Message, tag=13, frozen=True):
    """Consecutive finalized blocks, oldest first; ``certificate`` (votes) finalizes a later checkpoint, or is empty."""

    blocks: Annotated[tuple[FullBlock, ...], Meta(max_length=1024)]
    certificate: Annotated[tuple[Raw, ...], Meta(max_length=1024)]


class Prepares(_Message, tag=32, frozen=True):
    """PBFT: prepares; commits travel as Votes, and a pre-prepare as the block itself."""

    prepares: Raws


class ViewChange(_Message, tag=33, frozen=True):
    """PBFT: a member asks for a new view."""

    view_change: Raw


class NewView(_Message, tag=34, frozen=True):
    """PBFT: a new primary's proof that its view has begun."""

    new_view: Raw


class ReplicaStatus(_Message, tag=35, frozen=True):
    """PBFT, anti-entropy: the view (``active``: begun), what is final, and the greatest height committed."""

    view: Natural
    active: bool
    finalized: Id
    finalized_height: Natural
    committed: Natural


Message = (
    Transactions
    | TransactionIds
    | GetTransactions
    | CompactBlock
    | FullBlock
    | Votes
    | Status
    | GetHeaders
    | Headers
    | GetBlocks
    | BlocksMissing
    | GetFinalized
    | FinalizedBlocks
    | Prepares
    | ViewChange
    | NewView
    | ReplicaStatus
)

_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_encoder = msgspec.msgpack.Encoder()

_PHASES: dict[type, str] = {
    Transactions: "transactions",
    TransactionIds: "transactions",
    GetTransactions: "transactions",
    CompactBlock: "proposal",
    FullBlock: "proposal",
    Votes: "voting",
    Prepares: "voting",
    ViewChange: "voting",
    NewView: "voting",
    Status: "anti-entropy",
    ReplicaStatus: "anti-entropy",
}


def encode_message(message: Message) -> bytes:
    """Return the wire form of a message."""
    return _encoder.encode(message)


def decode_message(data: bytes) -> Message:
    """Decode a peer's message; ProtocolError says why not."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"malformed message: {error}") from None


def phase_of(message: Message) -> str:
    """The phase a message is counted under: transactions, proposal, voting, anti-entropy or sync."""
    return _PHASES.get(type(message), "sync")
