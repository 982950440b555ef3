"""``./testbed influx backfill RUN``: all cells of a run, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from control import cli
from control.influx import backfill
from control.rundir import RunDirectory
from tests.influx.cells import VALIDATORS, CollectedCell
from tests.influx.servers import InfluxServer


@pytest.fixture
def analysed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that were analysed again; the analysis itself is not of interest here."""
    runs: list[Path] = []

    def make_report(run: RunDirectory, console: object) -> int:
        runs.append(run.path)
        return 0

    monkeypatch.setattr(backfill, "make_report", make_report)
    return runs


def test_a_run_is_backfilled_and_analysed_again(
    influx_server: InfluxServer, tmp_path: Path, analysed: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cell = CollectedCell(tmp_path)
    cell.write_spool(VALIDATORS[0], cell.points(VALIDATORS[0], 20))
    command = ["influx", "backfill", str(cell.run), "--connection", str(influx_server.connection_file)]
    assert cli.main(command) == 0
    assert (
        f"{cell.cell.id}: InfluxDB equals the spools: 20 points, 0 streamed, 20 backfilled" in capsys.readouterr().out
    )
    assert analysed == [cell.run]

    influx_server.write([cell.line(VALIDATORS[1], 5, {"id": "extra"}, event="accepted")])
    assert cli.main(command) == 1
    captured = capsys.readouterr()
    assert f"  {VALIDATORS[1]}: 1 points in InfluxDB are in no spool" in captured.out
    assert f"InfluxDB does not hold what the spools hold of {cell.cell.id}" in captured.err
    assert analysed == [cell.run, cell.run]


def test_a_cell_without_points_is_left_alone(
    influx_server: InfluxServer, tmp_path: Path, analysed: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cell = CollectedCell(tmp_path)
    assert cli.main(["influx", "backfill", str(cell.run), "--connection", str(influx_server.connection_file)]) == 0
    assert f"{cell.cell.id}: has no points" in capsys.readouterr().out
    assert not (cell.directory / "influxdb.json").exists()


def test_without_a_connection_nothing_is_touched(
    tmp_path: Path, analysed: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cell = CollectedCell(tmp_path)
    cell.write_spool(VALIDATORS[0], cell.points(VALIDATORS[0], 1))
    assert cli.main(["influx", "backfill", str(cell.run), "--connection", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    assert not (cell.directory / "influxdb.json").exists()
    assert analysed == []
