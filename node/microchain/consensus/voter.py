"""This node's own votes: at most one for each epoch, never one that breaks FFG's rules, durable before sent."""

from __future__ import annotations

from microchain.consensus.core import Core
from microchain.consensus.finality import Finality
from microchain.consensus.interface import (
    Broadcast,
    JobResult,
    JournalRecord,
    Record,
    Restored,
    Sign,
    VoteRecord,
    VoteTrace,
)
from microchain.consensus.messages import Votes
from microchain.consensus.objects import VERSION, VOTE_TAG, Vote, VoteBody, decode_vote, encode_body, seal
from microchain.consensus.tree import Block
from microchain.consensus.types import Dynasty
from microchain.crypto.hashing import tagged_hash

__all__ = ["Voter"]

FIRST_DYNASTY = "first dynasty"
"""The journal's key for the first dynasty of which it holds all own votes, 8 bytes."""
JOINED = "joined in dynasty"
"""The journal's key for the dynasty in which this node came to a chain older than its journal, 8 bytes."""
PATIENCE = 16
"""Epochs without finality after which a dynasty that waits for its observers gets their votes."""


class Voter:
    """Two counters imply both slashing rules: the last target's epoch only grows, the last source's never falls."""

    def __init__(self, core: Core, finality: Finality, restored: Restored | None) -> None:
        self._core = core
        self._finality = finality
        self._last_target = 0
        self._last_source = 0
        self._journalled = 0
        self.last_vote = b""
        journal = restored.journal if restored else {}
        self._first = Dynasty(int.from_bytes(journal.get(FIRST_DYNASTY, b"")))
        """The first dynasty of which the journal holds all own votes; 0: not known."""
        self._joined = int.from_bytes(journal.get(JOINED, b""))
        self._lost = False
        core.on_own_vote = self._heard_of_own
        for record in restored.own_votes if restored else ():
            dynasty = decode_vote(record.raw).body.dynasty
            self._first = self._first or Dynasty(dynasty)
            if dynasty == core.dynasty:
                self.last_vote = record.raw
                self._last_target, self._last_source = int(record.target_epoch), int(record.source_epoch)

    @property
    def observing(self) -> bool:
        """Whether this node may have voted in this dynasty and does not know: it only looks on until the next one."""
        core = self._core
        if self._lost or (self.is_new and core.doubts):
            return True
        if self._first > core.dynasty:
            return not self._is_awaited()
        return self.is_new and core.tree.root.height > 0

    def _is_awaited(self) -> bool:
        """Whether the dynasty after the one in which this node joined comes to no decision: too many only look on.

        In that dynasty it can have voted before only while nobody that it heard of at first was there, so hardly.
        """
        core = self._core
        is_later = 0 < self._joined < core.dynasty
        return is_later and core.boundary is not None and core.head.epoch >= core.tree.root.epoch + PATIENCE

    def _heard_of_own(self, vote: Vote) -> None:
        """A vote in this node's name that its journal does not hold: the journal was lost, or is an old copy."""
        if vote.target_epoch > self._last_target:
            self._lost = True

    def begin_dynasty(self) -> None:
        """Nothing that was voted before binds in the new dynasty."""
        self._last_target = self._last_source = self._journalled = 0
        self.last_vote = b""
        self._lost = False

    def observe(self, dynasties: int) -> None:
        """This node has caught up with a chain that is older than its journal: it takes part so many dynasties later.

        On a lost ledger it may have been one dynasty ahead of those whose word it has now, if these had voted for its
        closing blocks: one node can see first that the last block is final. It can't have been two ahead, for that
        takes the votes of more than two thirds in the next. That something is final here proves the chain's age; a
        peer's word would let one liar make observers of all.
        """
        core = self._core
        if self.is_new and core.tree.root.height:
            self._joined = core.dynasty
            core.persist((JournalRecord(JOINED, core.dynasty.to_bytes(8)),), durable=False)
            self._begin_journal(Dynasty(core.dynasty + dynasties))

    def begin(self) -> None:
        """Nothing was final, as members of more than two thirds of the weight said, and none showed a vote of this
        node's: its journal is whole from the first vote on."""
        if self.is_new and not self.observing:
            self._begin_journal(self._core.dynasty)

    def _begin_journal(self, first: Dynasty) -> None:
        self._first = first
        self._core.persist((JournalRecord(FIRST_DYNASTY, first.to_bytes(8)),), durable=True)

    @property
    def is_new(self) -> bool:
        """Whether nothing is known of this node's journal: it never voted here, however old its ledger is.

        A ledger that is there but empty proves nothing: a wiped node may have crashed again right after it restarted.
        """
        return not self._first

    def consider(self) -> None:
        """Vote for the highest checkpoint of the head's branch, if that is allowed."""
        core = self._core
        if core.me is None or self.observing:
            return
        target = next(block for block in core.tree.ancestors(core.head) if block.checkpoint or block is core.tree.root)
        if target is core.tree.root:
            return
        entry = target.state.open[target.id]
        if entry.epoch <= self._last_target or entry.source_epoch < self._last_source:
            return
        if self.is_new or self._first > core.dynasty:
            self._begin_journal(core.dynasty)
        self._last_target, self._last_source = entry.epoch, entry.source_epoch
        dynasty = core.dynasty
        body = VoteBody(
            VERSION,
            core.chain_id,
            dynasty,
            entry.source,
            entry.source_epoch,
            target.id,
            entry.epoch,
            core.identity,
        )
        signed = encode_body(body)
        id = tagged_hash(VOTE_TAG, signed)

        def done(results: tuple[JobResult, ...]) -> None:
            (signature,) = results
            assert isinstance(signature, bytes)
            # Signatures may come in any order, the journal only goes forward: a vote that was overtaken is dropped.
            if entry.epoch <= self._journalled or core.dynasty != dynasty:
                return
            self._journalled = entry.epoch
            self._journal(decode_vote(seal(signed, signature)), target)

        core.work((Sign(id),), done)

    def _journal(self, vote: Vote, target: Block) -> None:
        """Store the vote together with its target's unfinalized branch: without it a power loss could lock everybody
        on a block that exists nowhere. The votes that justify the source are inside those blocks."""
        core = self._core
        records: list[Record] = list(core.take_unstored(target))
        records.append(VoteRecord(vote.id, vote.raw, True, vote.source_epoch, vote.target, vote.target_epoch))

        def stored() -> None:
            if vote.body.dynasty != core.dynasty:
                return
            self.last_vote = vote.raw
            core.emit(VoteTrace("sent", vote.voter, vote.target, vote.target_epoch, vote.source_epoch))
            core.emit(Broadcast(Votes((vote.raw,))))
            self._finality.accept(vote)

        core.persist(tuple(records), durable=True, then=stored)
