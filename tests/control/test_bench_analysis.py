"""``bench analysis``: the run that it makes is one that the analysis believes, and its figures are of that process."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from control.bench.analysis import run_analysis
from control.bench.synthetic_run import make_synthetic_run
from control.errors import CheckFailed
from control.rundir import RunDirectory
from control.seal import check_seal

NAME = "20260101-000000-bench-analysis-000000"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_synthetic_run(tmp_path_factory.mktemp("runs") / NAME, 200_000)


def test_it_has_about_the_points_that_were_asked_for_in_several_cells(run: RunDirectory) -> None:
    points = sum(path.read_bytes().count(b"\n") for path in run.path.rglob("*.lp"))
    assert points == pytest.approx(200_000, rel=0.05)
    assert [len(cell.validators) for cell in run.cells()] == [4, 8, 16]
    assert check_seal(run) > 60


def test_the_analysis_finds_nothing_wrong_with_it(run: RunDirectory) -> None:
    wall, cpu, rss = run_analysis(run.path)
    assert wall > 0 and cpu > 0
    assert rss > 30 << 20  # a process that has imported pandas
    verdict = msgspec.json.decode((run.path / "verdict.json").read_bytes())
    assert (verdict["verdict"], verdict["reasons"]) == ("VALID", [])


def test_an_analysis_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="is no run directory"):
        run_analysis(tmp_path)
