"""Puts the times of several hosts on one clock, with a bound on the error, from the offsets that peers measured.

A sample says: when our clock showed t, the peer's minus ours was o ± b. Two crystals drift apart by at most DRIFT_PPM,
so at another moment the offset lies within b + DRIFT_PPM · distance of o. *Every* sample holds, so the offset lies in
the intersection of all these intervals (Marzullo, "Maintaining the time in a distributed system", 1984; RFC 5905,
section 11.2.1): its middle is the offset, half its width the bound. If the intersection is empty somewhere, a clock was
set, or drifted faster; then the samples fall into runs that agree within themselves, and between two runs, where the
step lies, all that either allows is allowed.

Hosts that never measured each other are joined along the path with the least sum of bounds. Points of one host share
its clock: their differences need no correction and have no bound.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["DRIFT_PPM", "ClockModel", "PairOffset", "build_clocks"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DRIFT_PPM = 100
"""Two quartz crystals of ±50 ppm. A time daemon that slews a clock may be faster: the samples then contradict."""
_DRIFT = DRIFT_PPM * 1e-6
_TOLERANCE_NS = 2.0
"""What rounding to whole nanoseconds may add up to."""
_PLAUSIBLE_NS = 1 << 61
"""Offsets and bounds beyond this (73 years) are no measurements, and sums of them would not fit into 64 bits."""


@dataclass(frozen=True)
class _Agreeing:
    """A run of samples that agree: between them the offset is bounded by the nearest ones on each side.

    ``times`` ascend. Samples 0 … i say that the offset at a later t is at least ``low_before[i] - drift · t`` and at
    most ``high_before[i] + drift · t``; samples i … say of an earlier t: from ``low_after[i] + drift · t`` to
    ``high_after[i] - drift · t``.
    """

    times: Floats
    low_before: Floats
    low_after: Floats
    high_before: Floats
    high_after: Floats

    def interval(self, times: Floats) -> tuple[Floats, Floats]:
        """Return the least and greatest offset at ``times``."""
        after = np.searchsorted(self.times, times)
        before = after - 1
        last = len(self.times) - 1
        drift = _DRIFT * times
        low = np.maximum(
            np.where(before >= 0, self.low_before[np.maximum(before, 0)] - drift, -np.inf),
            np.where(after <= last, self.low_after[np.minimum(after, last)] + drift, -np.inf),
        )
        high = np.minimum(
            np.where(before >= 0, self.high_before[np.maximum(before, 0)] + drift, np.inf),
            np.where(after <= last, self.high_after[np.minimum(after, last)] - drift, np.inf),
        )
        return low, high


@dataclass(frozen=True)
class PairOffset:
    """Clock of another host minus ``own``'s, over time. Times are ns on own's clock after ``time``, as floats.

    ``runs`` are runs of samples that agree, in order; more than one: the samples ``contradict`` each other.
    ``largest_step_ns`` is the least step that would explain the largest contradiction.
    """

    time: int
    offset: int
    runs: tuple[_Agreeing, ...]
    median_bound: float
    largest_step_ns: float = 0.0

    @property
    def contradicts(self) -> bool:
        """Whether a clock was set, or drifted faster than DRIFT_PPM."""
        return len(self.runs) > 1

    def at(self, times: Ints) -> tuple[Ints, Floats]:
        """Return offset and bound (ns) at ``times`` on own's clock (ns since 1970)."""
        relative = (times - self.time).astype(np.float64)
        low, high = np.full_like(relative, np.inf), np.full_like(relative, -np.inf)
        # Own's clock may be the one that was set, and set back: then it showed some times twice.
        twice = 2 * self.largest_step_ns
        for number, run in enumerate(self.runs):
            from_time = -np.inf if number == 0 else self.runs[number - 1].times[-1] - twice
            to_time = np.inf if number + 1 == len(self.runs) else self.runs[number + 1].times[0] + twice
            covered = (relative >= from_time) & (relative <= to_time)
            run_low, run_high = run.interval(relative[covered])
            low[covered] = np.minimum(low[covered], run_low)
            high[covered] = np.maximum(high[covered], run_high)
        middle = np.rint((low + high) / 2)
        return self.offset + middle.astype(np.int64), np.maximum(high - middle, middle - low)


@dataclass(frozen=True)
class ClockModel:
    """Clocks of one cell's hosts relative to ``reference``; ``paths`` lead from each host to it, hop by hop.

    ``contradictions`` are pairs of hosts whose samples contradict each other, with the size of the step (ns).
    """

    reference: str
    paths: Mapping[str, tuple[PairOffset, ...]]
    contradictions: Mapping[tuple[str, str], float]

    def correct(self, host: str, times: Ints) -> tuple[Ints, Floats]:
        """Return ``times`` (ns since 1970 on the host's clock) on the reference's clock, and their bounds (ns).

        The bounds are NaN where no chain of measurements leads from the host to the reference: there is no time then.
        """
        if host not in self.paths:
            return times, np.full(len(times), np.nan)
        corrected, bound = times, np.zeros(len(times))
        for pair in self.paths[host]:
            offset, widened = pair.at(corrected)
            # The offset holds for the moment that own's clock shows, and that moment is known to ± bound so far.
            corrected, bound = corrected + offset, bound * (1 + _DRIFT) + widened
        return corrected, bound


def build_clocks(peers: pd.DataFrame, hosts: Mapping[str, str], reference: str) -> ClockModel:
    """Build the clocks of one cell. ``hosts``: each validator's (and the client's) host; ``peers`` as in Run."""
    pairs: dict[tuple[str, str], PairOffset] = {}
    for (own, other), group in _both_ways(peers, hosts).groupby(["own", "other"]):
        columns = (group[column].to_numpy() for column in ("time", "offset", "bound"))
        pairs[str(own), str(other)] = _bound_offset(*columns)
    steps = {
        (own, other): pair.largest_step_ns for (own, other), pair in pairs.items() if pair.contradicts and own < other
    }
    return ClockModel(reference, _shortest_paths(pairs, reference), steps)


def _both_ways(peers: pd.DataFrame, hosts: Mapping[str, str]) -> pd.DataFrame:
    """Return all usable samples between two hosts, seen from either: own, other, time, offset, bound."""
    samples = pd.DataFrame(
        {
            "own": peers["host"].astype(object),
            "other": peers["peer"].astype(object).map(dict(hosts)),
            "time": peers["time"],
            "offset": peers["offset_ns"],
            "bound": peers["bound_ns"].astype("float64"),
        }
    )
    plausible = samples["offset"].between(-_PLAUSIBLE_NS, _PLAUSIBLE_NS) & samples["bound"].between(0, _PLAUSIBLE_NS)
    samples = samples[plausible & samples["other"].notna() & (samples["own"] != samples["other"])]
    # Seen from the other side: its clock showed time + offset (to ± bound, in which the offset drifts a little).
    reverse = pd.DataFrame(
        {
            "own": samples["other"],
            "other": samples["own"],
            "time": samples["time"] + samples["offset"],
            "offset": -samples["offset"],
            "bound": samples["bound"] * (1 + _DRIFT),
        }
    )
    return pd.concat([samples, reverse], ignore_index=True)


def _bound_offset(times: Ints, offsets: Ints, bounds: Floats) -> PairOffset:
    """Intersect what all samples of a pair say; int64 ns relative to the first, so that floats are exact enough."""
    order = np.argsort(times, kind="stable")
    first_time, first_offset = int(times[order[0]]), int(offsets[order[0]])
    time = (times[order] - first_time).astype(np.float64)
    offset = (offsets[order] - first_offset).astype(np.float64)
    low, high = offset - bounds[order], offset + bounds[order]
    ranges, step = _split(time, low, high)
    runs = tuple(_intersect(time[start:end], low[start:end], high[start:end]) for start, end in ranges)
    widths = [(high - low) / 2 for run in runs for low, high in [run.interval(run.times)]]
    return PairOffset(first_time, first_offset, runs, float(np.median(np.concatenate(widths))), step)


def _intersect(times: Floats, low: Floats, high: Floats) -> _Agreeing:
    drift = _DRIFT * times
    return _Agreeing(
        times,
        np.maximum.accumulate(low + drift),
        np.maximum.accumulate((low - drift)[::-1])[::-1],
        np.minimum.accumulate(high - drift),
        np.minimum.accumulate((high + drift)[::-1])[::-1],
    )


def _split(times: Floats, low: Floats, high: Floats) -> tuple[list[tuple[int, int]], float]:
    """Return the index ranges of samples that agree, and the size of the largest contradiction (0: all agree).

    A step lies somewhere between the last sample that must be before it (cut as early as possible) and the first that
    must be after it (cut as late as possible); the samples between belong to neither side.
    """
    whole = _intersect(times, low, high)
    least, greatest = whole.interval(times)
    if (least <= greatest + _TOLERANCE_NS).all():
        return [(0, len(times))], 0.0
    starts = _cut(times, low, high)
    ends = [len(times) - start for start in reversed(_cut(-times[::-1], low[::-1], high[::-1]))]
    if len(starts) != len(ends):  # only by rounding
        ends = [*starts[1:], len(times)]
    return list(zip(starts, ends, strict=True)), float((least - greatest).max())


def _cut(times: Floats, low: Floats, high: Floats) -> list[int]:
    """Return where each run begins if every run is as long as it can be."""
    starts = [0]
    least, greatest, previous = low[0], high[0], times[0]
    for index in range(1, len(times)):
        drift = (times[index] - previous) * _DRIFT
        least, greatest, previous = max(low[index], least - drift), min(high[index], greatest + drift), times[index]
        if least > greatest + _TOLERANCE_NS:
            starts.append(index)
            least, greatest = low[index], high[index]
    return starts


def _shortest_paths(pairs: Mapping[tuple[str, str], PairOffset], reference: str) -> dict[str, tuple[PairOffset, ...]]:
    """Dijkstra from the reference; the length of an edge is the median of its bounds."""
    neighbours: dict[str, list[str]] = defaultdict(list)
    for own, other in pairs:
        neighbours[own].append(other)
    paths: dict[str, tuple[PairOffset, ...]] = {}
    queue: list[tuple[float, str, str]] = [(0.0, reference, "")]
    while queue:
        length, host, nearer = heapq.heappop(queue)
        if host in paths:
            continue
        paths[host] = () if host == reference else (pairs[host, nearer], *paths[nearer])
        for other in neighbours[host]:
            if other not in paths:
                heapq.heappush(queue, (length + pairs[other, host].median_bound, other, host))
    return paths
