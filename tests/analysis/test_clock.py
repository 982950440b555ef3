"""Several wrong clocks put on one: by the best path, at the best sample, with an honest bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import load
from analysis.clock import DRIFT_PPM, ClockModel, build_clocks
from analysis.report import analyse
from tests.analysis.synthetic import MS, Plan, make_run

S = 10**9
HOSTS = {"va": "a", "vb": "b", "vc": "c", "vd": "c"}


def clocks(*samples: tuple[str, str, int, int, int], reference: str = "a") -> ClockModel:
    """Samples are (own host, peer, time, offset, bound), in ns."""
    columns = ["host", "peer", "time", "offset_ns", "bound_ns"]
    return build_clocks(pd.DataFrame.from_records(list(samples), columns=columns), HOSTS, reference, origin=0)


def corrected(model: ClockModel, host: str, time: float) -> tuple[float, float]:
    at, bound = model.correct(host, np.array([time]))
    return float(at[0]), float(bound[0])


def test_the_reference_needs_no_correction() -> None:
    assert corrected(clocks(("a", "vb", 0, 5, 1)), "a", 1000.0) == (1000.0, 0.0)


def test_an_offset_is_used_from_either_side() -> None:
    assert corrected(clocks(("a", "vb", 0, 500, 10)), "b", 0.0) == (-500.0, 10.0)
    assert corrected(clocks(("b", "va", 0, -500, 10)), "b", 0.0) == (-500.0, 10.0)


def test_the_sample_with_the_least_bound_counts_though_others_are_nearer() -> None:
    model = clocks(("a", "vb", 0, 500, 10), ("a", "vb", 1000, 900_000, 2_000_000), ("a", "vb", 2000, 700, 800))
    at, bound = corrected(model, "b", 1000.0)
    assert at == 500.0
    assert bound == pytest.approx(10 + 1000 * DRIFT_PPM * 1e-6)


def test_a_good_sample_ages_until_a_newer_one_is_better() -> None:
    model = clocks(("a", "vb", 0, 500, 10), ("a", "vb", 100 * S, 9_000, 2_000))
    assert corrected(model, "b", 100.0 * S)[0] == 100.0 * S - 9_000


def test_the_bound_grows_with_the_distance_from_all_samples() -> None:
    model = clocks(("a", "vb", 0, 0, 10))
    assert corrected(model, "b", 60.0 * S)[1] == pytest.approx(10 + 60 * S * DRIFT_PPM * 1e-6)


def test_hosts_that_never_met_are_joined_by_the_path_with_the_least_bounds() -> None:
    direct = ("a", "vc", 0, 7_000, 5_000)
    model = clocks(("a", "vb", 0, 100, 10), ("b", "vc", 0, 1_000, 20), direct)
    assert corrected(model, "c", 0.0) == (-1_100.0, 30.0)


def test_without_any_path_there_is_no_time() -> None:
    at, bound = corrected(clocks(("a", "vb", 0, 100, 10)), "c", 0.0)
    assert np.isnan(at) and np.isnan(bound)


def test_samples_within_a_host_and_of_strangers_are_left_out() -> None:
    model = clocks(("c", "vd", 0, 100, 10), ("a", "stranger", 0, 100, 10), ("a", "vb", 0, 100, -1))
    assert set(model.paths) == {"a"}


def test_many_samples_are_thinned_without_losing_the_best() -> None:
    samples = [("a", "vb", number * S, 1_000_000, 3 * MS) for number in range(2_000)]
    samples[777] = ("a", "vb", 777 * S, 42, 5)
    at, bound = corrected(clocks(*samples), "b", 778.0 * S)
    assert at == pytest.approx(778.0 * S - 42)
    assert bound < 1 * MS


def test_the_host_with_most_validators_is_the_reference(tmp_path: Path) -> None:
    plan = Plan(validators=5, hosts=("a", "z", "z"), client_host="z", skew_ms={"a": 40.0})
    frame = analyse(load(make_run(tmp_path, plan))).cells[0].rounds
    assert frame is not None
    # The last validator of every phase, and the client, are on z; only validators on a need a bound.
    assert (frame.frame["finality_bound"] < 0.4).all()
    assert frame.frame["finality"].median() == pytest.approx(72.0, abs=1e-3)
