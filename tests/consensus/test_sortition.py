"""Sortition: exact, in proportion to credit, and how likely a small committee is unsafe."""

from __future__ import annotations

from fractions import Fraction
from hashlib import sha512
from itertools import product
from math import comb, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from microchain.consensus.sortition import (
    claim_alpha,
    compute_units,
    compute_unsafe_probability,
    draw_publicly,
    is_sufficient,
)
from microchain.consensus.types import Dynasty

RANGE = 2**512


def as_output(number: int) -> bytes:
    return number.to_bytes(64, "big")


def outputs(seed: str, count: int) -> list[bytes]:
    return [sha512(f"{seed} {n}".encode()).digest() for n in range(count)]


def probabilities(credit: int, total: int, expected: int) -> list[Fraction]:
    """The binomial distribution, term by term from its definition."""
    p = min(Fraction(1), Fraction(expected, total))
    return [comb(credit, j) * p**j * (1 - p) ** (credit - j) for j in range(credit + 1)]


def invert(output: bytes, credit: int, total: int, expected: int) -> int:
    """The independent computation: the place of output / 2^512 among the sums, in fractions."""
    at, below = Fraction(int.from_bytes(output, "big"), RANGE), Fraction(0)
    for units, probability in enumerate(probabilities(credit, total, expected)):
        below += probability
        if at < below:
            return units
    raise AssertionError("the distribution sums up to less than 1")


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=64, max_size=64), st.integers(1, 60), st.integers(0, 300), st.integers(1, 400))
def test_units_are_those_of_the_distribution_in_fractions(
    output: bytes, credit: int, others: int, expected: int
) -> None:
    total = credit + others
    assert compute_units(output, credit, total, expected) == invert(output, credit, total, min(expected, total))


@pytest.mark.parametrize(("credit", "total", "expected"), [(1, 2, 1), (7, 30, 11), (100, 1600, 16), (12, 12, 5)])
def test_units_change_exactly_at_the_bounds(credit: int, total: int, expected: int) -> None:
    below = Fraction(0)
    for units, probability in enumerate(probabilities(credit, total, expected)):
        below += probability
        first_above = -(-RANGE * below.numerator // below.denominator)
        assert compute_units(as_output(first_above - 1), credit, total, expected) <= units
        if first_above < RANGE:
            assert compute_units(as_output(first_above), credit, total, expected) > units


def test_lowest_output_draws_nothing_the_highest_much_and_none_more_than_there_is() -> None:
    assert compute_units(bytes(64), 100, 1600, 16) == 0
    assert 40 < compute_units(b"\xff" * 64, 100, 1600, 16) <= 100
    assert compute_units(b"\xff" * 64, 3, 1000, 999) == 3


@pytest.mark.parametrize("expected", [1600, 1601, 10**6])
def test_all_units_are_drawn_where_as_many_are_expected_as_there_are(expected: int) -> None:
    assert compute_units(bytes(64), 100, 1600, expected) == compute_units(b"\xff" * 64, 100, 1600, expected) == 100


def test_draws_follow_the_binomial_distribution_by_the_chi_square_test() -> None:
    """20,000 draws with a fixed seed; the bound is the 99.9 % quantile of chi-square with 5 degrees of freedom."""
    draws, credit, total, expected = 20_000, 100, 1600, 16
    seen = [0] * 6
    for output in outputs("binomial", draws):
        seen[min(5, compute_units(output, credit, total, expected))] += 1
    chances = probabilities(credit, total, expected)
    chances = [*chances[:5], sum(chances[5:], Fraction(0))]
    statistic = sum(
        (count - draws * chance) ** 2 / (draws * chance) for count, chance in zip(seen, chances, strict=True)
    )
    assert statistic < 20.5


def test_selection_is_in_proportion_to_credit_by_the_chi_square_test() -> None:
    """Five validators, 4,000 dynasties, a fixed seed; 99.9 % quantile with 5 degrees of freedom."""
    draws, credits, expected = 4000, [10, 40, 150, 800, 1000], 20
    total = sum(credits)
    p = Fraction(expected, total)
    statistic = Fraction(0)
    for index, credit in enumerate(credits):
        drawn = sum(compute_units(output, credit, total, expected) for output in outputs(f"v{index}", draws))
        statistic += (drawn - draws * credit * p) ** 2 / (draws * credit * p * (1 - p))
    assert statistic < 20.5


def test_committee_needs_its_minimum_and_two_thirds_of_the_units() -> None:
    assert is_sufficient([3, 3, 3, 2], 16, 4)
    assert not is_sufficient([3, 3, 3, 1], 16, 4)
    assert is_sufficient([2, 2, 2, 2], 12, 4)
    assert not is_sufficient([9, 9, 9], 16, 4)
    assert not is_sufficient([], 1, 0)


def test_claims_of_each_dynasty_attempt_and_beacon_are_drawn_anew() -> None:
    alphas = {
        claim_alpha(beacon, Dynasty(dynasty), attempt)
        for beacon, dynasty, attempt in product((b"a" * 32, b"b" * 32), (2, 3), (0, 1))
    }
    assert len(alphas) == 8


def test_public_draw_is_sufficient_differs_by_seed_and_takes_all_where_none_suffices() -> None:
    credits = [(bytes([n]) * 32, 100) for n in range(100)]
    draws = {draw_publicly(bytes([seed]) * 32, credits, 16, 4) for seed in range(10)}
    assert len(draws) == 10
    assert all(4 <= len(draw) < 40 for draw in draws)
    assert len(draw_publicly(b"", credits[:3], 16, 4)) == 3


# --- safety ---


def enumerate_unsafe(members: list[tuple[int, int]], byzantine: int, expected: int) -> Fraction:
    """Every committee that can be drawn, one by one; the first ``byzantine`` members are Byzantine."""
    total = sum(credit for credit, _ in members)
    p = min(Fraction(1), Fraction(expected, total))
    chances = [1 - (1 - p) ** credit for credit, _ in members]
    unsafe = Fraction(0)
    for drawn in product((False, True), repeat=len(members)):
        weight = sum(w for (_, w), present in zip(members, drawn, strict=True) if present)
        bad = sum(w for (_, w), present in zip(members[:byzantine], drawn, strict=False) if present)
        if bad and 3 * bad >= weight:
            unsafe += prod(
                (c if present else 1 - c for c, present in zip(chances, drawn, strict=True)), start=Fraction(1)
            )
    return unsafe


@pytest.mark.parametrize("expected", [3, 10, 50, 2000])
def test_unsafe_probability_is_that_of_all_committees_counted_one_by_one(expected: int) -> None:
    members = [
        (300, 125),
        (200, 125),
        (100, 100),
        (100, 100),
        (80, 80),
        (70, 70),
        (60, 60),
        (50, 60),
        (20, 60),
        (10, 60),
    ]
    exact = enumerate_unsafe(members, 2, expected)
    assert compute_unsafe_probability(members, expected) == pytest.approx(float(exact), abs=1e-12)


def test_sixteen_equal_validators_with_sixteen_units_expected_are_unsafe() -> None:
    assert compute_unsafe_probability([(100, 100)] * 16, 16) == pytest.approx(0.048, abs=0.0005)
    assert compute_unsafe_probability([(100, 100)] * 16, 24) < 0.01


def test_many_different_weights_are_rounded_to_the_unsafe_side() -> None:
    equal = compute_unsafe_probability([(100, 1000)] * 50, 30)
    uneven = compute_unsafe_probability([(100, 1000 - n % 2) for n in range(50)], 30)
    assert equal <= uneven < 1.5 * equal


def test_larger_committees_are_safer() -> None:
    chances = [compute_unsafe_probability([(100, 100)] * 200, expected) for expected in (16, 64, 128)]
    assert chances[0] > 0.05 > chances[1] > chances[2]
