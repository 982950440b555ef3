"""Corrupt and hostile run directories: counted with file and line, never a crash; and the command's exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from analysis import NotARun, load
from analysis.__main__ import main
from analysis.report import analyse, write_report
from analysis.verdict import Level
from tests.analysis.synthetic import make_run, read, write

CELL = "cells/k4-b128k"
SPOOL = f"{CELL}/nodes/validator-2/spool"
TAGS = "cell=k4-b128k,host=bench,run=20260102-030405-synthetic-abcdef,validator=validator-2"


def segment_of(path: Path) -> Path:
    (segment,) = (path / SPOOL).iterdir()
    return segment


def problems_after(path: Path, line: bytes) -> list[str]:
    """Put a line before a spool's first one and return what the loader says about the cell."""
    segment = segment_of(path)
    segment.write_bytes(line + b"\n" + segment.read_bytes())
    return [str(problem) for problem in load(path).cells["k4-b128k"].problems]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"garbage", "not line protocol"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"weather,%b degrees=1i 5" % TAGS.encode(), "unknown measurement"),
        (b"block,event=verified,%b id=1i 5" % TAGS.encode(), "block without its fields"),
        (b"spool,%b points=1i,dropped=0i,shift_ns=0i,closed=1i 5" % TAGS.encode(), "spool without its fields"),
        (b"block,%b id=1i 5" % TAGS.encode(), "block without its tags"),
        (b"board,%b cpu_percent=1 5" % TAGS.replace("k4-", "k5-").encode(), "a point of another run or cell"),
        (b"board,%b cpu_percent=1 5" % TAGS.replace("or-2", "or-1").encode(), "a point of another validator"),
        (b"board cpu_percent=1 5", "a point of another run or cell"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path: Path, line: bytes, kind: str) -> None:
    path = make_run(tmp_path)
    assert problems_after(path, line) == [f"{SPOOL}/{segment_of(path).name}:1: {kind}"]


def test_many_bad_lines_of_a_kind_are_one_reason(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    name = f"{SPOOL}/{segment_of(path).name}"
    assert problems_after(path, b"\n".join([b"x"] * 50)) == [
        f"{name}:1: not line protocol (50 lines: 1, 2, 3, 4, 5, …)"
    ]


def test_bad_lines_make_the_run_suspect_and_cost_nothing_else(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    before = load(path)
    problems_after(path, b"\xff\njunk\njunk\njunk")
    after = load(path)
    for name in ("transactions", "blocks", "votes", "peers"):
        assert getattr(after, name).equals(getattr(before, name))
    verdict = analyse(after).verdict
    assert verdict.level is Level.SUSPECT
    assert any("not line protocol (3 lines: 2, 3, 4)" in line for line in verdict.lines())


def test_a_torn_last_line_is_tolerated_but_one_in_a_finished_segment_is_not(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    segment = segment_of(path)
    segment.write_bytes(segment.read_bytes() + b"block,torn")
    assert load(path).cells["k4-b128k"].problems == []
    (segment.parent / segment.name.replace("-000000", "-000001")).write_text("")
    (problem,) = load(path).cells["k4-b128k"].problems
    assert "torn line in a finished segment" in str(problem)


@settings(
    max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damage_anywhere_is_never_a_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = make_run(tmp_path_factory.mktemp("run"))
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3, unique=True)):
        content = file.read_bytes()
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 200)))
        file.write_bytes(content[:start] + data.draw(st.binary(max_size=50)) + content[end:])
    report = analyse(load(path))
    write_report(report, path)
    assert read(path / "verdict.json")["verdict"] == report.verdict.level.name


@pytest.mark.parametrize("document", ["cell.json", "outcome.json", "rounds.jsonl", "nodes/validator-1/digest.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"null", b"\xff", b'{"id": 5}'])
def test_a_broken_document_is_a_reason(tmp_path: Path, document: str, content: bytes) -> None:
    path = make_run(tmp_path)
    (path / CELL / document).write_bytes(content)
    verdict = analyse(load(path)).verdict
    assert verdict.level >= Level.SUSPECT
    if (document, content) != ("rounds.jsonl", b""):
        assert any(document in line for line in verdict.lines()), verdict.lines()


def test_a_round_that_is_recorded_twice_counts_once(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    rounds = path / CELL / "rounds.jsonl"
    rounds.write_text(rounds.read_text() + rounds.read_text().splitlines(True)[5])
    run = load(path)
    assert len(run.rounds) == 12
    assert "1 rounds are recorded more than once" in "\n".join(analyse(run).verdict.lines())


def test_files_of_a_spool_that_are_no_segments_are_left_alone(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (path / SPOOL / "notes.txt").write_text("hello")
    assert load(path).cells["k4-b128k"].problems == []


def test_a_directory_in_place_of_a_segment_is_a_reason(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (path / SPOOL / "9-9.lp").mkdir()
    (problem,) = load(path).cells["k4-b128k"].problems
    assert str(problem) == f"{SPOOL}/9-9.lp: can't be read: Is a directory"


def test_dataframes_have_the_documented_columns(tmp_path: Path) -> None:
    run = load(make_run(tmp_path))
    assert list(run.transactions.columns) == [
        "cell",
        "validator",
        "host",
        "time",
        "event",
        "id",
        "local",
        "height",
        "block",
    ]
    assert run.transactions["time"].dtype == "int64"
    assert len(run.transactions) == 12 * 8 * (4 * 2 + 3)
    assert len(run.votes) == 12 * 4
    assert set(run.peers["peer"]) == {"validator-1", "validator-2", "validator-3", "validator-4"}
    assert list(run.rounds.columns) == [
        "cell",
        "round",
        "warmup",
        "transactions",
        "bytes",
        "submitted_ns",
        "block",
        "status",
    ]


def test_a_run_without_any_cell_measured_nothing(tmp_path: Path) -> None:
    (tmp_path / "run/cells").mkdir(parents=True)
    assert main([str(tmp_path / "run")]) == 1
    assert "nothing was measured" in (tmp_path / "run/tables.txt").read_text()


def test_a_path_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotARun, match="no folder cells"):
        load(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path / "absent")]) == 2
    assert "is no run directory" in capsys.readouterr().err


def test_the_command_prints_plain_text_into_a_pipe_and_writes_its_files(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "analysis", str(path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.rstrip().endswith(f"VALID: {path.name}")
    tables = (path / "tables.txt").read_text()
    assert [line.rstrip() for line in done.stdout.splitlines()] == tables.splitlines()
    assert read(path / "verdict.json") == {
        "run": path.name,
        "verdict": "VALID",
        "cells": {"k4-b128k": "VALID"},
        "reasons": [],
    }


def test_an_invalid_run_is_exit_code_1(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    write(path / CELL / "outcome.json", {"status": "failed", "message": "the power went"})
    assert main([str(path)]) == 1
