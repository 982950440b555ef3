"""What the processes of validators use while something runs: CPU time and resident memory, sampled."""

from __future__ import annotations

import asyncio
import time

import psutil
from msgspec import Struct

from control.local_cluster import LocalCluster

__all__ = ["ResourceSampler", "Usage"]


class Usage(Struct, frozen=True):
    """One sample of one process: ``at`` in ns since 1970, CPU seconds (user and system), resident bytes."""

    at: int
    cpu_s: float
    rss: int


class ResourceSampler:
    """Samples all validators every ``interval_s``; ``usage`` has the samples by name."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self._interval_s = interval_s
        self.usage: dict[str, list[Usage]] = {}

    async def __call__(self, cluster: LocalCluster) -> None:
        """Sample until cancelled."""
        processes = {name: psutil.Process(process.pid) for name, process in cluster.processes.items()}
        while True:
            for name, process in processes.items():
                try:
                    with process.oneshot():
                        cpu, rss = process.cpu_times(), process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
                self.usage.setdefault(name, []).append(Usage(time.time_ns(), cpu.user + cpu.system, rss))
            await asyncio.sleep(self._interval_s)

    def cpu_between(self, start: int, end: int) -> dict[str, float]:
        """Return the CPU seconds that each process used between the samples nearest inside [start, end] (ns).

        Scaled to the whole interval, since samples don't fall on its ends.
        """
        used = {}
        for name, samples in self.usage.items():
            inside = [sample for sample in samples if start <= sample.at <= end]
            if len(inside) >= 2:
                span = inside[-1].at - inside[0].at
                used[name] = (inside[-1].cpu_s - inside[0].cpu_s) * (end - start) / span
        return used
