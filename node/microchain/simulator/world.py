"""The discrete-event core: one virtual clock, one queue, one seeded source of randomness, one digest of the trace."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from microchain.consensus.types import Nanoseconds

__all__ = ["MILLISECOND", "SECOND", "World"]

MILLISECOND = 1_000_000
SECOND = 1_000_000_000


class World:
    """A virtual clock in nanoseconds and the queue of what is to happen. The same seed gives the same trace digest."""

    def __init__(self, seed: int) -> None:
        self.now = Nanoseconds(0)
        self.rng = random.Random(seed)
        self.events = 0
        self.narrate: Callable[[str], None] | None = None
        """Where a verbose replay prints; None keeps quiet."""
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self._trace = 0
        self._is_stopping = False

    def at(self, moment: int, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action(*arguments)`` at a moment, never before now; equal moments keep the order of the calls."""
        self._sequence += 1
        heappush(self._queue, (max(moment, self.now), self._sequence, action, arguments))

    def after(self, delay: int, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action(*arguments)`` once ``delay`` nanoseconds have passed."""
        self.at(self.now + delay, action, *arguments)

    def run(self, deadline: int) -> None:
        """Run until the deadline, or until a step calls `stop`."""
        queue = self._queue
        self._is_stopping = False
        while queue and queue[0][0] <= deadline:
            moment, _, action, arguments = heappop(queue)
            self.now = Nanoseconds(moment)
            self.events += 1
            action(*arguments)
            if self._is_stopping:
                return
        self.now = Nanoseconds(max(self.now, deadline))

    def stop(self) -> None:
        """End `run` after this step."""
        self._is_stopping = True

    def record(self, where: int, what: int) -> None:
        """Mix something that happened now into the trace's digest."""
        # Python's hash of integers is the same in every process, unlike that of bytes, and it costs a tenth of SHA-256.
        self._trace = hash((self._trace, self.now, where, what))

    def trace_digest(self) -> str:
        """Return the digest of all that was recorded so far, in hexadecimal."""
        return f"{self._trace & (1 << 64) - 1:016x}"
