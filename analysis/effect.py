"""How much two groups of runs differ in one figure, and how sure that is. The unit is the run: one figure each.

Rounds of one run share its machine, its moment and its chain; thousands of them say nothing about the next run. So each
run gives one figure, and the interval comes from how much runs of one group differ among themselves.

The method is Welch's t on the logarithms (Welch, "The generalization of 'Student's' problem", Biometrika 34, 1947).
Logarithms, because durations are positive and what disturbs a machine multiplies them: the result is a ratio. Welch's,
because nothing says that both groups scatter alike. A run's figure is a median of many samples, so that its
distribution is near enough to normal. The alternatives fail where runs are few: with three against three the exact
permutation test can't reach 5 % (its least p is 2/20), and the bootstrap's intervals are far too narrow.

The minimum detectable effect is the one that such a comparison would find in 80 % of cases: (t(0.975) + t(0.8)) times
the standard error (Bloom, "Minimum detectable effects", Evaluation Review 19, 1995).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from analysis.student import t_quantile, t_two_sided

__all__ = ["CONFIDENCE", "MIN_RUNS", "POWER", "Effect", "Estimate", "adjust_p_values", "measure_effect"]

MIN_RUNS = 3
"""Of each group: with two the interval is so wide (t = 12.7 or more) that it only looks like a result."""
CONFIDENCE = 0.95
POWER = 0.80


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Effect:
    """What B is against A. ``difference`` is B - A of the means; ``ratio`` is B / A of the geometric means.

    ``p`` is two-sided, of the ratio being 1. ``detectable`` is the least change that would be found with POWER, as a
    share of A (0.1: 10 %).
    """

    difference: Estimate
    ratio: Estimate
    p: float
    detectable: float


def measure_effect(a: Sequence[float], b: Sequence[float]) -> Effect:
    """Compare one positive figure of each run of A and of B; ValueError with fewer than MIN_RUNS on a side."""
    if min(len(a), len(b)) < MIN_RUNS:
        raise ValueError(f"{len(a)} and {len(b)} runs: at least {MIN_RUNS} on each side are needed")
    if min(*a, *b) <= 0:
        raise ValueError("a figure that is not positive has no logarithm")
    plain = _Welch(a, b)
    logarithmic = _Welch([math.log(x) for x in a], [math.log(x) for x in b])
    low, high = logarithmic.interval()
    return Effect(
        Estimate(plain.difference, *plain.interval()),
        Estimate(math.exp(logarithmic.difference), math.exp(low), math.exp(high)),
        logarithmic.p(),
        math.expm1(logarithmic.detectable()),
    )


class _Welch:
    """Difference of two means whose variances differ."""

    def __init__(self, a: Sequence[float], b: Sequence[float]) -> None:
        self.difference = fmean(b) - fmean(a)
        parts = [(variance(group) / len(group), len(group) - 1) for group in (a, b)]
        total = sum(part for part, _ in parts)
        self._error = math.sqrt(total)
        # Welch and Satterthwaite; without any scatter the number does not matter.
        weights = sum(part**2 / degrees for part, degrees in parts)
        self._degrees = total**2 / weights if weights > 0 else float(len(a) + len(b) - 2)

    def interval(self) -> tuple[float, float]:
        margin = self._error * t_quantile((1 + CONFIDENCE) / 2, self._degrees)
        return self.difference - margin, self.difference + margin

    def p(self) -> float:
        if self._error == 0:
            return float(self.difference == 0)
        return t_two_sided(self.difference / self._error, self._degrees)

    def detectable(self) -> float:
        quantiles = t_quantile((1 + CONFIDENCE) / 2, self._degrees) + t_quantile(POWER, self._degrees)
        return self._error * quantiles


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Return the p-values as Holm adjusts them for being many (Scandinavian Journal of Statistics 6, 1979)."""
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = least
    return adjusted
