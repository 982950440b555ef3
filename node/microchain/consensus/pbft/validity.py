"""What makes a block valid, but for the cryptography: each check raises ProtocolError."""

from __future__ import annotations

from collections.abc import Sequence

from microchain.consensus.admission import Refused, check_transaction
from microchain.consensus.objects import VERSION, Header, HeaderBody, decode_vote
from microchain.consensus.pbft.certificates import Signed, check_commits, primary_of
from microchain.consensus.pbft.core import ReplicaCore
from microchain.consensus.types import Digest, Height, NodeId, ProtocolError
from microchain.crypto.hashing import tagged_hash

__all__ = ["build_header", "check_header", "check_parent_commits", "check_transactions"]

DYNASTY = 1
EMPTY_STATE_ROOT = tagged_hash("microchain/state")

Triple = tuple[bytes, bytes, bytes]


def build_header(core: ReplicaCore, tx_root: bytes, votes_root: bytes) -> HeaderBody:
    """Return the header of this node's block on the tip, in the current view."""
    return HeaderBody(
        VERSION,
        core.chain_id,
        core.next_height,
        core.view,
        core.tip.id,
        DYNASTY,
        tx_root,
        votes_root,
        EMPTY_STATE_ROOT,
        core.committee.root,
        core.identity,
        b"",
        core.now,
    )


def check_header(core: ReplicaCore, header: Header) -> None:
    """Check what needs no parent."""
    body = header.body
    if body.chain_id != core.chain_id:
        raise ProtocolError("of another chain")
    if (body.dynasty, body.committee_root, body.state_root) != (DYNASTY, core.committee.root, EMPTY_STATE_ROOT):
        raise ProtocolError("of another dynasty, committee or state")
    if header.proposer != primary_of(core.committee, header.slot):
        raise ProtocolError(f"not by the primary of view {header.slot}")
    if body.seed_proof or not header.height:
        raise ProtocolError("a seed proof, or height 0")


def check_parent_commits(
    core: ReplicaCore, parent: Digest, height: Height, votes: Sequence[bytes]
) -> tuple[Signed, ...]:
    """Return the signatures of the commits for the parent that a block at ``height`` must contain."""
    if height == 1:
        if votes:
            raise ProtocolError("commits for genesis")
        return ()
    signed = check_commits(core.committee, core.chain_id, votes, parent, Height(height - 1))
    if decode_vote(votes[0]).target != parent:
        raise ProtocolError("commits for another block than the parent")
    return signed


def check_transactions(
    core: ReplicaCore, height: Height, ids: Sequence[Digest], raws: Sequence[bytes]
) -> tuple[tuple[int, ...], dict[int, Triple]]:
    """Return each transaction's valid_until, and the signatures still to be checked by the transaction's position."""
    if len(set(ids)) != len(ids):
        raise ProtocolError("a transaction is in the block twice")
    if sum(map(len, raws)) > core.parameters.max_block_bytes:
        raise ProtocolError(f"the transactions have more than {core.parameters.max_block_bytes} bytes")
    expiries: list[int] = []
    unverified: dict[int, Triple] = {}
    for position, (id, raw) in enumerate(zip(ids, raws, strict=True)):
        entry = core.pool.get(id)
        if entry is not None and entry.raw == raw:
            valid_until = entry.valid_until
        else:
            valid_until, unverified[position] = decode(core, id, raw)
        if not height <= valid_until <= height + core.parameters.max_validity:
            raise ProtocolError(f"a transaction valid until {valid_until} in a block of height {height}")
        if core.replay.contains(id, valid_until):
            raise ProtocolError("a transaction is in the chain already")
        expiries.append(valid_until)
    return tuple(expiries), unverified


def decode(core: ReplicaCore, id: Digest, raw: bytes) -> tuple[int, Triple]:
    """Return (valid_until, what its signature is checked by)."""
    try:
        transaction = check_transaction(core, raw)
    except Refused as refused:
        raise ProtocolError(str(refused)) from None
    if transaction.id != id:
        raise ProtocolError("a transaction that is not the one of its id")
    key = core.senders[NodeId(transaction.body.sender)]
    return transaction.body.valid_until, (key, transaction.id, transaction.signature)
