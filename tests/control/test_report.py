"""The verb `report`: which run, what it prints, and its exit codes, with a stand-in for the analysis."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from control import cli
from control.plan import plan
from control.rundir import RunDirectory
from tests.control.deployment import make_project, write_spec


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    project = make_project(tmp_path)
    return plan(write_spec(project), "local", root=project)


def analysis(monkeypatch: pytest.MonkeyPatch, run: RunDirectory, code: int, *files: str) -> list[list[str]]:
    """A stand-in that writes the files and ends with the code; its commands."""
    commands: list[list[str]] = []

    def act(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command[1:])
        for name in files:
            (run.path / name).write_text('{"verdict": "SUSPECT"}')
        return subprocess.CompletedProcess(command, code, stdout="many tables")

    monkeypatch.setattr("control.report.subprocess.run", act)
    return commands


@pytest.mark.parametrize("code", [0, 1])
def test_it_prints_verdict_and_place_and_ends_as_the_analysis(
    run: RunDirectory, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = analysis(monkeypatch, run, code, "verdict.json", "report.html")
    assert cli.main(["report", str(run.path)]) == code
    assert commands == [["-m", "analysis", str(run.path), "--report"]]
    assert capsys.readouterr().out == f"verdict: SUSPECT\nreport: {run.path}/report.html\n"


@pytest.mark.parametrize(("code", "files"), [(3, ("verdict.json",)), (0, ()), (2, ("report.html",))])
def test_no_report_is_a_failed_check(
    run: RunDirectory,
    code: int,
    files: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    analysis(monkeypatch, run, code, *files)
    assert cli.main(["report", str(run.path)]) == 1
    assert f"has no report (the analysis ended with {code})" in capsys.readouterr().err


def test_it_opens_a_browser_only_when_asked(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("control.report.webbrowser.open", lambda address: opened.append(address))
    analysis(monkeypatch, run, 0, "verdict.json", "report.html")
    assert cli.main(["report", str(run.path)]) == 0
    assert not opened
    assert cli.main(["report", str(run.path), "--open"]) == 0
    assert opened == [(run.path / "report.html").as_uri()]
    assert "no browser could be started" in capsys.readouterr().out


def test_an_unknown_run_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "no-such-run"]) == 2
    assert "there is no run 'no-such-run'" in capsys.readouterr().err
