"""Quantiles from raw samples, and how far they can be trusted.

Intervals of quantiles are between two order statistics whose ranks come from the binomial distribution (David and
Nagaraja, *Order Statistics*, 3rd ed., section 7.1; Hahn and Meeker, *Statistical Intervals*, chapter 5): the number of
samples below the true quantile q is binomial, whatever the samples' distribution. This is what the percentile bootstrap
of a quantile converges to (a resampled order statistic has binomial ranks; Efron, 1979), but it needs no resampling and
no seed, holds at least its nominal coverage with few samples, costs one sort, and does not pretend to a bound beyond
the largest sample: with 100 samples there is no upper bound of a 99th percentile, and it says so. Both take samples for
independent; rounds that follow each other closely are not quite, so intervals are a little too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = [
    "CONFIDENCE",
    "MIN_P99_SAMPLES",
    "Array",
    "Interval",
    "QuantileEstimate",
    "binomial_ranks",
    "cumulative",
    "cumulative_band",
    "estimate_quantile",
    "median_interval",
]

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
MIN_P99_SAMPLES = 100
"""With fewer samples none is expected beyond the 99th percentile: it would be the largest sample by another name."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval; None at an end that the samples don't bound."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class QuantileEstimate:
    """A quantile of ``samples`` samples with the interval that holds the true one with CONFIDENCE."""

    value: float
    interval: Interval
    samples: int


def estimate_quantile(samples: Array, q: float, confidence: float = CONFIDENCE) -> QuantileEstimate | None:
    """Return the q-quantile (linear between order statistics, as numpy's default) of the finite ``samples``.

    None without samples, and for q ≥ 0.99 with fewer than MIN_P99_SAMPLES.
    """
    known = np.sort(samples[np.isfinite(samples)])
    if not len(known) or (q >= 0.99 and len(known) < MIN_P99_SAMPLES):
        return None
    low, high = binomial_ranks(len(known), q, confidence)
    interval = Interval(
        float(known[low - 1]) if low >= 1 else None,
        float(known[high - 1]) if high <= len(known) else None,
    )
    return QuantileEstimate(float(np.quantile(known, q)), interval, len(known))


def median_interval(samples: pd.Series) -> tuple[float, float] | None:
    """Return both ends of the median's interval; None if there are too few samples (5 or fewer) to bound it."""
    estimate = estimate_quantile(samples.to_numpy(dtype=np.float64, na_value=np.nan), 0.5)
    if estimate is None or estimate.interval.low is None or estimate.interval.high is None:
        return None
    return estimate.interval.low, estimate.interval.high


def binomial_ranks(count: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """Return the ranks (1 … count) of the order statistics that hold the true q-quantile with ``confidence``.

    The lower rank is 0, or the upper one count + 1, where there is no such order statistic. With B binomial (count, q),
    the lower rank is the greatest r with P(B < r) ≤ (1 - confidence)/2, the upper the least r with P(B ≥ r) ≤ that.
    """
    tail = (1 - confidence) / 2
    first, masses = _binomial(count, q)
    below = np.cumsum(masses)
    above = np.cumsum(masses[::-1])[::-1]
    # below[i] = P(B < first + i + 1); above[i] = P(B ≥ first + i)
    low = first + int(np.searchsorted(below, tail, side="right"))
    high = first + int(np.argmax(above <= tail)) if above[-1] <= tail else first + len(masses)
    return min(low, count), max(high, 1)


def _binomial(count: int, q: float) -> tuple[int, Array]:
    """Return the probabilities of a binomial variable around its mean, and of what value the first one is.

    From the ratios of neighbours, so that nothing overflows; what is left out is below 1e-30.
    """
    width = 12 * math.sqrt(count * q * (1 - q)) + 40
    first, last = max(0, math.floor(count * q - width)), min(count, math.ceil(count * q + width))
    values = np.arange(first, last, dtype=np.float64)
    logs = np.concatenate(([0.0], np.cumsum(np.log((count - values) / (values + 1)) + math.log(q / (1 - q)))))
    masses = np.exp(logs - logs.max())
    return first, masses / masses.sum()


def cumulative(samples: Array, points: int = 400) -> tuple[Array, Array]:
    """Return sorted sample values and the share of samples at or below each, thinned to about ``points`` of them.

    The smallest and the largest sample are always among them; both arrays are empty without finite samples.
    """
    known = np.sort(samples[np.isfinite(samples)])
    if not len(known):
        return known, known
    chosen = np.unique(np.linspace(0, len(known) - 1, min(points, len(known))).round().astype(np.intp))
    return known[chosen], (chosen + 1) / len(known)


def cumulative_band(samples: Array, levels: Array, confidence: float = CONFIDENCE) -> tuple[Array, Array]:
    """Return both ends of the interval of the quantile at each of ``levels`` (0 < level < 1), pointwise.

    NaN where the samples give no bound.
    """
    known = np.sort(samples[np.isfinite(samples)])
    ranks = np.array([binomial_ranks(len(known), float(q), confidence) for q in levels], dtype=np.intp).reshape(-1, 2)
    padded = np.concatenate(([np.nan], known, [np.nan]))
    return padded[ranks[:, 0]], padded[ranks[:, 1]]
