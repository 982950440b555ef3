"""What proves what: certificates as pure functions of bytes and committee, and the signatures still to be checked."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from microchain.consensus.genesis import Committee
from microchain.consensus.objects import Vote, decode_vote
from microchain.consensus.pbft.statements import (
    NewViewBody,
    PrepareBody,
    Prepared,
    Statement,
    ViewChangeBody,
    decode_prepare,
    decode_view_change,
)
from microchain.consensus.types import Digest, Height, NodeId, ProtocolError

__all__ = [
    "Choice",
    "Signed",
    "check_commits",
    "check_new_view",
    "check_prepared",
    "check_view_change",
    "primary_of",
    "weak_quorum",
]


class Signed(Struct, frozen=True):
    """A signature to be checked: ``signer``'s over ``id``."""

    signer: NodeId
    id: Digest
    signature: bytes


class Choice(Struct, frozen=True):
    """What a new view must decide first at ``height``: ``block``, or any if that is None."""

    height: Height
    block: Digest | None


def primary_of(committee: Committee, view: int) -> NodeId:
    """Return the primary of a view: the members take turns."""
    return committee.members[view % len(committee.members)].id


def weak_quorum(committee: Committee) -> int:
    """f + 1: so many members that one of them is honest."""
    return (len(committee.members) - 1) // 3 + 1


def check_commits(
    committee: Committee, chain_id: Digest, raws: Sequence[bytes], block: Digest, height: Height
) -> tuple[Signed, ...]:
    """Return the signatures of commits that prove ``block`` at ``height`` final; ProtocolError if they don't.

    They are a quorum's for one block in one view: this block, or one whose parent it is.
    """
    votes = [decode_vote(raw) for raw in raws]
    if not votes:
        raise ProtocolError("a certificate without commits")
    first = votes[0].body
    link = (first.dynasty, first.source, first.source_epoch, first.target, first.target_epoch)
    for vote in votes:
        body = vote.body
        if (body.dynasty, body.source, body.source_epoch, body.target, body.target_epoch) != link:
            raise ProtocolError("a certificate of commits for different blocks or views")
        if body.chain_id != chain_id:
            raise ProtocolError("a commit of another chain")
    if first.source_epoch + 1 != first.target_epoch:
        raise ProtocolError("a commit that skips heights")
    if (block, height) not in ((first.target, first.target_epoch), (first.source, first.source_epoch)):
        raise ProtocolError(f"commits for another block than {block.hex()[:16]} at height {height}")
    _check_quorum(committee, [vote.voter for vote in votes])
    return tuple(map(_signed_vote, votes))


def check_prepared(
    committee: Committee, chain_id: Digest, prepared: Prepared, height: Height, below: int
) -> tuple[Signed, ...]:
    """Return the signatures of a prepared certificate at ``height`` in a view below ``below``; ProtocolError if not."""
    if prepared.view >= below:
        raise ProtocolError(f"prepared in view {prepared.view}, asking for view {below}")
    statements = [decode_prepare(raw) for raw in prepared.prepares]
    expected = (chain_id, prepared.view, height, prepared.block)
    for statement in statements:
        body = statement.body
        if (body.chain_id, body.view, body.height, body.block) != expected:
            raise ProtocolError("a prepared certificate of prepares for another block, view or height")
    _check_quorum(committee, [statement.replica for statement in statements])
    return tuple(map(_signed, statements))


def check_view_change(
    committee: Committee, chain_id: Digest, statement: Statement[ViewChangeBody]
) -> tuple[Signed, ...]:
    """Return all signatures in a view change, its own first; ProtocolError if it proves not what it says."""
    body = statement.body
    if body.chain_id != chain_id or statement.replica not in committee.by_id or not body.view:
        raise ProtocolError("a view change of another chain, by no member, or to view 0")
    signed = [_signed(statement)]
    if body.height:
        signed += check_commits(committee, chain_id, body.commits, Digest(body.finalized), Height(body.height))
    elif body.finalized != chain_id or body.commits:
        raise ProtocolError("a view change that starts from no genesis")
    if body.prepared is not None:
        signed += check_prepared(committee, chain_id, body.prepared, Height(body.height + 1), body.view)
    return tuple(signed)


def check_new_view(
    committee: Committee, chain_id: Digest, statement: Statement[NewViewBody]
) -> tuple[tuple[Signed, ...], Choice]:
    """Return all signatures in a new view, its own first, and what the view begins with; ProtocolError if it is wrong.

    It begins above the greatest proven height, with the block prepared there in the greatest view, if there is one: a
    block that is final on any honest replica was prepared by a quorum, so each quorum of view changes names it.
    """
    body = statement.body
    if body.chain_id != chain_id or statement.replica != primary_of(committee, body.view):
        raise ProtocolError(f"a new view {body.view} of another chain or not by its primary")
    signed = {_signed(statement): None}
    changes = [decode_view_change(raw) for raw in body.view_changes]
    for change in changes:
        if change.body.view != body.view:
            raise ProtocolError(f"a view change for view {change.body.view} in new view {body.view}")
        signed.update(dict.fromkeys(check_view_change(committee, chain_id, change)))
    _check_quorum(committee, [change.replica for change in changes])
    return tuple(signed), choose([change.body for change in changes])


def choose(changes: Sequence[ViewChangeBody]) -> Choice:
    """Return what a view begins with, given valid view changes of a quorum."""
    height = max(change.height for change in changes)
    prepared = [c.prepared for c in changes if c.height == height and c.prepared is not None]
    best = max(prepared, key=lambda p: (p.view, p.block), default=None)
    return Choice(Height(height + 1), Digest(best.block) if best is not None else None)


def _signed(statement: Statement[PrepareBody] | Statement[ViewChangeBody] | Statement[NewViewBody]) -> Signed:
    return Signed(statement.replica, statement.id, statement.signature)


def _signed_vote(vote: Vote) -> Signed:
    return Signed(vote.voter, vote.id, vote.signature)


def _check_quorum(committee: Committee, signers: Sequence[NodeId]) -> None:
    if len(set(signers)) != len(signers) or any(signer not in committee.by_id for signer in signers):
        raise ProtocolError("a certificate with a signer twice or that is no member")
    if not committee.is_supermajority(sum(1 << committee.by_id[signer].index for signer in signers)):
        raise ProtocolError(f"a certificate of {len(signers)} of {len(committee.members)} members is no quorum")
