"""Hosts whose clocks are wrong in known ways, and what their processes would measure of each other."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pandas as pd
from microchain.network.offset import OffsetEstimator

S = 10**9


@dataclass(frozen=True)
class Clock:
    """Shows ``true + ahead_ns + true · ppm`` (true time in ns after the start), and steps at given true times."""

    ahead_ns: int = 0
    ppm: float = 0.0
    steps: tuple[tuple[int, int], ...] = ()

    def shows(self, true: int) -> int:
        stepped = sum(size for at, size in self.steps if true >= at)
        return true + self.ahead_ns + stepped + round(true * self.ppm * 1e-6)


@dataclass
class Testbed:
    """One process on each host, named as the host with a ``v`` before it; all measure all, once a second."""

    __test__ = False
    clocks: dict[str, Clock]
    delays_ns: tuple[int, int] = (50_000, 400_000)
    asymmetry_ns: dict[tuple[str, str], int] = field(default_factory=dict)
    blind: frozenset[tuple[str, str]] = frozenset()
    seed: int = 1

    @property
    def hosts(self) -> dict[str, str]:
        """The host of each process."""
        return {f"v{host}": host for host in self.clocks}

    def peers(self, seconds: int, *, origin: int = 0) -> pd.DataFrame:
        """Return what all write as ``peer`` points in so many seconds, by the node's own estimator."""
        rows = []
        for own, clock in self.clocks.items():
            for other in self.clocks:
                if own != other and (own, other) not in self.blind:
                    rows += self._measure(own, other, clock, self.clocks[other], seconds)
        columns = ["host", "validator", "peer", "time", "rtt_ns", "offset_ns", "bound_ns"]
        frame = pd.DataFrame.from_records(rows, columns=columns)
        return frame.assign(time=frame["time"] + origin)

    def _measure(
        self, own: str, other: str, clock: Clock, peer: Clock, seconds: int
    ) -> list[tuple[str, str, str, int, int, int, int]]:
        chance = random.Random(f"{self.seed}/{own}/{other}")
        steps = sorted(at for at, _ in (*clock.steps, *peer.steps))
        rows, estimator = [], OffsetEstimator()
        for true in range(0, seconds * S, S):
            start = true + chance.randrange(S // 2)
            there = chance.randint(*self.delays_ns) + self.asymmetry_ns.get((own, other), 0)
            back = chance.randint(*self.delays_ns) + self.asymmetry_ns.get((other, own), 0)
            held = chance.randint(0, 10_000)
            moments = (start, start + there, start + there + held, start + there + held + back)
            written = true + S * 3 // 4
            while steps and steps[0] <= written:  # a process began anew, and with it its links
                steps.pop(0)
                estimator = OffsetEstimator()
                if moments[0] <= true + S:
                    moments = (0, 0, 0, 0)
            if any(moments):
                clocks = (clock, peer, peer, clock)
                estimator.add(*(c.shows(moment) for c, moment in zip(clocks, moments, strict=True)))
            estimate = estimator.estimate(clock.shows(written))
            if estimate is not None:
                row = (clock.shows(written), estimate.rtt_ns, estimate.offset_ns, estimate.bound_ns)
                rows.append((own, f"v{own}", f"v{other}", *row))
        return rows
