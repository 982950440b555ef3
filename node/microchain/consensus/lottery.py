"""Proof-of-Credit: who may propose after a block, and in which order (protocol, section 4; chapter, section 6.1)."""

from __future__ import annotations

import hashlib
from fractions import Fraction

from msgspec import Struct

from microchain.consensus.genesis import Committee, Member
from microchain.consensus.types import Digest, NodeId, Slot
from microchain.crypto.hashing import tag_prefix

__all__ = ["Candidate", "Lottery"]

_MAX_TICKET = 2**64 - 1
_PREFIX = tag_prefix("microchain/ticket")


class Candidate(Struct, frozen=True):
    """A member that may extend the parent in its first winning slot; ``rank`` orders the candidates and sets delays."""

    rank: int
    member: Member
    slot: Slot
    ticket: int


class Lottery:
    """The public lottery after one parent; candidates are drawn no further than somebody asks.

    Each slot costs one hash for each member that has not won yet, and drawing ends when all have won, so a header
    with an absurd slot costs no more than a whole draw.
    """

    def __init__(self, committee: Committee, beacon: bytes, seed: Digest, parent_slot: Slot, *, eager: bool) -> None:
        self._committee = committee
        self._base = hashlib.sha256(_PREFIX + beacon + seed)
        self._eager = eager
        self._slot = parent_slot
        self._waiting = list(committee.members)
        self._drawn: list[Candidate] = []

    def candidate(self, position: int) -> Candidate | None:
        """Return the candidate at a position of the order, or None past the last."""
        while len(self._drawn) <= position and self._waiting:
            self._draw()
        return self._drawn[position] if position < len(self._drawn) else None

    def winner(self, member: NodeId, slot: Slot) -> Candidate | None:
        """Return the candidate if ``slot`` is the member's first winning slot, else None."""
        while self._slot < slot and self._waiting:
            self._draw()
        return next((c for c in self._drawn if c.slot == slot and c.member.id == member), None)

    def of_member(self, member: NodeId, before: int) -> Candidate | None:
        """Return the member's candidacy if it stands among the first ``before`` positions, else None."""
        for position in range(before):
            candidate = self.candidate(position)
            if candidate is None or candidate.member.id == member:
                return candidate
        return None

    def _draw(self) -> None:
        self._slot = Slot(self._slot + 1)
        slot_bytes = self._slot.to_bytes(8, "big")
        winners: list[tuple[Fraction, NodeId, Member, int]] = []
        for member in self._waiting:
            ticket = self._ticket(member, slot_bytes)
            if ticket * self._committee.total <= _MAX_TICKET * member.weight:
                winners.append((Fraction(ticket, member.weight), member.id, member, ticket))
        if not winners:
            return
        # Eager proposals, as in the chapter: all winners of the first slot that anybody won are of rank 0.
        shared_rank = self._eager and not self._drawn
        for _, _, member, ticket in sorted(winners, key=lambda w: w[:2]):
            rank = 0 if shared_rank else len(self._drawn)
            self._drawn.append(Candidate(rank, member, self._slot, ticket))
            self._waiting.remove(member)

    def _ticket(self, member: Member, slot_bytes: bytes) -> int:
        state = self._base.copy()
        state.update(slot_bytes + member.id + member.weight.to_bytes(8, "big"))
        return int.from_bytes(state.digest()[-8:], "big")
