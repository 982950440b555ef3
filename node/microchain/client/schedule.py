"""When an open-loop load sends: offsets in nanoseconds from the start, fixed before the run begins."""

from __future__ import annotations

import random

__all__ = ["make_fixed_schedule", "make_poisson_schedule"]


def make_fixed_schedule(rate: float, count: int) -> list[int]:
    """Return ``count`` evenly spaced offsets, ``rate`` a second, the first at 0."""
    _check(rate)
    return [round(index * 1e9 / rate) for index in range(count)]


def make_poisson_schedule(rate: float, count: int, seed: int) -> list[int]:
    """Return the arrivals of a Poisson process of mean ``rate`` a second; the same seed gives the same ones."""
    _check(rate)
    source = random.Random(seed)
    offsets: list[int] = []
    at = 0.0
    for _ in range(count):
        at += source.expovariate(rate)
        offsets.append(round(at * 1e9))
    return offsets


def _check(rate: float) -> None:
    if not rate > 0:
        raise ValueError(f"the rate is {rate:g} transactions a second; it must be more than 0")
