"""The line of the run in `./testbed watch`: which run, which cell, and a time left that is never made up."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from control.plan import plan
from control.progress import Phase, Progress, append_progress
from control.rundir import RunDirectory
from control.watch.sweep import Sweep, SweepWatch, find_latest_run
from tests.control.deployment import SPEC, make_project, write_spec

FIRST, SECOND, THIRD = (f"k4-b8K-t1K-r{number}" for number in (1, 2, 3))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


@pytest.fixture
def run(project: Path) -> RunDirectory:
    return make_run(project)


def make_run(project: Path) -> RunDirectory:
    return plan(write_spec(project, SPEC + "repeats: 3\n"), "local", root=project)


def step(cell: str, phase: Phase, at: float, done: int = 0, total: int = 0) -> Progress:
    moment = datetime.fromtimestamp(at, UTC).isoformat()
    return Progress(at=moment, cell=cell, phase=phase, done=done, total=total)


def sweep_of(run: RunDirectory, *steps: Progress) -> Sweep:
    sweep = Sweep(run)
    for one in steps:
        sweep.apply(one)
    return sweep


def test_the_time_left_is_unknown_until_a_cell_was_measured(run: RunDirectory) -> None:
    sweep = sweep_of(run, step(FIRST, "genesis", 100), step(FIRST, "round", 105, 2, 3))
    line = sweep.line(106)
    assert line == f"{run.name} · 0/3 cells · {FIRST} round 2/3, 6 s · time left not known until a cell is done"


def test_the_time_left_comes_from_the_cells_that_are_done(run: RunDirectory) -> None:
    steps = [step(FIRST, "genesis", 100), step(FIRST, "collected", 130), step(SECOND, "genesis", 130)]
    assert sweep_of(run, *steps).line(140).endswith("1/3 cells · " + f"{SECOND} genesis, 10 s · about 50 s left")


def test_a_cell_that_failed_says_nothing_of_the_time(run: RunDirectory) -> None:
    line = sweep_of(run, step(FIRST, "genesis", 100), step(FIRST, "failed", 110)).line(111)
    assert line.endswith("1/3 cells · 1 failed · time left not known until a cell is done")


def test_a_last_cell_that_takes_longer_than_all_others_makes_no_promise(run: RunDirectory) -> None:
    steps = []
    for number, cell in enumerate((FIRST, SECOND)):
        steps += [step(cell, "genesis", 10 * number), step(cell, "collected", 10 * number + 10)]
    line = sweep_of(run, *steps, step(THIRD, "genesis", 20), step(THIRD, "running", 49, 1, 5)).line(50)
    assert line.endswith("time left not known: longer than the cells before")


def test_a_run_without_a_word_is_not_said_to_go_on(run: RunDirectory) -> None:
    steps = [step(FIRST, "genesis", 100), step(FIRST, "collected", 130), step(SECOND, "genesis", 130)]
    sweep = sweep_of(run, *steps)
    assert "no word for 20 s · about" in sweep.line(150)
    assert sweep.line(7330).endswith("no word for 2 h 00 min: interrupted? time left not known")


def test_a_sealed_run_is_done_until_it_is_continued(run: RunDirectory) -> None:
    sweep = sweep_of(run, step(FIRST, "collected", 100), step("", "sealed", 101))
    assert sweep.line(9999).endswith("1/3 cells · done")
    sweep.apply(step(SECOND, "genesis", 200))
    assert sweep.line(201).endswith(f"1/3 cells · {SECOND} genesis, 1 s · time left not known until a cell is done")


def test_a_run_whose_last_cell_ended_promises_nothing_more(run: RunDirectory) -> None:
    sweep = sweep_of(run, *(step(cell, "failed", 100) for cell in (FIRST, SECOND, THIRD)))
    assert sweep.line(140) == f"{run.name} · 3/3 cells · 3 failed · all cells have ended"


def test_the_run_shown_is_that_of_the_inventory_which_had_the_last_word(project: Path) -> None:
    runs = project / "runs"
    assert find_latest_run("local", runs) is None
    assert SweepWatch("local", runs).line() == "no experiment ran here yet"
    older, newer = make_run(project), make_run(project)
    os.utime(older.progress, (time.time() - 100,) * 2)
    watch = SweepWatch("local", runs)
    assert find_latest_run("pi", runs) is None
    assert watch.line().startswith(newer.name)
    os.utime(newer.progress, (time.time() - 200,) * 2)
    append_progress(older.progress, Progress(cell=FIRST, phase="genesis"))
    assert watch.line().startswith(f"{older.name} · 0/3 cells · {FIRST} genesis")


def test_a_damaged_run_ends_nothing(project: Path, run: RunDirectory) -> None:
    (run.path / "cells.json").write_bytes(b"{")
    assert SweepWatch("local", project / "runs").line() == "no experiment ran here yet"
    (run.path / "inventory.json").write_bytes(b"\xff")
    assert find_latest_run("local", project / "runs") is None
