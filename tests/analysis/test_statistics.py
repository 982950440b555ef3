"""Quantiles and their intervals: against exact binomial sums, and by how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics import (
    binomial_ranks,
    cumulative,
    cumulative_band,
    estimate_quantile,
    median_interval,
)

LEVELS = st.sampled_from([0.01, 0.5, 0.9, 0.99])


def binomial_below(count: int, q: float, rank: int) -> float:
    """P(B < rank), summed exactly."""
    return math.fsum(math.comb(count, k) * q**k * (1 - q) ** (count - k) for k in range(rank))


@given(st.integers(1, 400), LEVELS, st.sampled_from([0.8, 0.95, 0.99]))
def test_ranks_are_the_tightest_whose_tails_the_binomial_allows(count: int, q: float, confidence: float) -> None:
    low, high = binomial_ranks(count, q, confidence)
    tail, rounding = (1 - confidence) / 2, 1e-9
    assert 0 <= low < high <= count + 1
    assert binomial_below(count, q, low) <= tail + rounding
    assert binomial_below(count, q, low + 1) > tail - rounding
    assert 1 - binomial_below(count, q, high) <= tail + rounding
    assert 1 - binomial_below(count, q, high - 1) > tail - rounding


@pytest.mark.parametrize(("count", "low", "high"), [(5, 0, 6), (6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61)])
def test_ranks_of_the_median_are_those_of_the_published_tables(count: int, low: int, high: int) -> None:
    assert binomial_ranks(count, 0.5) == (low, high)


def test_a_99th_percentile_has_an_upper_bound_only_with_368_samples() -> None:
    # 0.99^n ≤ 0.025
    assert binomial_ranks(367, 0.99)[1] == 368 and binomial_ranks(368, 0.99)[1] == 368


def test_a_million_samples_have_ranks_as_the_normal_approximation_says() -> None:
    count = 1_000_000
    low, high = binomial_ranks(count, 0.9)
    spread = 1.959964 * math.sqrt(count * 0.09)
    assert low == pytest.approx(900_000 - spread, abs=2) and high == pytest.approx(900_000 + spread + 1, abs=2)


@pytest.mark.parametrize(("q", "count"), [(0.5, 12), (0.5, 200), (0.9, 60), (0.99, 500)])
def test_intervals_hold_the_true_quantile_as_often_as_they_say(q: float, count: int) -> None:
    random = np.random.default_rng(7)
    truth = -math.log(1 - q)
    held = 0
    for samples in random.exponential(size=(2000, count)):
        estimate = estimate_quantile(samples, q)
        assert estimate is not None
        low, high = estimate.interval.low, estimate.interval.high
        held += (low is None or low <= truth) and (high is None or truth <= high)
    assert held / 2000 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 2000)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=300), LEVELS)
def test_a_quantile_lies_within_its_interval_and_the_samples(samples: list[float], q: float) -> None:
    estimate = estimate_quantile(np.array(samples), q)
    if estimate is None:
        assert q == 0.99 and len(samples) < 100
        return
    low = min(samples) if estimate.interval.low is None else estimate.interval.low
    high = max(samples) if estimate.interval.high is None else estimate.interval.high
    assert min(samples) <= low <= high <= max(samples)
    rounding = 1e-9 * max(samples)
    assert min(samples) - rounding <= estimate.value <= max(samples) + rounding
    if q == 0.5:
        assert low - rounding <= estimate.value <= high + rounding


@given(st.lists(st.floats(0.001, 1e6), min_size=6, max_size=100), st.floats(0.1, 100))
def test_intervals_scale_with_the_unit(samples: list[float], factor: float) -> None:
    plain, scaled = median_interval(pd.Series(samples)), median_interval(pd.Series(samples) * factor)
    assert plain is not None and scaled == pytest.approx([end * factor for end in plain])


def test_few_samples_bound_no_median_and_a_hundred_are_needed_for_p99() -> None:
    assert median_interval(pd.Series([1.0, 2.0, 3.0, 4.0, 5.0])) is None
    assert median_interval(pd.Series([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) == (1.0, 6.0)
    assert median_interval(pd.Series([], dtype="float64")) is None
    assert estimate_quantile(np.arange(99.0), 0.99) is None
    estimate = estimate_quantile(np.arange(100.0), 0.99)
    assert estimate is not None and estimate.value == pytest.approx(98.01)
    assert estimate.interval.high is None and estimate.samples == 100


def test_what_is_not_finite_is_no_sample() -> None:
    estimate = estimate_quantile(np.array([np.nan, 1.0, np.inf, 3.0]), 0.5)
    assert estimate is not None and (estimate.value, estimate.samples) == (2.0, 2)
    assert estimate_quantile(np.array([np.nan]), 0.5) is None


@settings(max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000), st.integers(2, 100))
def test_a_distribution_is_thinned_but_keeps_its_ends(samples: list[float], points: int) -> None:
    values, shares = cumulative(np.array(samples), points)
    assert len(values) == len(shares) <= points
    assert values[-1] == max(samples) and shares[-1] == 1.0
    assert (np.diff(values) >= 0).all() and (np.diff(shares) > 0).all()
    if len(values) > 1:
        assert values[0] == min(samples)
    for value, share in zip(values, shares, strict=True):
        assert share <= np.mean(np.array(samples) <= value) + 1e-12


def test_a_band_encloses_the_quantiles_and_is_open_where_there_is_no_bound() -> None:
    samples = np.random.default_rng(3).exponential(size=50)
    levels = np.array([0.01, 0.25, 0.5, 0.75, 0.99])
    low, high = cumulative_band(samples, levels)
    assert np.isnan(low[0]) and np.isnan(high[-1])
    middle = np.quantile(samples, levels)
    assert (low[1:] <= middle[1:]).all() and (middle[:-1] <= high[:-1]).all()
    empty_low, empty_high = cumulative_band(np.array([]), levels)
    assert np.isnan(empty_low).all() and np.isnan(empty_high).all()
