"""What a node does regularly: telemetry of itself and its links, the lease, signs of life for the service manager."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from microchain.runtime.memory import give_back
from microchain.runtime.stopping import StopCode
from microchain.runtime.systemd import notify, watchdog_interval

if TYPE_CHECKING:
    from microchain.runtime.node import Node

__all__ = ["Housekeeping"]

_LEASE_CHECK_S = 1.0
_GIVE_BACK_S = 30.0


class Housekeeping:
    """The regular tasks of one node; slow reads run in ``threads``."""

    def __init__(self, node: Node, threads: ThreadPoolExecutor) -> None:
        self._node = node
        self._threads = threads
        self._tasks: list[asyncio.Task[None]] = []
        seconds = node.config.lease.seconds
        self._lease_end = time.monotonic() + seconds if seconds else None

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(task) for task in (self._report(), self._watch(), self._keep_small())]

    async def stop(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    def extend_lease(self, seconds: float) -> None:
        """Put the end of the lease (if there is one) off to ``seconds`` from now; it never comes nearer."""
        if self._lease_end is not None:
            self._lease_end = max(self._lease_end, time.monotonic() + seconds)

    async def _report(self) -> None:
        node = self._node
        recorder, loop = node.recorder, asyncio.get_running_loop()
        interval = node.config.telemetry.interval_s
        while True:
            await asyncio.sleep(interval)
            at = node.clock.now()
            for peer in node.mesh.peers():
                if peer.offset is not None:
                    recorder.peer(peer.name, peer.offset.rtt_ns, peer.offset.offset_ns, peer.offset.bound_ns, at)
            recorder.messages(node.mesh.counters.phases, at)
            await loop.run_in_executor(self._threads, recorder.board, at)

    async def _watch(self) -> None:
        interval = min(_LEASE_CHECK_S, watchdog_interval() or _LEASE_CHECK_S)
        while True:
            notify("WATCHDOG=1")
            await asyncio.sleep(interval)
            if self._lease_end is not None and time.monotonic() >= self._lease_end:
                self._node.request_stop(StopCode.DONE, "the lease has ended: nobody on the control side extended it")
                return

    async def _keep_small(self) -> None:
        while True:
            await asyncio.sleep(_GIVE_BACK_S)
            give_back()
