"""A cell over time, from rounds whose moments are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis import load
from analysis.moments import bin_edges, bin_medians, finality_lag, find_final_transactions, map_lags
from analysis.timeline import Timeline, build_timeline
from tests.analysis.synthetic import FACTORS, Plan, make_run


def timeline_of(path: Path) -> Timeline:
    run = load(path)
    return build_timeline(run, run.cells["k4-b128k"])


def test_transactions_are_final_when_the_last_validator_has_them(tmp_path: Path) -> None:
    found = find_final_transactions(timeline_of(make_run(tmp_path, Plan(rounds=3, warmup=2, transactions=4))))
    assert found.traced == len(found.final) == 5 * 4
    expected = [60 * FACTORS[number % 5] for number in range(5) for _ in range(4)]
    assert found.latency == pytest.approx(expected, abs=1e-3)
    assert (np.diff(found.submitted) >= 0).all()


def test_what_one_validator_lacks_is_not_final(tmp_path: Path) -> None:
    path = make_run(tmp_path, Plan(rounds=3, warmup=0, transactions=4))
    for segment in (path / "cells/k4-b128k/nodes/validator-2/spool").iterdir():
        lines = [line for line in segment.read_text().splitlines(True) if "height=2i" not in line]
        segment.write_text("".join(lines))
    found = find_final_transactions(timeline_of(path))
    assert (found.traced, len(found.final)) == (12, 8)


def test_finality_lags_by_the_block_that_is_under_way(tmp_path: Path) -> None:
    times, lag = finality_lag(timeline_of(make_run(tmp_path, Plan(rounds=4, warmup=0))), 400)
    assert len(times) == len(lag) == 400
    assert set(lag) == {0.0, 1.0} and lag[-1] == 0.0
    # Proposed 25 ms, final 60 ms after the beginning of a second-long round.
    assert 0.02 < lag.mean() < 0.08


def test_a_validator_without_finality_holds_it_back(tmp_path: Path) -> None:
    path = make_run(tmp_path, Plan(rounds=4, warmup=0))
    for segment in (path / "cells/k4-b128k/nodes/validator-3/spool").iterdir():
        lines = [line for line in segment.read_text().splitlines(True) if "event=finalized" not in line]
        segment.write_text("".join(lines))
    timeline = timeline_of(path)
    _, lag = finality_lag(timeline, 100)
    assert lag[-1] == 4.0
    lags = map_lags(timeline, 10)
    assert lags is not None and np.isnan(lags.lags[2]).all()


def test_lags_are_behind_the_first_validator_and_clocks_are_corrected(tmp_path: Path) -> None:
    skew = {"pi-1": 5000.0, "pi-2": -321.0}
    plan = Plan(rounds=5, warmup=0, hosts=("pi-1", "pi-2"), client_host="pi-1", skew_ms=skew, rtt_ms=0.4)
    lags = map_lags(timeline_of(make_run(tmp_path, plan)), 50)
    assert lags is not None and lags.lags.shape == (4, 5) and len(lags.edges) == 6
    # Validator i of 4 finalizes after 60 · (i + 1)/4 ms.
    expected = np.outer([0, 15, 30, 45], FACTORS)
    assert 0 < lags.bound < 2
    assert np.abs(lags.lags - expected).max() <= lags.bound


def test_many_blocks_share_columns_equally(tmp_path: Path) -> None:
    lags = map_lags(timeline_of(make_run(tmp_path, Plan(rounds=20, warmup=0))), 5)
    assert lags is not None and lags.lags.shape == (4, 5)
    assert np.diff(lags.edges)[:-1] == pytest.approx(4.0, rel=0.01)


def test_a_cell_without_points_has_no_moments(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    for spool in [*path.glob("cells/*/nodes/*/spool/*"), *path.glob("cells/*/client/*")]:
        spool.unlink()
    timeline = timeline_of(path)
    assert len(find_final_transactions(timeline).final) == 0
    assert len(finality_lag(timeline, 10)[0]) == 0 and map_lags(timeline, 10) is None


def test_medians_are_of_the_stretch_that_a_moment_lies_in() -> None:
    times = np.array([0.0, 1.0, 2.0, 9.0, 10.0])
    middles, medians = bin_medians(times, np.array([1.0, 3.0, 8.0, 5.0, 7.0]), bin_edges(times, 5))
    assert middles.tolist() == [1.0, 3.0, 9.0] and medians.tolist() == [2.0, 8.0, 6.0]
    middles, medians = bin_medians(np.array([4.0]), np.array([2.0]), bin_edges(np.array([4.0]), 3))
    assert medians.tolist() == [2.0]
