"""The statistics of a comparison: right quantiles, intervals that hold what they promise, effects that are found."""

from __future__ import annotations

import itertools
import math
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.effect import MIN_RUNS, adjust_p_values, measure_effect
from analysis.student import t_quantile, t_two_sided

FIGURES = st.lists(st.floats(0.1, 1e4), min_size=MIN_RUNS, max_size=8)


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [  # printed tables (Abramowitz and Stegun, table 26.10)
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.975, 10, 2.228),
        (0.975, 30, 2.042),
        (0.995, 2, 9.925),
        (0.9, 5, 1.476),
        (0.8, 120, 0.845),
        (0.025, 4, -2.776),
    ],
)
def test_quantiles_are_those_of_the_tables(probability: float, degrees: float, expected: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(expected, abs=5e-4)


@given(st.floats(0.501, 0.9999), st.floats(1, 500))
def test_a_quantile_has_its_probability(probability: float, degrees: float) -> None:
    assert t_two_sided(t_quantile(probability, degrees), degrees) == pytest.approx(2 * (1 - probability), rel=1e-6)


def test_many_degrees_of_freedom_are_the_normal_distribution() -> None:
    assert t_quantile(0.975, 1e7) == pytest.approx(1.959964, abs=1e-5)


@pytest.mark.parametrize(("count_a", "count_b", "scatter_b"), [(3, 3, 0.05), (5, 5, 0.05), (4, 7, 0.2), (6, 3, 0.1)])
def test_the_interval_holds_the_true_ratio_in_95_of_100_comparisons(
    count_a: int, count_b: int, scatter_b: float
) -> None:
    """1000 simulated comparisons of runs that scatter by 5 % and more; the true ratio is 1.3."""
    chance = random.Random(20)
    held = 0
    for _ in range(1000):
        a = [40 * math.exp(chance.gauss(0, 0.05)) for _ in range(count_a)]
        b = [52 * math.exp(chance.gauss(0, scatter_b)) for _ in range(count_b)]
        ratio = measure_effect(a, b).ratio
        held += ratio.low <= 1.3 <= ratio.high
    assert 0.93 <= held / 1000 <= 0.98


def test_the_difference_has_its_interval_too() -> None:
    chance = random.Random(21)
    held = 0
    for _ in range(1000):
        effect = measure_effect([chance.gauss(40, 2) for _ in range(5)], [chance.gauss(43, 3) for _ in range(5)])
        held += effect.difference.low <= 3 <= effect.difference.high
    assert 0.93 <= held / 1000 <= 0.97


def test_without_an_effect_one_in_twenty_seems_to_have_one() -> None:
    chance = random.Random(22)
    seeming = sum(
        measure_effect(*([math.exp(chance.gauss(3, 0.1)) for _ in range(5)] for _ in range(2))).p < 0.05
        for _ in range(1000)
    )
    assert 0.03 <= seeming / 1000 <= 0.07


def test_the_detectable_effect_is_found_in_80_of_100_comparisons() -> None:
    """What comparisons say is detectable, in the mean of its squares, is made the true effect."""
    chance = random.Random(23)

    def group(factor: float) -> list[float]:
        return [30 * factor * math.exp(chance.gauss(0, 0.04)) for _ in range(6)]

    detectable = [math.log1p(measure_effect(group(1), group(1)).detectable) for _ in range(500)]
    factor = math.exp(math.sqrt(fmean(x * x for x in detectable)))
    found = sum(measure_effect(group(1), group(factor)).p < 0.05 for _ in range(1000))
    assert 0.76 <= found / 1000 <= 0.84


@given(FIGURES, FIGURES)
def test_the_interval_holds_the_estimate_and_sides_can_be_changed(a: list[float], b: list[float]) -> None:
    there, back = measure_effect(a, b), measure_effect(b, a)
    assert there.ratio.low <= there.ratio.value <= there.ratio.high
    assert there.difference.low <= there.difference.value <= there.difference.high
    assert there.ratio.value == pytest.approx(1 / back.ratio.value)
    assert there.ratio.low == pytest.approx(1 / back.ratio.high, rel=1e-6)
    assert there.p == pytest.approx(back.p)
    assert 0 <= there.p <= 1 and there.detectable >= 0


@given(FIGURES, FIGURES, st.floats(0.01, 100))
def test_the_unit_does_not_matter(a: list[float], b: list[float], unit: float) -> None:
    one, other = measure_effect(a, b), measure_effect([x * unit for x in a], [x * unit for x in b])
    assert one.ratio.value == pytest.approx(other.ratio.value, rel=1e-6)
    assert one.p == pytest.approx(other.p, rel=1e-3, abs=1e-6)


def test_runs_without_any_scatter_are_compared_as_they_are() -> None:
    assert measure_effect([2.0] * 3, [2.0] * 3).p == 1
    effect = measure_effect([2.0] * 3, [3.0] * 3)
    assert effect.p == 0 and [effect.ratio.low, effect.ratio.high] == pytest.approx([1.5, 1.5])


@pytest.mark.parametrize(
    ("a", "b"), [([1.0, 2.0], [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], []), ([1.0, 2.0, 0.0], [1.0] * 3)]
)
def test_too_few_runs_and_figures_that_are_none_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError):
        measure_effect(a, b)


def test_p_values_are_adjusted_as_holm_does() -> None:
    assert adjust_p_values([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjust_p_values([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_adjusted_p_values_are_larger_and_in_the_same_order(p_values: list[float]) -> None:
    adjusted = adjust_p_values(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, adjusted, strict=True))
    for (p, q), (r, s) in itertools.combinations(zip(p_values, adjusted, strict=True), 2):
        assert (p <= r) is (q <= s) or q == s
