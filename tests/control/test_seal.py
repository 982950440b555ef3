"""Sealed runs: checksums of everything raw, and what the list of runs says."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from control.errors import CheckFailed, UsageError
from control.plan import plan
from control.rundir import RunDirectory
from control.runs import find_run, list_runs, show_run
from control.seal import check_seal, main, seal
from tests.control.deployment import make_project, write_spec


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    project = make_project(tmp_path)
    made = plan(write_spec(project), "local", root=project)
    directory = made.cell(made.cells()[0].id)
    (directory / "rounds.jsonl").write_text("{}\n")
    (directory / "sealed").touch()
    return made


def printed(show: object, *arguments: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(console, *arguments)  # type: ignore[operator]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_seal_lists_every_raw_file_for_sha256sum(run: RunDirectory) -> None:
    count = seal(run)
    listed = [line.split("  ")[1] for line in run.checksums.read_text().splitlines()]
    assert len(listed) == count
    assert "cells/k4-b8K-t1K-r1/rounds.jsonl" in listed
    assert "progress.jsonl" in listed
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=run.path, check=False)
    assert done.returncode == 0


def test_the_last_line_of_progress_is_the_seal(run: RunDirectory) -> None:
    seal(run)
    last = json.loads(run.progress.read_text().splitlines()[-1])
    assert (last["phase"], last["done"], last["total"]) == ("sealed", 1, 1)


def test_what_is_derived_may_change_after_the_seal(run: RunDirectory) -> None:
    seal(run)
    (run.path / "report" / "tables").mkdir(parents=True)
    derived = ("verdict.json", "tables.txt", "figures.json", "ansible.log", "report.html", "report/tables/latency.csv")
    for name in derived:
        (run.path / name).write_text("later")
    (run.cell(run.cells()[0].id) / "influxdb.json").write_text("later")
    assert check_seal(run) == seal(run)


@pytest.mark.parametrize("change", ["changed", "missing", "added"])
def test_what_is_raw_may_not(run: RunDirectory, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    seal(run)
    directory = run.cell("k4-b8K-t1K-r1")
    if change == "changed":
        (directory / "rounds.jsonl").write_text("{ }\n")
    elif change == "missing":
        (directory / "rounds.jsonl").unlink()
    else:
        (directory / "more.jsonl").touch()
    with pytest.raises(CheckFailed, match=f"jsonl (is|was) {change}"):
        check_seal(run)
    assert main([str(run.path)]) == 1
    assert change in capsys.readouterr().err


def test_continuing_an_open_run_breaks_its_seal_and_a_complete_one_keeps_it(run: RunDirectory) -> None:
    project, spec = run.path.parent.parent, run.path / "spec.yml"
    seal(run)
    plan(spec, "local", run.path, root=project)
    assert check_seal(run)
    (run.cell("k4-b8K-t1K-r1") / "sealed").unlink()
    plan(spec, "local", run.path, root=project)
    assert not run.checksums.exists()


def test_what_is_no_run_is_not_sealed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "is no run directory" in capsys.readouterr().err


def test_runs_are_listed_with_their_verdicts(run: RunDirectory) -> None:
    assert "none yet" in printed(list_runs, run.path.parent)
    (run.path / "verdict.json").write_text('{"verdict": "SUSPECT", "reasons": []}')
    (run.path.parent / ".20260101-000000-draft").mkdir()
    text = printed(list_runs, run.path.parent)
    assert run.name in text
    assert "1/1" in text
    assert "SUSPECT" in text
    assert "draft" not in text


def test_no_runs_say_how_to_make_one(tmp_path: Path) -> None:
    assert "./testbed demo" in printed(list_runs, tmp_path)


def test_a_damaged_run_is_listed_as_that(run: RunDirectory) -> None:
    (run.path / "cells.json").write_text("[")
    (run.path / "verdict.json").write_text("[]")
    assert "damaged" in printed(list_runs, run.path.parent)


def test_a_run_is_shown_with_cells_tables_verdict_and_seal(run: RunDirectory) -> None:
    (run.path / "verdict.json").write_text(
        '{"verdict": "INVALID", "reasons": [{"level": "INVALID", "cell": "k4", "text": "a [fork]"}]}'
    )
    (run.path / "tables.txt").write_text("T_ct 12 [34]\n")
    (run.cell("k4-b8K-t1K-r1") / "outcome.json").write_text('{"status": "failed", "message": "lost", "seconds": 3}')
    text = printed(show_run, run)
    cell = "k4-b8K-t1K-r1  failed  3 s            lost"
    for part in (cell, "T_ct 12 [34]", "a [fork]", "verdict: INVALID", "is not sealed"):
        assert part in text
    seal(run)
    assert "files are as they were sealed" in printed(show_run, run)


def test_a_run_is_found_by_path_part_of_its_name_or_as_the_last(run: RunDirectory, tmp_path: Path) -> None:
    runs = run.path.parent
    names = [run.name, run.name[:15], run.name[-6:], "last", str(run.path)]
    assert {find_run(name, runs).path for name in names} == {run.path}
    with pytest.raises(UsageError, match="there is no run 'demo'"):
        find_run("demo", runs)
    with pytest.raises(UsageError, match="there is no run 'last'"):
        find_run("last", tmp_path / "empty")
    plan(run.path / "spec.yml", "local", runs / f"{run.name}2", root=runs.parent)
    with pytest.raises(UsageError, match=r"may be .*; give more of the name"):
        find_run(run.name[:15], runs)
    assert find_run(run.name, runs).path == run.path
