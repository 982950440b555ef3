"""What makes a block valid, but for the cryptography (protocol, section 4): each check raises ProtocolError."""

from __future__ import annotations

from collections.abc import Sequence

from microchain.consensus.admission import Refused, check_form
from microchain.consensus.branch import VOTE_WINDOW
from microchain.consensus.core import Core
from microchain.consensus.lottery import Candidate
from microchain.consensus.objects import Header, Transaction, Vote, decode_vote
from microchain.consensus.pending import Pending
from microchain.consensus.state import senders
from microchain.consensus.tree import Block
from microchain.consensus.types import Digest, NodeId, ProtocolError, TransactionKind

__all__ = ["Untimely", "check_header", "check_place", "check_size", "check_transactions", "check_votes"]

MAX_AHEAD = 1 << 20
MAX_VOTE_BYTES = 1024

Triple = tuple[bytes, bytes, bytes]


class Untimely(Exception):
    """A block that a node which is ahead or behind may send in good faith, and that is of no use here now."""


def check_header(core: Core, header: Header) -> None:
    """Check what needs no parent; of a later dynasty's block that is little, for its committee is not known yet."""
    body = header.body
    if body.chain_id != core.chain_id:
        raise ProtocolError("of another chain")
    if header.height > core.tree.root.height + MAX_AHEAD:
        raise ProtocolError(f"height {header.height} is absurd")
    if header.dynasty == core.dynasty:
        if body.committee_root != core.committee.root:
            raise ProtocolError("of another committee")
        if header.proposer not in core.committee.by_id:
            raise ProtocolError("the proposer is no member")
    elif not 0 < header.dynasty < core.dynasty + MAX_AHEAD:
        raise ProtocolError(f"dynasty {header.dynasty} is absurd")
    elif header.dynasty < core.dynasty or core.signing_key(header.proposer) is None:
        raise Untimely


def check_size(core: Core, ids: Sequence[Digest], raws: Sequence[bytes | None], votes: Sequence[bytes]) -> None:
    """Refuse what is too large before it is kept."""
    limit, most = core.parameters.max_block_bytes, VOTE_WINDOW * len(core.committee.members)
    most = max(most, 2 * core.parameters.epoch_blocks + 2 * len(core.head.chain.registry))
    if sum(len(raw) for raw in raws if raw) > limit:
        raise ProtocolError(f"the transactions have more than {limit} bytes")
    if len(set(ids)) != len(ids):
        raise ProtocolError("a transaction is in the block twice")
    if len(votes) > most or sum(map(len, votes)) > most * MAX_VOTE_BYTES:
        raise ProtocolError(f"more than {most} votes")


def check_place(core: Core, header: Header, parent: Block) -> Candidate:
    """Check height, dynasty and slot; return the proposer's candidacy on the parent."""
    if header.height != parent.height + 1:
        raise ProtocolError(f"height {header.height} after a parent of height {parent.height}")
    if header.dynasty != parent.chain.dynasty:
        raise ProtocolError(f"of dynasty {header.dynasty} after a parent of dynasty {parent.chain.dynasty}")
    if header.body.committee_root != core.committee.root:
        raise ProtocolError("of another committee")
    candidate = parent.lottery.winner(header.proposer, header.slot)
    if candidate is None:
        raise ProtocolError(f"slot {header.slot} is not its proposer's first winning slot")
    return candidate


def check_votes(core: Core, pending: Pending, parent: Block) -> tuple[Vote, ...]:
    """Return the contained votes; their signatures are still to be checked. A first block has a hand-over instead."""
    if core.boundary is not None and parent is core.tree.root:
        return ()
    votes = tuple(decode_vote(raw) for raw in pending.votes)
    parent.state.check_votes(votes, core.committee, core.chain_id, core.dynasty)
    return votes


def check_transactions(
    core: Core, pending: Pending, parent: Block
) -> tuple[tuple[int, ...], dict[int, Triple], tuple[Transaction, ...]]:
    """Return each transaction's valid_until, the signatures still to be checked by the transaction's position, and the
    transactions that are not of kind ``data``."""
    height, limit = pending.header.height, core.parameters.max_block_bytes
    if parent.closes is not None and pending.ids:
        raise ProtocolError("a closing block with transactions")
    if pending.body > limit:
        raise ProtocolError(f"the transactions have more than {limit} bytes")
    expiries: list[int] = []
    unverified: dict[int, Triple] = {}
    system: list[Transaction] = []
    keys = senders(parent.chain)
    for position, (id, raw) in enumerate(zip(pending.ids, pending.raws, strict=True)):
        assert raw is not None
        entry = core.pool.get(id)
        if entry is not None and (entry.raw is raw or entry.raw == raw):
            valid_until, special = entry.valid_until, entry.system
        else:
            transaction = _decode(core, raw)
            body = transaction.body
            key = keys.get(NodeId(body.sender))
            if key is None:
                raise ProtocolError("a transaction whose sender is not in the registry")
            valid_until, special = body.valid_until, transaction if body.kind != TransactionKind.DATA else None
            unverified[position] = key, transaction.id, transaction.signature
        if special is not None:
            system.append(special)
        if not height <= valid_until <= height + core.parameters.max_validity:
            raise ProtocolError(f"a transaction valid until {valid_until} in a block of height {height}")
        expiries.append(valid_until)
    _check_repeats(core, pending.ids, expiries, parent)
    return tuple(expiries), unverified, tuple(system)


def _decode(core: Core, raw: bytes) -> Transaction:
    try:
        return check_form(core, raw)
    except Refused as refused:
        raise ProtocolError(str(refused)) from None


def _check_repeats(core: Core, ids: Sequence[Digest], expiries: Sequence[int], parent: Block) -> None:
    branch = [block.id_set for block in core.tree.ancestors(parent) if block is not core.tree.root and block.id_set]
    for id, valid_until in zip(ids, expiries, strict=True):
        if core.replay.contains(id, valid_until) or any(id in earlier for earlier in branch):
            raise ProtocolError("a transaction is in the chain already")
