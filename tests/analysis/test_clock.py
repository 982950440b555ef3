"""Several wrong clocks put on one: what all samples allow, with a bound in which the truth lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import load
from analysis.clock import DRIFT_PPM, ClockModel, build_clocks
from analysis.report import analyse
from tests.analysis.skewed import Clock, S, Testbed
from tests.analysis.synthetic import MS, Plan, make_run

HOSTS = {"va": "a", "vb": "b", "vc": "c", "vd": "c"}
DRIFT = DRIFT_PPM * 1e-6


def clocks(*samples: tuple[str, str, int, int, int], reference: str = "a") -> ClockModel:
    """Samples are (own host, peer, time, offset, bound), in ns."""
    columns = ["host", "peer", "time", "offset_ns", "bound_ns"]
    return build_clocks(pd.DataFrame.from_records(list(samples), columns=columns), HOSTS, reference)


def corrected(model: ClockModel, host: str, time: int) -> tuple[int, float]:
    at, bound = model.correct(host, np.array([time], dtype=np.int64))
    return int(at[0]), float(bound[0])


def test_the_reference_needs_no_correction() -> None:
    assert corrected(clocks(("a", "vb", 0, 5, 1)), "a", 1000) == (1000, 0.0)


def test_an_offset_is_used_from_either_side() -> None:
    assert corrected(clocks(("a", "vb", 0, 500, 10)), "b", 500) == pytest.approx((0, 10.0), abs=0.1)
    assert corrected(clocks(("b", "va", 500, -500, 10)), "b", 500) == pytest.approx((0, 10.0), abs=0.1)


def test_the_sample_with_the_least_bound_counts_though_others_are_nearer() -> None:
    model = clocks(("a", "vb", 0, 500, 10), ("a", "vb", 1000, 900_000, 2_000_000), ("a", "vb", 2000, 700, 800))
    at, bound = corrected(model, "b", 1500)
    assert at == 1000
    assert bound == pytest.approx(10 + 1000 * DRIFT, abs=0.1)


def test_samples_that_agree_narrow_the_bound_down_to_what_all_allow() -> None:
    """300 to 700, and 500 to 900: 500 to 700."""
    model = clocks(("a", "vb", 0, 500, 200), ("a", "vb", 0, 700, 200))
    assert corrected(model, "b", 600) == pytest.approx((0, 100.0), abs=0.2)


def test_a_good_sample_ages_until_a_newer_one_is_better() -> None:
    model = clocks(("a", "vb", 0, 500, 10), ("a", "vb", 100 * S, 9_000, 2_000))
    assert corrected(model, "b", 100 * S + 9_000)[0] == 100 * S


def test_the_bound_grows_with_the_distance_from_all_samples() -> None:
    model = clocks(("a", "vb", 0, 0, 10))
    assert corrected(model, "b", 60 * S)[1] == pytest.approx(10 + 60 * S * DRIFT, abs=0.1)
    assert corrected(model, "b", -60 * S)[1] == pytest.approx(10 + 60 * S * DRIFT, abs=0.1)


def test_hosts_that_never_met_are_joined_by_the_path_with_the_least_bounds() -> None:
    direct = ("a", "vc", 0, 7_000, 5_000)
    model = clocks(("a", "vb", 0, 100, 10), ("b", "vc", 0, 1_000, 20), direct)
    assert corrected(model, "c", 1_100) == pytest.approx((0, 30.0), abs=0.5)


def test_without_any_path_there_is_no_time() -> None:
    assert np.isnan(corrected(clocks(("a", "vb", 0, 100, 10)), "c", 0)[1])


def test_samples_within_a_host_of_strangers_and_without_sense_are_left_out() -> None:
    strange = [("a", "vb", 0, 100, -1), ("a", "vb", 0, -(2**63), 5), ("a", "vb", 0, 5, 2**63 - 1)]
    model = clocks(("c", "vd", 0, 100, 10), ("a", "stranger", 0, 100, 10), *strange)
    assert set(model.paths) == {"a"}


def test_the_best_of_many_samples_is_not_lost() -> None:
    samples = [("a", "vb", number * S, 1_000_000, 3 * MS) for number in range(2_000)]
    samples[777] = ("a", "vb", 777 * S, 42, 5)
    at, bound = corrected(clocks(*samples), "b", 778 * S)
    assert at == 778 * S - 42
    assert bound < 1 * MS


def test_clocks_that_are_years_apart_keep_their_nanoseconds() -> None:
    years = 50 * 365 * 86_400 * S
    model = clocks(("a", "vb", 3, years, 10), ("b", "va", years + 3 + S, -years, 10))
    assert corrected(model, "b", years + S) == pytest.approx((S, 10.0), abs=1)


def test_a_clock_that_was_set_is_named_and_what_lies_between_is_uncertain() -> None:
    before, after = ("a", "vb", 0, 0, 10), ("a", "vb", 10 * S, 50 * MS, 10)
    model = clocks(before, ("a", "vb", 5 * S, 20 * MS, 60 * MS), after)
    assert model.contradictions == {("a", "b"): pytest.approx(49 * MS, abs=100)}
    assert corrected(model, "b", -S) == pytest.approx((-S, 10 + S * DRIFT), abs=1)
    assert corrected(model, "b", 11 * S + 50 * MS) == pytest.approx((11 * S, 10 + S * DRIFT), abs=1)
    at, bound = corrected(model, "b", 5 * S)
    assert at - bound <= 5 * S - 50 * MS and at + bound >= 5 * S


offsets = st.integers(-(10**17), 10**17)
rates = st.floats(-DRIFT_PPM / 2.01, DRIFT_PPM / 2.01)
asymmetries = st.dictionaries(st.permutations("abc").map(lambda p: (p[0], p[1])), st.integers(0, 5 * MS))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(offsets, rates), min_size=3, max_size=3),
    asymmetries,
    st.frozensets(st.permutations("abc").map(lambda p: (p[0], p[1])), max_size=3),
    st.integers(0, 1000),
)
def test_the_truth_lies_within_the_bound(
    given_clocks: list[tuple[int, float]],
    asymmetry: dict[tuple[str, str], int],
    blind: frozenset[tuple[str, str]],
    seed: int,
) -> None:
    testbed = Testbed(
        {host: Clock(ahead, ppm) for host, (ahead, ppm) in zip("abc", given_clocks, strict=True)},
        asymmetry_ns=asymmetry,
        blind=blind,
        seed=seed,
    )
    model = build_clocks(testbed.peers(12), testbed.hosts, "a")
    assert not model.contradictions
    check_truth(testbed, model, range(-3 * S, 15 * S, S // 3))


def check_truth(testbed: Testbed, model: ClockModel, moments: range) -> None:
    for host, clock in testbed.clocks.items():
        shown = np.array([clock.shows(true) for true in moments], dtype=np.int64)
        truth = np.array([testbed.clocks["a"].shows(true) for true in moments], dtype=np.int64)
        at, bound = model.correct(host, shown)
        error = np.abs(at - truth)
        assert (np.isnan(bound) | (error <= bound + 5)).all(), (host, error.max(), bound.max())


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(offsets, rates), min_size=3, max_size=3),
    st.lists(st.tuples(st.sampled_from("bc"), st.integers(3, 27), st.integers(20, 5000), st.booleans()), max_size=3),
    st.integers(0, 1000),
)
def test_the_truth_lies_within_the_bound_though_processes_began_anew_with_clocks_that_were_set(
    given_clocks: list[tuple[int, float]], steps: list[tuple[str, int, int, bool]], seed: int
) -> None:
    steps = [step for index, step in enumerate(steps) if all(abs(step[1] - s[1]) > 5 for s in steps[:index])]
    testbed = Testbed(
        {
            host: Clock(
                ahead,
                ppm,
                tuple((at * S + S // 3, size * MS * (1 if up else -1)) for h, at, size, up in steps if h == host),
            )
            for host, (ahead, ppm) in zip("abc", given_clocks, strict=True)
        },
        seed=seed,
    )
    model = build_clocks(testbed.peers(33), testbed.hosts, "a")
    assert bool(model.contradictions) == bool(steps)
    check_truth(testbed, model, range(S, 31 * S, S // 3))


def test_a_clock_that_is_slewed_fast_contradicts_itself() -> None:
    testbed = Testbed({"a": Clock(), "b": Clock(ppm=500.0)})
    assert ("a", "b") in build_clocks(testbed.peers(60), testbed.hosts, "a").contradictions


def test_bounds_are_as_narrow_as_the_shortest_paths_allow() -> None:
    """Of 200 exchanges with delays of 50 to 400 µs each way, some are quick there and some back."""
    testbed = Testbed({"a": Clock(), "b": Clock(7 * S, 20.0)})
    model = build_clocks(testbed.peers(200), testbed.hosts, "a")
    _, bound = model.correct("b", np.arange(10 * S, 190 * S, S) + 7 * S)
    assert bound.max() < 350_000 and np.median(bound) < 250_000


def test_the_host_with_most_validators_is_the_reference(tmp_path: Path) -> None:
    plan = Plan(validators=5, hosts=("a", "z", "z"), client_host="z", skew_ms={"a": 40.0})
    frame = analyse(load(make_run(tmp_path, plan))).cells[0].rounds
    assert frame is not None
    # The last validator of every phase, and the client, are on z; only validators on a need a bound.
    assert (frame.frame["finality_bound"] < 0.4).all()
    assert frame.frame["finality"].median() == pytest.approx(72.0, abs=1e-3)
