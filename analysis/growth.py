"""How a figure grows with the committee: least squares through what the chapter claims, and which claim fits best.

The chapter (section 6.3) claims T_ct in O(K), T_bp in O(K²/E(D)) and T_cf in O(K²). D is the distribution of credit in
the committee, by which a member wins the right to propose (section 6.1), and E(D) its expectation; here, the mean
credit of the cell's committee. With equal credits, as genesis sets them, E(D) is the same for every K, and K²/E(D) is
K² in another unit: no measurement can tell those two apart, and only one of them is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from analysis.statistics import CONFIDENCE, Array

__all__ = ["CLAIMS", "MIN_SIZES", "Fit", "Growth", "fit_growth"]

CLAIMS = {"T_ct": "K", "T_bp": "K²/E(D)", "T_cf": "K²"}
"""What the chapter claims of each phase."""
MIN_SIZES = 4
"""A line through two coefficients fits any two sizes, and three hardly test it."""
_TERMS: dict[str, Callable[[Array, Array], Array]] = {
    "K": lambda sizes, credits: sizes,
    "K²/E(D)": lambda sizes, credits: sizes**2 / credits,
    "K²": lambda sizes, credits: sizes**2,
}
_RESAMPLES = 1000
_SEED = 20200131
"""Fixed, so that a run analysed twice says the same."""
_MAX_RESAMPLED = 1000
"""Samples of one committee size in a resample: with more, the interval is a little wider than it could be."""


@dataclass(frozen=True)
class Fit:
    """One model a + b·term(K) through the medians of all sizes.

    ``r_squared`` is the share of the medians' variance that it explains. ``delta_aic`` is its Akaike criterion above
    that of the best model: n·ln(RSS/n) + 2k with Gaussian errors (Burnham and Anderson, section 2.2); all models have
    the same k, so it ranks them as their squared errors do. ``support`` is the share of resamples in which this model
    fits best; ``slope_interval`` is the percentile bootstrap's interval of b, from the same resamples. Both are None
    if no size has two samples.
    """

    term: str
    intercept: float
    slope: float
    r_squared: float
    delta_aic: float
    support: float | None
    slope_interval: tuple[float, float] | None


@dataclass(frozen=True)
class Growth:
    """All models' fits, the best first; ``reason`` says why there are none. ``sizes`` and ``medians`` go together.

    ``credits`` is E(D) at each size, NaN where it is not known; ``indistinct`` says why K²/E(D) is not among the fits.
    """

    sizes: Array
    medians: Array
    credits: Array
    fits: tuple[Fit, ...]
    reason: str = ""
    indistinct: str = ""

    def curve(self, fit: Fit, sizes: Array) -> Array:
        """Return what a fit says for other committee sizes; E(D) is interpolated between those measured."""
        term = _TERMS[fit.term](sizes, np.interp(sizes, self.sizes, self.credits))
        return fit.intercept + fit.slope * term

    @property
    def is_decided(self) -> bool:
        """Whether the best model is best in CONFIDENCE of all resamples."""
        return bool(self.fits) and self.fits[0].support is not None and self.fits[0].support >= CONFIDENCE


def fit_growth(samples: Mapping[int, Array], credits: Mapping[int, float] | None = None) -> Growth:
    """Fit all models through the medians of ``samples`` by committee size.

    ``credits`` is E(D) by committee size; without it, or if it is equal for all, K²/E(D) is not fitted on its own and
    ``indistinct`` says so.
    """
    known = {size: values[np.isfinite(values)] for size, values in sorted(samples.items())}
    known = {size: values for size, values in known.items() if len(values)}
    sizes = np.array(list(known), dtype=np.float64)
    medians = np.array([np.median(values) for values in known.values()])
    expected = np.array([(credits or {}).get(size, np.nan) for size in known], dtype=np.float64)
    if len(known) < MIN_SIZES:
        shown = f" ({', '.join(f'{size:.0f}' for size in sizes)})" if len(sizes) else ""
        text = f"a fit needs at least {MIN_SIZES} committee sizes, and there are {len(sizes)}{shown}"
        return Growth(sizes, medians, expected, (), text)
    indistinct = _indistinct(expected)
    terms = {name: term(sizes, expected) for name, term in _TERMS.items() if not (indistinct and name == "K²/E(D)")}
    coefficients, errors = _least_squares(terms, medians[:, np.newaxis])
    total = float(np.square(medians - medians.mean()).sum())
    resampled = _resample(list(known.values()))
    supports: list[float | None] = [None] * len(terms)
    intervals: list[tuple[float, float] | None] = [None] * len(terms)
    if resampled is not None:
        spread, wrong = _least_squares(terms, resampled)
        winners = np.bincount(np.argmin(wrong, axis=0), minlength=len(terms)) / _RESAMPLES
        supports = [float(share) for share in winners]
        ends = np.quantile(spread[:, 1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
        intervals = [(float(low), float(high)) for low, high in ends.T]
    # An exact fit has no error at all, and no logarithm of it.
    criteria = len(sizes) * np.log(np.maximum(errors[:, 0], 1e-12 * max(total, 1e-12)))
    fits = [
        Fit(
            term,
            float(coefficients[number, 0, 0]),
            float(coefficients[number, 1, 0]),
            1 - float(errors[number, 0]) / total if total > 0 else float("nan"),
            float(criteria[number] - criteria.min()),
            supports[number],
            intervals[number],
        )
        for number, term in enumerate(terms)
    ]
    ordered = tuple(sorted(fits, key=lambda fit: fit.delta_aic))
    return Growth(sizes, medians, expected, ordered, indistinct=indistinct)


def _indistinct(credits: Array) -> str:
    """Why K²/E(D) can't be fitted on its own; empty if it can."""
    if np.isnan(credits).any() or (credits <= 0).any():
        return "E(D) is not known for every K: K²/E(D) is not fitted"
    if np.ptp(credits) <= 1e-9 * credits.max():
        return f"E(D), the committee's mean credit, is {credits[0]:g} for every K: K²/E(D) grows as K²"
    return ""


def _least_squares(terms: Mapping[str, Array], values: Array) -> tuple[Array, Array]:
    """Fit every column of ``values`` (sizes x columns); returns coefficients (models x 2 x columns), squared errors."""
    coefficients, errors = [], []
    for term in terms.values():
        matrix = np.column_stack([np.ones_like(term), term])
        solution = np.linalg.lstsq(matrix, values, rcond=None)[0]
        coefficients.append(solution)
        errors.append(np.square(values - matrix @ solution).sum(axis=0))
    return np.array(coefficients), np.array(errors)


def _resample(samples: list[Array]) -> Array | None:
    """Return medians of samples drawn again, with replacement, within each size (sizes x resamples)."""
    if all(len(values) < 2 for values in samples):
        return None
    random = np.random.default_rng(_SEED)
    medians = []
    for values in samples:
        count = min(len(values), _MAX_RESAMPLED)
        drawn = values[random.integers(0, len(values), size=(_RESAMPLES, count))]
        medians.append(np.median(drawn, axis=1))
    return np.array(medians)
