"""How objects look in the API: ids in hexadecimal, keys and signed objects in base64 (schemas in openapi.json)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from microchain.consensus.genesis import Committee, Genesis, RegistryEntry, node_id
from microchain.consensus.interface import BlockRecord
from microchain.consensus.objects import decode_header, decode_vote
from microchain.consensus.types import Digest, NodeId
from microchain.crypto.merkle import inclusion_proof

__all__ = [
    "BlockSummary",
    "BlockView",
    "CommitteeView",
    "InclusionProof",
    "MemberView",
    "Names",
    "TransactionView",
    "VoteView",
    "view_block",
    "view_committee",
    "view_included",
    "view_pooled",
    "view_summary",
]

Names = Mapping[NodeId, str]


class InclusionProof(msgspec.Struct, frozen=True):
    """RFC 9162 audit path from leaf ``index`` of ``size``, a transaction id, to the header's ``tx_root``."""

    index: int
    size: int
    path: list[str]


class TransactionView(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a transaction is. All but id and state are absent while it is pooled; certificate only when final."""

    id: str
    state: Literal["pooled", "included", "committed", "finalized"]
    height: int | None = None
    block: str | None = None
    index: int | None = None
    proof: InclusionProof | None = None
    header: bytes | None = None
    certificate: tuple[bytes, ...] | None = None


class NodeView(msgspec.Struct, frozen=True):
    """A node by id and, where the registry knows it, name."""

    id: str
    name: str | None


class BlockSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """A block in a list. ``size`` is the bytes of its transactions, ``timestamp`` the proposer's clock (ns)."""

    id: str
    height: int
    slot: int
    dynasty: int
    parent: str
    proposer: NodeView
    timestamp: int
    finalized: bool
    transaction_count: int
    vote_count: int
    size: int


class VoteView(msgspec.Struct, frozen=True):
    """A vote inside a block."""

    voter: NodeView
    source: str
    source_epoch: int
    target: str
    target_epoch: int


class BlockView(BlockSummary, frozen=True, omit_defaults=True, kw_only=True):
    """One block. ``header`` is the signed envelope; ``bodies`` the transactions' envelopes, when asked for."""

    tx_root: str
    votes_root: str
    state_root: str
    committee_root: str
    header: bytes
    transactions: list[str]
    votes: list[VoteView]
    bodies: tuple[bytes, ...] | None = None


class MemberView(msgspec.Struct, frozen=True):
    """One committee member."""

    id: str
    name: str
    weight: int
    signing_key: bytes
    vrf_key: bytes
    address: str


class CommitteeView(msgspec.Struct, frozen=True):
    """The committee, in order of id."""

    chain_id: str
    committee_root: str
    total_weight: int
    members: list[MemberView]


_encoder = msgspec.json.Encoder()


def view_pooled(id: Digest) -> TransactionView:
    """A transaction that is in no block of the head's branch yet."""
    return TransactionView(id.hex(), "pooled")


def view_included(
    id: Digest,
    state: Literal["pooled", "included", "committed", "finalized"],
    record: BlockRecord,
    certificate: tuple[bytes, ...] | None,
) -> bytes:
    """A transaction of block ``record`` with the proof that it is there, as JSON."""
    index = record.transaction_ids.index(id)
    path = [digest.hex() for digest in inclusion_proof(record.transaction_ids, index)]
    view = TransactionView(
        id=id.hex(),
        state=state,
        height=record.height,
        block=record.id.hex(),
        index=index,
        proof=InclusionProof(index, len(record.transaction_ids), path),
        header=record.header,
        certificate=certificate,
    )
    return _encoder.encode(view)


def view_summary(record: BlockRecord, finalized: bool, names: Names) -> BlockSummary:
    """A block in a list."""
    header = decode_header(record.header).body
    return BlockSummary(
        id=record.id.hex(),
        height=header.height,
        slot=header.slot,
        dynasty=header.dynasty,
        parent=header.parent.hex(),
        proposer=_view_node(NodeId(header.proposer), names),
        timestamp=header.timestamp,
        finalized=finalized,
        transaction_count=len(record.transactions),
        vote_count=len(record.votes),
        size=sum(map(len, record.transactions)),
    )


def view_block(record: BlockRecord, finalized: bool, names: Names, bodies: bool) -> bytes:
    """One block with its transaction ids and votes, as JSON."""
    header = decode_header(record.header).body
    view = BlockView(
        **msgspec.structs.asdict(view_summary(record, finalized, names)),
        tx_root=header.tx_root.hex(),
        votes_root=header.votes_root.hex(),
        state_root=header.state_root.hex(),
        committee_root=header.committee_root.hex(),
        header=record.header,
        transactions=[id.hex() for id in record.transaction_ids],
        votes=[_view_vote(raw, names) for raw in record.votes],
        bodies=record.transactions if bodies else None,
    )
    return _encoder.encode(view)


def view_committee(genesis: Genesis, committee: Committee) -> CommitteeView:
    """The fixed committee of a genesis document."""
    entries: dict[NodeId, RegistryEntry] = {node_id(entry.signing_key): entry for entry in genesis.registry}
    members = [
        MemberView(m.id.hex(), m.name, m.weight, m.signing_key, m.vrf_key, entries[m.id].address)
        for m in committee.members
    ]
    return CommitteeView(genesis.chain_id().hex(), committee.root.hex(), committee.total, members)


def _view_vote(raw: bytes, names: Names) -> VoteView:
    vote = decode_vote(raw).body
    voter = _view_node(NodeId(vote.voter), names)
    return VoteView(voter, vote.source.hex(), vote.source_epoch, vote.target.hex(), vote.target_epoch)


def _view_node(id: NodeId, names: Names) -> NodeView:
    return NodeView(id.hex(), names.get(id))
