"""A node's durable storage under simulation: what a completed write means, and what a crash leaves of it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from microchain.consensus.handover import list_votes
from microchain.consensus.interface import (
    BlockRecord,
    DiscardRecord,
    EvidenceRecord,
    FinalizedRecord,
    JournalRecord,
    Record,
    Restored,
    VoteRecord,
)
from microchain.consensus.objects import decode_transaction, decode_vote
from microchain.consensus.types import Digest, Height

__all__ = ["MemoryStore", "Store"]


class Store(Protocol):
    """What the simulator asks of a node's storage; the real ledger behind an adapter has the same meaning."""

    def write(self, records: Sequence[Record], *, durable: bool) -> None:
        """Apply one transaction."""
        ...

    def restore(self) -> Restored:
        """Return what a restarting node finds."""
        ...

    def blocks_from(self, height: Height, max_bytes: int) -> list[BlockRecord]:
        """Return consecutive finalized blocks, at least one if there is one."""
        ...

    def certificate_for(self, height: Height) -> tuple[bytes, ...] | None:
        """Return votes that prove the finality of the block at ``height`` or of a later checkpoint."""
        ...

    def lose_power(self, rng: random.Random) -> None:
        """Lose some of what was written after the last durable transaction."""
        ...


class MemoryStore:
    """The ledger's meaning in dictionaries, with a log of transactions so that power loss can cut its tail."""

    def __init__(self) -> None:
        self._log: list[tuple[Record, ...]] = []
        self._durable = 0
        self._clear()

    def _clear(self) -> None:
        self.blocks: dict[Digest, BlockRecord] = {}
        self.votes: dict[Digest, VoteRecord] = {}
        self.finalized: list[Digest] = []
        """Ids of the finalized blocks from height 1 on."""
        self.certificates: dict[int, tuple[bytes, ...]] = {}
        """The votes that finalized the checkpoint at a height."""
        self.evidence: list[EvidenceRecord] = []
        self.own_vote: VoteRecord | None = None
        self.journal: dict[str, bytes] = {}
        self._unfinalized: set[Digest] = set()
        self._stored_by: dict[Digest, int] = {}
        self._journalled_by: dict[str, int] = {}

    @property
    def finalized_height(self) -> Height:
        return Height(len(self.finalized))

    def write(self, records: Sequence[Record], *, durable: bool) -> None:
        batch = tuple(records)
        self._log.append(batch)
        if durable:
            self._durable = len(self._log)
        self._apply(len(self._log), batch)

    def lose_power(self, rng: random.Random) -> None:
        kept = rng.randint(self._durable, len(self._log))
        if kept == len(self._log):
            return
        del self._log[kept:]
        self._clear()
        for number, batch in enumerate(self._log, start=1):
            self._apply(number, batch)

    def is_durable(self, id: Digest) -> bool:
        """Whether a block or vote is stored and would survive a loss of power."""
        return self._stored_by.get(id, self._durable + 1) <= self._durable

    def durable_journal(self, key: str) -> bytes | None:
        """What is in the journal if it would survive a loss of power, else None."""
        return self.journal.get(key) if self._journalled_by.get(key, self._durable + 1) <= self._durable else None

    def _apply(self, number: int, batch: tuple[Record, ...]) -> None:
        for record in batch:
            match record:
                case BlockRecord():
                    self._stored_by.setdefault(record.id, number)
                    stored = self.blocks.get(record.id)
                    if stored is None:
                        self._unfinalized.add(record.id)
                    if stored is None or (record.own and not stored.own):
                        self.blocks[record.id] = record
                case VoteRecord():
                    self._stored_by.setdefault(record.id, number)
                    if record.own or record.id not in self.votes:
                        self.votes[record.id] = record
                    if record.own and (self.own_vote is None or _order(record) >= _order(self.own_vote)):
                        self.own_vote = record
                case FinalizedRecord():
                    self._finalize(record)
                case DiscardRecord():
                    self._discard(record.blocks)
                case EvidenceRecord():
                    self.evidence.append(record)
                case JournalRecord():
                    self.journal[record.key] = record.value
                    self._journalled_by[record.key] = number

    def _finalize(self, record: FinalizedRecord) -> None:
        for id in record.blocks:
            if id not in self._unfinalized and id in self.blocks:
                continue
            block = self.blocks[id]
            tip = self.finalized[-1] if self.finalized else block.parent
            if (block.height, block.parent) != (self.finalized_height + 1, tip):
                raise ValueError(f"block {id.hex()[:16]} at height {block.height} does not follow {tip.hex()[:16]}")
            self.finalized.append(id)
            self._unfinalized.discard(id)
        self.certificates[self.finalized_height] = record.certificate
        self._discard([id for id in self._unfinalized if self.blocks[id].height <= self.finalized_height])
        epoch = _get_epoch(record)
        self.votes = {
            id: vote for id, vote in self.votes.items() if vote.target_epoch >= epoch or vote is self.own_vote
        }

    def _discard(self, ids: Iterable[Digest]) -> None:
        for id in ids:
            if id in self._unfinalized:
                self._unfinalized.discard(id)
                del self.blocks[id]
                del self._stored_by[id]
                self.votes = {key: vote for key, vote in self.votes.items() if vote.target != id or vote.own}
            elif id in self.blocks:
                raise ValueError(f"block {id.hex()[:16]} cannot be discarded: it is final")

    def restore(self) -> Restored:
        height = self.finalized_height
        last = self.blocks[self.finalized[-1]] if self.finalized else None
        return Restored(
            finalized=last.header if last else b"",
            state=last.state if last else b"",
            certificate=self.certificates.get(height, ()),
            recent=tuple(self._unexpired()),
            blocks=tuple(sorted((self.blocks[id] for id in self._unfinalized), key=lambda b: b.height)),
            votes=tuple(sorted(self.votes.values(), key=lambda v: (v.target_epoch, v.id))),
            own_votes=(self.own_vote,) if self.own_vote else (),
            base=last.base if last else b"",
            journal=dict(self.journal),
            evidence=tuple(self.evidence),
        )

    def _unexpired(self) -> Iterator[tuple[Digest, int]]:
        for block in map(self.blocks.__getitem__, self.finalized):
            for id, raw in zip(block.transaction_ids, block.transactions, strict=True):
                valid_until = decode_transaction(raw).body.valid_until
                if valid_until >= self.finalized_height:
                    yield id, valid_until

    def blocks_from(self, height: Height, max_bytes: int) -> list[BlockRecord]:
        found: list[BlockRecord] = []
        size = 0
        for id in self.finalized[max(height, 1) - 1 :]:
            block = self.blocks[id]
            size += len(block.header) + sum(map(len, block.transactions)) + sum(map(len, block.votes))
            if found and size > max_bytes:
                break
            found.append(block)
        return found

    def certificate_for(self, height: Height) -> tuple[bytes, ...] | None:
        return next((votes for at, votes in sorted(self.certificates.items()) if at >= height), None)


def _order(record: VoteRecord) -> tuple[int, int]:
    return decode_vote(record.raw).body.dynasty, record.target_epoch


def _get_epoch(record: FinalizedRecord) -> int:
    """Return the finalized checkpoint's epoch: its certificate has votes from it or, in the two-step form, for it."""
    for vote in list_votes(record.certificate):
        if vote.source == record.checkpoint:
            return vote.source_epoch
        if vote.target == record.checkpoint:
            return vote.target_epoch
    return 0
