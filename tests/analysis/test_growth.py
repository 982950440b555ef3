"""Growth with the committee: known curves are found again, and what can't be known is not claimed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.growth import CLAIMS, Growth, fit_growth
from analysis.statistics import Array

SIZES = (4, 8, 12, 16)
TERMS = {"K": lambda k: float(k), "K²": lambda k: float(k * k)}


def exact(intercept: float, slope: float, term: str, sizes: tuple[int, ...] = SIZES) -> dict[int, Array]:
    return {k: np.full(3, intercept + slope * TERMS[term](k)) for k in sizes}


def noisy(sigma: float, term: str, count: int = 30) -> dict[int, Array]:
    random = np.random.default_rng(11)
    return {k: 10 + TERMS[term](k) + random.normal(0, sigma, count) for k in SIZES}


@given(
    st.floats(-1e3, 1e3),
    st.floats(0.01, 1e3),
    st.sampled_from(["K", "K²"]),
    st.lists(st.integers(4, 64), min_size=4, max_size=8, unique=True),
)
def test_an_exact_curve_gives_its_coefficients_back(
    intercept: float, slope: float, term: str, sizes: list[int]
) -> None:
    growth = fit_growth(exact(intercept, slope, term, tuple(sizes)))
    best = growth.fits[0]
    assert best.term == term
    scale = abs(intercept) + slope
    assert best.slope == pytest.approx(slope, rel=1e-6)
    assert best.intercept == pytest.approx(intercept, abs=1e-6 * scale)
    assert best.r_squared == pytest.approx(1.0, abs=1e-9) and best.delta_aic == 0.0
    assert growth.fits[1].delta_aic > 2.0
    assert best.support == 1.0 and growth.is_decided
    grid = np.linspace(min(sizes), max(sizes), 9)
    expected = [intercept + slope * (k if term == "K" else k * k) for k in grid]
    assert growth.curve(best, grid) == pytest.approx(expected, rel=1e-6, abs=1e-6 * scale)


@given(st.lists(st.floats(0.1, 1e4), min_size=4, max_size=4))
def test_a_fit_is_least_squares_of_the_medians(values: list[float]) -> None:
    growth = fit_growth({k: np.array([value]) for k, value in zip(SIZES, values, strict=True)})
    by_term = {fit.term: fit for fit in growth.fits}
    for power, term in ((1, "K"), (2, "K²")):
        slope, intercept = np.polyfit(np.array(SIZES, dtype=float) ** power, values, 1)
        assert by_term[term].slope == pytest.approx(slope, rel=1e-6, abs=1e-9 * max(values))
        assert by_term[term].intercept == pytest.approx(intercept, rel=1e-6, abs=1e-7 * max(values))
        assert by_term[term].support is None and by_term[term].slope_interval is None
    assert not growth.is_decided


def test_akaike_s_criterion_is_the_textbook_s() -> None:
    medians = np.array([30.0, 40.0, 80.0, 100.0])
    growth = fit_growth({k: np.array([m]) for k, m in zip(SIZES, medians, strict=True)})
    criteria = {}
    for fit in growth.fits:
        wrong = float(np.square(medians - growth.curve(fit, np.array(SIZES, dtype=float))).sum())
        criteria[fit.term] = 4 * math.log(wrong / 4) + 2 * 3
        assert fit.r_squared == pytest.approx(1 - wrong / float(np.square(medians - medians.mean()).sum()))
    best = min(criteria.values())
    assert {fit.term: fit.delta_aic for fit in growth.fits} == pytest.approx({t: c - best for t, c in criteria.items()})


@pytest.mark.parametrize("term", ["K", "K²"])
def test_a_clear_curve_is_decided_and_its_slope_interval_holds_the_truth(term: str) -> None:
    growth = fit_growth(noisy(0.5, term))
    assert growth.fits[0].term == term and growth.is_decided
    assert growth.fits[0].slope_interval is not None
    low, high = growth.fits[0].slope_interval
    assert low < 1.0 < high and high - low < 0.2


def test_noise_is_not_taken_for_growth() -> None:
    random = np.random.default_rng(5)
    growth = fit_growth({k: random.exponential(50, 20) for k in SIZES})
    assert not growth.is_decided
    assert sum(fit.support or 0.0 for fit in growth.fits) == pytest.approx(1.0)


def test_the_same_samples_give_the_same_answer() -> None:
    assert fit_growth(noisy(20, "K")).fits == fit_growth(noisy(20, "K")).fits


@pytest.mark.parametrize("sizes", [(), (4,), (4, 8), (4, 8, 16)])
def test_fewer_than_four_sizes_are_not_fitted(sizes: tuple[int, ...]) -> None:
    growth = fit_growth(exact(1, 1, "K", sizes))
    assert growth.fits == () and not growth.is_decided
    assert f"at least 4 committee sizes, and there are {len(sizes)}" in growth.reason


def test_a_size_without_samples_is_no_size() -> None:
    samples = exact(1, 1, "K") | {8: np.array([np.nan, np.nan])}
    assert "there are 3 (4, 12, 16)" in fit_growth(samples).reason


def test_with_equal_credits_the_two_quadratic_claims_are_one() -> None:
    growth = fit_growth(exact(1, 1, "K²"), dict.fromkeys(SIZES, 100.0))
    assert {fit.term for fit in growth.fits} == {"K", "K²"}
    assert "100 for every K: K²/E(D) grows as K²" in growth.indistinct
    assert "not known" in fit_growth(exact(1, 1, "K²"), {4: 100.0}).indistinct


def test_with_different_credits_the_chapter_s_claim_is_fitted_on_its_own() -> None:
    credits = {4: 100.0, 8: 150.0, 12: 110.0, 16: 300.0}
    samples = {k: np.full(2, 5 + 7 * k * k / credit) for k, credit in credits.items()}
    growth: Growth = fit_growth(samples, credits)
    best = growth.fits[0]
    assert len(growth.fits) == 3 and growth.indistinct == ""
    assert best.term == CLAIMS["T_bp"] == "K²/E(D)"
    assert (best.intercept, best.slope) == pytest.approx((5.0, 7.0))
    assert growth.curve(best, growth.sizes) == pytest.approx(growth.medians)


def test_what_does_not_grow_has_no_explained_variance() -> None:
    growth = fit_growth({k: np.full(3, 42.0) for k in SIZES})
    assert all(math.isnan(fit.r_squared) and abs(fit.slope) < 1e-9 for fit in growth.fits)
