"""Puts the times of several hosts on one clock, with a bound on the error, from the offsets that peers measured.

A sample says: the peer's clock minus ours was o ± b at t. At another time the same holds with b widened by the drift of
two crystals (DRIFT_PPM of the distance), so at any moment the best sample is the one with the least widened bound (the
minimum filter of NTP, RFC 5905). Hosts that never measured each other are joined along the path with the least sum of
bounds. Points of one host share its clock: their differences need no correction and have no bound.
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

Array = npt.NDArray[np.float64]

DRIFT_PPM = 100
"""Two quartz crystals of ±50 ppm, undisciplined."""
_GRID = 512
"""Moments at which a pair's offset is computed; between them the nearest one is taken."""


@dataclass(frozen=True)
class PairOffset:
    """``offset`` = clock of the second host minus that of the first, ± ``bound``, at each of ``times`` (all in ns)."""

    times: Array
    offset: Array
    bound: Array

    def at(self, times: Array) -> tuple[Array, Array]:
        """Return offset and bound at ``times``."""
        right = np.clip(np.searchsorted(self.times, times), 1, max(1, len(self.times) - 1))
        left = right - 1
        right = np.minimum(right, len(self.times) - 1)
        nearest = np.where(times - self.times[left] <= self.times[right] - times, left, right)
        drift = np.abs(times - self.times[nearest]) * DRIFT_PPM * 1e-6
        return self.offset[nearest], self.bound[nearest] + drift

    def reversed(self) -> PairOffset:
        """The same pair seen from the other host."""
        return PairOffset(self.times, -self.offset, self.bound)


@dataclass(frozen=True)
class ClockModel:
    """Clocks of one cell's hosts relative to ``reference``. ``origin`` (ns since 1970) is time 0 of corrected times."""

    reference: str
    origin: int
    paths: Mapping[str, tuple[PairOffset, ...]]

    def correct(self, host: str, times: Array) -> tuple[Array, Array]:
        """Return ``times`` (ns after origin, on the host's clock) on the reference's clock, and their bounds.

        NaN where no chain of measurements leads from the host to the reference.
        """
        if host not in self.paths:
            return np.full_like(times, np.nan), np.full_like(times, np.nan)
        corrected, bound = times.copy(), np.zeros_like(times)
        for pair in self.paths[host]:
            offset, widened = pair.at(times)
            corrected -= offset
            bound += widened
        return corrected, bound


def build_clocks(peers: pd.DataFrame, hosts: Mapping[str, str], reference: str, origin: int) -> ClockModel:
    """Build the clocks of one cell. ``hosts``: each validator's (and the client's) host; ``peers`` as in Run."""
    samples: dict[tuple[str, str], list[tuple[float, float, float]]] = defaultdict(list)
    known = peers[peers["bound_ns"] >= 0]
    for own, peer, time, offset, bound in zip(
        known["host"], known["peer"], known["time"] - origin, known["offset_ns"], known["bound_ns"], strict=True
    ):
        other = hosts.get(peer)
        if other is not None and own != other:
            samples[own, other].append((float(time), float(offset), float(bound)))
            samples[other, own].append((float(time), -float(offset), float(bound)))
    pairs = {pair: _filter(np.array(values)) for pair, values in samples.items()}
    return ClockModel(reference, origin, _shortest_paths(pairs, reference))


def _filter(samples: Array) -> PairOffset:
    """Return the offset at up to _GRID moments, at each from the sample with the least widened bound."""
    samples = samples[np.argsort(samples[:, 0], kind="stable")]
    times, offsets, bounds = samples.T
    moments = times if len(times) <= _GRID else np.linspace(times[0], times[-1], _GRID)
    best = np.empty(len(moments), dtype=np.intp)
    widened = np.empty(len(moments))
    for position, moment in enumerate(moments):
        candidates = bounds + np.abs(times - moment) * DRIFT_PPM * 1e-6
        best[position] = np.argmin(candidates)
        widened[position] = candidates[best[position]]
    return PairOffset(moments, offsets[best], widened)


def _shortest_paths(pairs: Mapping[tuple[str, str], PairOffset], reference: str) -> dict[str, tuple[PairOffset, ...]]:
    """Dijkstra from the reference; the length of an edge is the median of its bounds."""
    edges: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for (own, other), pair in pairs.items():
        edges[own].append((other, float(np.median(pair.bound))))
    paths: dict[str, tuple[PairOffset, ...]] = {}
    queue: list[tuple[float, str, str | None]] = [(0.0, reference, None)]
    while queue:
        length, host, previous = heapq.heappop(queue)
        if host in paths:
            continue
        paths[host] = () if previous is None else (*paths[previous], pairs[previous, host])
        for other, bound in edges[host]:
            if other not in paths:
                heapq.heappush(queue, (length + bound, other, host))
    return paths
