"""The one thread that writes the ledger, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from microchain.consensus.interface import Persist
from microchain.ledger.errors import LedgerError
from microchain.ledger.ledger import Ledger

__all__ = ["LedgerWriter"]

T = TypeVar("T")

GROUP_RECORDS = 256
"""Records after which a group is committed even if more wait."""
IDLE_S = 0.25
"""After so long without a Persist the log is copied into the main file, so that this seldom delays one."""


class LedgerWriter:
    """Stores Persists in the order of submission; those that wait share one commit, durable if any of them is.

    ``done(token)`` is called on the event loop when a Persist is stored. After a failed write ``on_failure(error)`` is
    called once, on the event loop, and nothing is stored any more: no Persist after it is ever reported as done, so
    nothing that had to be stored first is sent.
    """

    def __init__(
        self, ledger: Ledger, loop: asyncio.AbstractEventLoop, on_failure: Callable[[LedgerError], None]
    ) -> None:
        self._ledger = ledger
        self._loop = loop
        self._on_failure = on_failure
        self._queue: deque[tuple[Persist, Callable[[int], None]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._failed = False
        self._to_checkpoint = False
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """How many Persists wait."""
        return len(self._queue)

    def submit(self, persist: Persist, done: Callable[[int], None]) -> None:
        """Queue a Persist; RuntimeError after `close`."""
        with self._changed:
            if self._closing:
                raise RuntimeError("the ledger's writer is closed")
            if not self._failed:
                self._queue.append((persist, done))
                self._changed.notify()

    def close(self) -> None:
        """Store what is queued and end the thread; blocks until it has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (group := self._take()) is not None:
                self._store(group)
        except Exception as error:
            # Whatever it is, the node must hear of it: without this thread it would wait for ever.
            with self._changed:
                self._failed = True
                self._queue.clear()
            typed = error if isinstance(error, LedgerError) else LedgerError(f"the ledger's writer failed: {error!r}")
            self._call(self._on_failure, typed)

    def _store(self, group: list[tuple[Persist, Callable[[int], None]]]) -> None:
        if group:
            records = [record for persist, _ in group for record in persist.records]
            self._ledger.write(records, durable=any(persist.durable for persist, _ in group))
            self._call(_report, group)
        else:
            self._ledger.checkpoint()
        self._to_checkpoint = bool(group)

    def _take(self) -> list[tuple[Persist, Callable[[int], None]]] | None:
        """Wait for Persists and take as many as one commit should hold: none when idle, None when closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing, IDLE_S if self._to_checkpoint else None)
            if self._closing and not self._queue:
                return None
            group = []
            records = 0
            while self._queue and records < GROUP_RECORDS:
                group.append(self._queue.popleft())
                records += len(group[-1][0].records)
            return group

    def _call(self, function: Callable[[T], None], argument: T) -> None:
        # A loop that has ended raises: nobody waits for the answer any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, argument)


def _report(group: list[tuple[Persist, Callable[[int], None]]]) -> None:
    for persist, done in group:
        done(persist.token)
