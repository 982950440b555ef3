"""Verified votes, bounded: two for each voter and epoch near the finalized one, each voter's newest beyond."""

from __future__ import annotations

from microchain.consensus.branch import VOTE_WINDOW
from microchain.consensus.genesis import Committee
from microchain.consensus.interface import EvidenceRecord
from microchain.consensus.objects import Vote
from microchain.consensus.types import Digest, Dynasty, Epoch, NodeId

__all__ = ["VoteBook"]


class VoteBook:
    """One dynasty's votes by target and by voter. Only votes whose signature was checked come in."""

    def __init__(self, committee: Committee, dynasty: Dynasty) -> None:
        self._dynasty = dynasty
        self._by_voter: dict[NodeId, dict[int, list[Vote]]] = {member.id: {} for member in committee.members}
        self._by_target: dict[Digest, dict[Digest, Vote]] = {}
        self._raw: dict[Digest, bytes] = {}
        self._floor = 0

    def knows(self, vote: Vote) -> bool:
        """Whether exactly these bytes were verified before."""
        return self._raw.get(vote.id) == vote.raw

    def for_target(self, target: Digest) -> dict[Digest, Vote]:
        """Return the votes for a checkpoint, by id: a liar's wrong source must not hide its right one."""
        return self._by_target.get(target, {})

    def targets(self) -> dict[Digest, dict[Digest, Vote]]:
        """Return all votes by target and id."""
        return self._by_target

    def newest_of(self, voter: NodeId) -> Vote | None:
        """Return a vote of the highest epoch that a voter voted for."""
        slots = self._by_voter.get(voter) or {}
        newest = max((epoch for epoch, votes in slots.items() if votes), default=None)
        return slots[newest][0] if newest is not None else None

    def add(self, vote: Vote, *, contained: bool = False) -> tuple[bool, EvidenceRecord | None]:
        """Take a verified vote; return (whether it is kept and new, evidence of an offence if there is one).

        A vote ``contained`` in a block of the tree counts for all who have the block, so it is kept beyond the bounds.
        """
        if vote.body.dynasty != self._dynasty:
            return False, None
        epoch, slots = int(vote.target_epoch), self._by_voter[vote.voter]
        if vote.id in self._raw or epoch <= self._floor:
            return False, None
        evidence = self._offence(vote)
        same = slots.setdefault(epoch, [])
        if len(same) >= 2 and not contained:
            return False, evidence
        if epoch > self._floor + VOTE_WINDOW and not contained:
            beyond = [e for e in slots if e > self._floor + VOTE_WINDOW and slots[e]]
            if beyond and max(beyond) > epoch:
                if not same:
                    del slots[epoch]
                return False, evidence
            for older in beyond:
                if older < epoch:
                    self._forget(vote.voter, older)
        same.append(vote)
        self._raw[vote.id] = vote.raw
        self._by_target.setdefault(vote.target, {})[vote.id] = vote
        return True, evidence

    def prune(self, floor: Epoch) -> None:
        """Forget the votes for checkpoints of epochs up to ``floor``."""
        if floor <= self._floor:
            return
        self._floor = floor
        for voter, slots in self._by_voter.items():
            for epoch in [e for e in slots if e <= floor]:
                self._forget(voter, epoch)

    def _forget(self, voter: NodeId, epoch: int) -> None:
        for vote in self._by_voter[voter].pop(epoch):
            self._raw.pop(vote.id, None)
            votes = self._by_target.get(vote.target)
            if votes is not None:
                votes.pop(vote.id, None)
                if not votes:
                    del self._by_target[vote.target]

    def _offence(self, vote: Vote) -> EvidenceRecord | None:
        body = vote.body
        for votes in self._by_voter[vote.voter].values():
            for other in votes:
                old = other.body
                if old.target_epoch == body.target_epoch:
                    return EvidenceRecord("double-vote", vote.voter, other.raw, vote.raw)
                inner, outer = (old, body) if old.target_epoch < body.target_epoch else (body, old)
                if outer.source_epoch < inner.source_epoch:
                    return EvidenceRecord("surround-vote", vote.voter, other.raw, vote.raw)
        return None
