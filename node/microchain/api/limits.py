"""What bounds the API: sizes, counts and the gates that keep concurrent work and memory finite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from microchain.api.service import NodeBusy
from microchain.consensus.genesis import Parameters

__all__ = [
    "BODY_TIMEOUT_S",
    "MAX_LEASE_S",
    "MAX_LISTED_BLOCKS",
    "MAX_SUBMISSIONS",
    "MAX_SUBSCRIBERS",
    "MAX_TRANSACTIONS",
    "LedgerReads",
    "SubmissionGate",
    "compute_max_body",
]

MAX_TRANSACTIONS: Final = 4096
"""Transactions in one request."""
MAX_SUBMISSIONS: Final = 64
"""Submissions being read or waiting for the engine."""
MAX_SUBSCRIBERS: Final = 64
MAX_LISTED_BLOCKS: Final = 100
MAX_LEASE_S: Final = 7 * 86_400.0
BODY_TIMEOUT_S: Final = 30.0
"""A request body must arrive within this time."""

_CONCURRENT_READS = 2
_WAITING_READS = 64

T = TypeVar("T")


def compute_max_body(parameters: Parameters) -> int:
    """Return the largest body in bytes: two blocks' worth, so that base64 of a full block fits, and at least 1 MiB."""
    return max(1 << 20, 2 * parameters.max_block_bytes)


class SubmissionGate:
    """Admits submissions while both their number and the bytes of their bodies are within bounds."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self.in_flight = 0

    @contextmanager
    def admit(self, size: int) -> Iterator[None]:
        """Hold one place and ``size`` bytes; NodeBusy if there is none. One submission alone always fits."""
        if self.in_flight >= MAX_SUBMISSIONS:
            raise NodeBusy(f"{self.in_flight} submissions are being processed already; send again in a moment")
        if self.in_flight and self._bytes + size > self._max_bytes:
            raise NodeBusy(f"{self._bytes} bytes of submissions are being processed already; send again in a moment")
        self.in_flight += 1
        self._bytes += size
        try:
            yield
        finally:
            self.in_flight -= 1
            self._bytes -= size


class LedgerReads:
    """Runs reads in threads, a few at a time, so that the event loop never waits for the disk."""

    def __init__(self) -> None:
        self._running = asyncio.Semaphore(_CONCURRENT_READS)
        self._admitted = 0

    async def run(self, function: Callable[[], T]) -> T:
        """Return ``function()``, run in a thread; NodeBusy if too many reads wait."""
        if self._admitted >= _CONCURRENT_READS + _WAITING_READS:
            raise NodeBusy(f"{self._admitted} ledger reads are waiting already; ask again in a moment")
        self._admitted += 1
        try:
            async with self._running:
                return await asyncio.to_thread(function)
        finally:
            self._admitted -= 1
