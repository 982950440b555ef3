"""Transactions that are admitted and not final: waiting, or in a block of the head's branch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from microchain.consensus.messages import MAX_IDS
from microchain.consensus.objects import Transaction
from microchain.consensus.types import Digest, Height

__all__ = ["Pool", "PoolEntry"]


class PoolEntry(Struct, frozen=True):
    """One verified transaction. ``local``: this node acknowledged it to a client, so it must not be dropped.

    ``system`` is the decoded transaction, if its kind is not ``data``.
    """

    raw: bytes
    valid_until: int
    local: bool
    system: Transaction | None = None


class Pool:
    """Bounded by bytes. A transaction is ``pending`` or ``included`` (in an unfinalized block of the head's branch).

    Pending transactions of the protocol's own kinds are in ``system``: few, never a reason for a block, first in it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.pending: dict[Digest, PoolEntry] = {}
        self.included: dict[Digest, PoolEntry] = {}
        self.system: dict[Digest, PoolEntry] = {}
        self.pending_bytes = 0

    def __contains__(self, id: Digest) -> bool:
        return id in self.pending or id in self.included or id in self.system

    def get(self, id: Digest) -> PoolEntry | None:
        return self.pending.get(id) or self.included.get(id) or self.system.get(id)

    def has_room(self, size: int) -> bool:
        return self.pending_bytes + size <= self._max_bytes

    def add(self, id: Digest, entry: PoolEntry) -> None:
        """Add a verified transaction; the caller has asked `has_room` for what may be refused."""
        if id not in self:
            self._put(id, entry)

    def _put(self, id: Digest, entry: PoolEntry) -> None:
        if entry.system is not None:
            self.system[id] = entry
        else:
            self.pending[id] = entry
            self.pending_bytes += len(entry.raw)

    def include(self, id: Digest, fresh: PoolEntry) -> None:
        """A block of the head's branch contains this transaction now."""
        system = self.system.pop(id, None)
        entry = self.pending.pop(id, None)
        if entry is not None:
            self.pending_bytes -= len(entry.raw)
        self.included[id] = entry or system or self.included.get(id) or fresh

    def restore(self, id: Digest) -> None:
        """The block that contained this transaction is not on the head's branch any more."""
        entry = self.included.pop(id, None)
        if entry is not None:
            self._put(id, entry)

    def remove(self, ids: Iterable[Digest]) -> None:
        """The transactions are final."""
        for id in ids:
            entry = self.pending.pop(id, None)
            if entry is not None:
                self.pending_bytes -= len(entry.raw)
            self.included.pop(id, None)
            self.system.pop(id, None)

    def select(self, height: Height, max_bytes: int, places: int = MAX_IDS) -> Iterator[tuple[Digest, PoolEntry]]:
        """Yield pending transactions, oldest first, that fit together into a block, and its message, at ``height``."""
        room = max_bytes
        for id, entry in self.pending.items():
            if entry.valid_until < height or len(entry.raw) > room:
                continue
            room, places = room - len(entry.raw), places - 1
            yield id, entry
            if room < 128 or not places:
                return

    def expire(self, height: Height) -> list[Digest]:
        """Remove and return the pending transactions that no block above ``height`` may contain."""
        expired = [id for id, entry in self.pending.items() if entry.valid_until <= height]
        self.remove(expired)
        self.remove([id for id, entry in self.system.items() if entry.valid_until <= height])
        return expired
