"""The display of a run: a table in a terminal, plain lines in a pipe, an estimate that rests on what was seen."""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from control.live import RunView, follow, shown_seconds
from control.plan import plan
from control.progress import Phase, Progress, ProgressTail, append_progress
from control.rundir import RunDirectory
from tests.control.deployment import SPEC, make_project, write_spec

FIRST, SECOND = "k4-b8K-t1K-r1", "k4-b8K-t1K-r2"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    project = make_project(tmp_path)
    return plan(write_spec(project, SPEC + "repeats: 2\n"), "local", root=project)


def view_of(run: RunDirectory) -> RunView:
    view = RunView(run.name, run.cells())
    view.began = 0.0
    return view


def step(cell: str, phase: Phase, at: float, done: int = 0, total: int = 0, message: str = "") -> Progress:
    moment = datetime.fromtimestamp(at, UTC).isoformat()
    return Progress(at=moment, cell=cell, phase=phase, done=done, total=total, message=message)


def rendered(view: RunView, now: float) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(view.render(now))
    return console.export_text()


def test_the_table_shows_each_cells_phase_progress_and_time(run: RunDirectory) -> None:
    view = view_of(run)
    view.apply(step(FIRST, "genesis", 100))
    view.apply(step(FIRST, "ready", 103, 4, 4))
    view.apply(step(FIRST, "round", 105, 5, 10))
    text = rendered(view, 106.5)
    (first,) = [line for line in text.splitlines() if FIRST in line]
    assert "round" in first
    assert "━━━━━━━━━━──────────  5/10".replace("  ", " ") in first
    assert "6.5" in first
    (second,) = [line for line in text.splitlines() if SECOND in line]
    assert "planned" in second
    assert "0/2 cells · 1 min 46 s · time left not known yet" in text


def test_what_is_left_is_estimated_from_what_cells_took(run: RunDirectory) -> None:
    view = view_of(run)
    assert view.remaining(100) is None
    view.apply(step(FIRST, "genesis", 100))
    view.apply(step(FIRST, "collected", 130))
    assert view.remaining(130) == pytest.approx(30)
    view.apply(step(SECOND, "genesis", 130))
    assert view.remaining(140) == pytest.approx(20)
    assert view.remaining(999) == 0
    assert "1/2 cells" in view.headline(140)
    assert "about 20 s left" in view.headline(140)


def test_a_failed_cell_stays_failed_with_its_reason_while_it_is_collected(run: RunDirectory) -> None:
    view = view_of(run)
    view.apply(step(FIRST, "genesis", 100))
    view.apply(step(FIRST, "failed", 110, message="validator-2 is lost"))
    view.apply(step(FIRST, "collected", 112, message="3 of 4"))
    text = rendered(view, 113)
    assert "validator-2 is lost" in text
    assert "failed" in text
    assert "1 failed" in view.headline(113)
    assert view.failures() == [f"{FIRST} failed: validator-2 is lost"]
    assert view.remaining(113) is None


def test_a_cell_that_is_compared_with_influxdb_has_ended_and_says_what_came_of_it(run: RunDirectory) -> None:
    view = view_of(run)
    for at, phase in enumerate(("genesis", "collected", "sealed", "comparing", "compared")):
        view.apply(step(FIRST, phase, 100 + at, 1, 5, "equal" if phase == "compared" else ""))  # type: ignore[arg-type]
        if at:
            assert "1/2 cells" in view.headline(200)
    assert "equal" in rendered(view, 200)
    assert view.states[FIRST].seconds(200) == 4


def test_a_second_attempt_begins_afresh(run: RunDirectory) -> None:
    view = view_of(run)
    view.apply(step(FIRST, "genesis", 100))
    view.apply(step(FIRST, "failed", 110, message="lost"))
    view.apply(step(FIRST, "genesis", 200))
    state = view.states[FIRST]
    assert (state.failed, state.message, state.seconds(205)) == (False, "", 5)


def test_lines_of_other_cells_and_odd_times_are_left_alone(run: RunDirectory) -> None:
    view = view_of(run)
    view.apply(step("k9-b1K-t1K-r1", "round", 1))
    view.apply(Progress(at="yesterday", cell=FIRST, phase="genesis"))
    assert view.states[FIRST].started is not None


def play(run: RunDirectory) -> None:
    append_progress(run.progress, step(FIRST, "genesis", 100))
    append_progress(run.progress, step(FIRST, "ready", 100, 4, 4))
    append_progress(run.progress, step(FIRST, "warmup", 100, 1, 1))
    for done in range(1, 21):
        append_progress(run.progress, step(FIRST, "round", 100, done, 20))
    append_progress(run.progress, step(FIRST, "failed", 101, message="[red]lost[/red]"))
    append_progress(run.progress, step("", "sealed", 102, 0, 2))


def test_a_pipe_gets_a_few_plain_lines(run: RunDirectory) -> None:
    output = io.StringIO()
    with follow(run, Console(file=output, width=40)):
        play(run)
    lines = output.getvalue().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        f"{FIRST} genesis",
        f"{FIRST} ready 4/4",
        f"{FIRST} warmup 1/1",
        f"{FIRST} round 5/20",
        f"{FIRST} round 10/20",
        f"{FIRST} round 15/20",
        f"{FIRST} round 20/20",
        f"{FIRST} failed: [red]lost[/red]",
        "run sealed 0/2",
    ]
    assert "\x1b" not in output.getvalue()


def test_a_terminal_gets_a_table_that_is_drawn_anew(run: RunDirectory) -> None:
    output = io.StringIO()
    with follow(run, Console(file=output, width=120, force_terminal=True)) as display:
        play(run)
        display.read()
    assert "\x1b[" in output.getvalue()
    assert "1 failed" in output.getvalue()
    assert SECOND in output.getvalue()


def test_what_was_written_before_is_not_shown_again(run: RunDirectory) -> None:
    play(run)
    output = io.StringIO()
    with follow(run, Console(file=output, width=80)):
        pass
    assert output.getvalue() == ""


def test_a_tail_waits_for_whole_lines_and_counts_what_is_no_progress(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    tail = ProgressTail(path)
    assert tail.read() == []
    line = b'{"phase":"ready","cell":"a"}\n'
    path.write_bytes(line + b"rubbish\n" + line[:10])
    assert [p.phase for p in tail.read()] == ["ready"]
    with path.open("ab") as stream:
        stream.write(line[10:])
    assert [p.cell for p in tail.read()] == ["a"]
    assert tail.skipped == 1


def test_a_tail_gets_past_a_line_that_never_ends(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_bytes(b"x" * (3 << 20) + b'\n{"phase":"ready"}\n')
    tail = ProgressTail(path)
    assert [p.phase for _ in range(5) for p in tail.read()] == ["ready"]


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            for done in range(100):
                append_progress(path, Progress(cell=f"c{number}", phase="round", done=done, message="x" * 200))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    steps = ProgressTail(path).read()
    assert len(steps) == 400
    for number in range(4):
        assert [s.done for s in steps if s.cell == f"c{number}"] == list(range(100))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min")]
)
def test_durations_are_shown_for_people(seconds: float, text: str) -> None:
    assert shown_seconds(seconds) == text
