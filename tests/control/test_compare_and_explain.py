"""Runs found in groups, compared by the analysis, and explained against the project of now."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from control import cli
from control.compare import find_group
from control.errors import CheckFailed, UsageError
from control.explain import explain, list_commands, print_explanation
from control.plan import plan
from control.rundir import RunDirectory, write_json
from control.runs import list_runs, show_run
from tests.control.deployment import SPEC, make_project, write_spec


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def make_run(project: Path, name: str = "20260102-030405-small-abcdef", spec: str = SPEC) -> RunDirectory:
    return plan(write_spec(project, spec), "local", project / "runs" / name, root=project)


def read(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())


def explained(run: RunDirectory, project: Path) -> str:
    return "\n".join(f"[{section.title}] {line}" for section in explain(run, project) for line in section.lines)


# --- groups -----------------------------------------------------------------------------------------------------------


def test_groups_are_runs_experiments_patterns_and_lists_of_them(project: Path) -> None:
    one = make_run(project)
    two = make_run(project, "20260103-030405-small-123456")
    other = make_run(project, "20260104-030405-other-777777", SPEC.replace("name: small", "name: other"))
    runs = project / "runs"

    def found(text: str) -> list[str]:
        return [run.name for run in find_group(text, runs)]

    assert found("small") == [one.name, two.name]
    assert found("*-small-*") == [one.name, two.name]
    assert found("abcdef") == [one.name]
    assert found("last") == [other.name]
    assert found(f"777777, small,{one.path}") == [one.name, two.name, other.name]
    with pytest.raises(UsageError, match=r"like '\*nothing\*'"):
        found("*nothing*")
    with pytest.raises(UsageError, match="there is no run 'nothing'"):
        found("small,nothing")
    with pytest.raises(UsageError, match="names no run"):
        found(",")


def test_compare_asks_the_analysis_and_keeps_its_answer(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = make_run(project), make_run(project, "20260103-030405-small-123456")
    commands, codes = [], iter([0, 1])

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, next(codes))

    monkeypatch.setattr("control.compare.subprocess.run", run)
    arguments = ["compare", str(one.path), str(two.path)]
    assert cli.main(arguments) == 0
    assert commands == [["-m", "analysis.compare", "--a", str(one.path), "--b", str(two.path)]]
    assert cli.main(arguments) == CheckFailed.exit_code
    assert cli.main(["compare", str(one.path), str(one.path)]) == UsageError.exit_code


# --- explain ----------------------------------------------------------------------------------------------------------


def test_a_run_of_now_differs_in_nothing_but_the_file_it_came_from(project: Path) -> None:
    (project / "experiments").mkdir()
    (project / "experiments" / "small.yml").write_text(f"# a comment more\n{SPEC}")
    run = make_run(project)
    environment = read(run.path / "environment.json")
    environment["git"] = {"commit": "0" * 40, "dirty": False}
    write_json(run.path / "environment.json", environment)
    lines = explained(run, project).splitlines()
    assert lines == [
        "[Code] The commit was 000000000000; it is None now, and this repository does not hold the other one."
    ]


def test_a_changed_experiment_file_is_told_with_values_then_and_now(project: Path) -> None:
    run = make_run(project)
    (project / "experiments").mkdir()
    assert "No file in experiments/ is named 'small' now" in explained(run, project)
    (project / "experiments" / "broken.yml").write_text("[")
    (project / "experiments" / "mine.yml").write_text(SPEC.replace("rounds: 3", "rounds: 30").replace("[4]", "[4, 8]"))
    text = explained(run, project)
    assert "[Experiment] validators was 4; in experiments/mine.yml it is 4, 8 now." in text
    assert "[Experiment] workload rounds was 3; in experiments/mine.yml it is 30 now." in text
    assert text.count("[Experiment]") == 2


def test_versions_machine_and_deployment_are_told(project: Path) -> None:
    run = make_run(project)
    environment = read(run.path / "environment.json")
    environment["versions"]["aiohttp"] = "3.0.0"
    environment["host"]["cpu"] = "Cortex-A53"
    write_json(run.path / "environment.json", environment)
    inventory = read(run.path / "inventory.json")
    inventory["validators"][0]["host"] = "pi-1"
    write_json(run.path / "inventory.json", inventory)
    text = explained(run, project)
    assert "[Versions] aiohttp was 3.0.0; it is " in text
    assert "[Control machine] cpu was Cortex-A53; it is " in text
    assert "[Deployment] host of validator-1 was pi-1; it is local now." in text
    (project / ".cache" / "local" / "control" / "endpoints.json").unlink()
    assert "[Deployment] Nothing is deployed on inventory 'local' now." in explained(run, project)
    write_json(run.path / "inventory.json", inventory | {"name": "pi"})
    assert "[Deployment] There is no inventory 'pi' now." in explained(run, project)


def git(project: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", str(project), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_code_is_told_by_commits_files_and_uncommitted_changes_and_can_be_had_again(project: Path) -> None:
    (project / ".gitignore").write_text("*\n!node\n!node/**\n")
    (project / "node").mkdir()
    file = project / "node" / "engine.py"
    file.write_text("one\n")
    git(project, "init", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "one")
    file.write_text('it\'s "two"\n')
    run = make_run(project)
    assert explained(run, project).count("[Code] It ran with the same uncommitted changes that are here now.") == 1
    git(project, "checkout", "-q", "node/engine.py")
    (project / "node" / "more.py").write_text("")
    git(project, "add", "node/more.py")
    git(project, "commit", "-qm", "two")
    text = explained(run, project)
    first, second = git(project, "rev-parse", "HEAD~1"), git(project, "rev-parse", "HEAD")
    assert f"The commit was {first[:12]}; it is {second[:12]} now, 1 commit later (1 files changed: node 1)." in text
    assert "It ran with uncommitted changes, kept in environment.json: node/engine.py." in text
    for command in list_commands(run, project)[:2]:
        subprocess.run(["bash", "-ec", command], cwd=project, check=True, capture_output=True)
    assert file.read_text() == 'it\'s "two"\n'


def test_the_commands_repeat_the_run_on_its_inventory(project: Path) -> None:
    run = make_run(project)
    inventory = read(run.path / "inventory.json")
    commands = list_commands(run, project)
    assert commands[-3:-1] == ["./testbed deploy", f"./testbed experiment {run.path}/spec.yml"]
    assert commands[-1] == f"./testbed compare {run.name} last"
    write_json(run.path / "inventory.json", inventory | {"name": "pi"})
    assert "./testbed deploy -i pi" in list_commands(run, project)
    write_json(run.path / "inventory.json", inventory | {"name": "bench"})
    assert "./testbed bench small" in list_commands(run, project)


def test_damaged_records_are_said_to_be_and_break_nothing(project: Path) -> None:
    run = make_run(project)
    (run.path / "environment.json").write_text('{"git": [], "versions": 1}')
    (run.path / "inventory.json").write_text('{"name": "local", "validators": [3], "devices": 1}')
    (run.path / "resolved.json").write_text("[")
    text = explained(run, project)
    assert "[Experiment] resolved.json can't be read" in text
    assert "[Code] The commit was not recorded" in text
    assert "[Versions] Nothing was recorded." in text
    console = Console(file=io.StringIO(), width=200)
    print_explanation(console, run)
    with pytest.raises(UsageError):
        explain(RunDirectory(project), project)


def test_a_commit_from_a_file_is_never_an_option_of_git(project: Path) -> None:
    run = make_run(project)
    environment = read(run.path / "environment.json")
    environment["git"] = {"commit": "--output=/tmp/x", "dirty": False}
    write_json(run.path / "environment.json", environment)
    assert "The commit was --output=/tm; it is" in explained(run, project)


# --- list and show ----------------------------------------------------------------------------------------------------


def printed(function: Any, *arguments: Any) -> str:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as text:
        function(console, *arguments)
    return text.get()


def test_the_list_keeps_names_whole_and_says_how_long_runs_took(project: Path) -> None:
    run = make_run(project)
    write_json(run.cell("k4-b8K-t1K-r1") / "outcome.json", {"status": "ok", "seconds": 125.4})
    (line,) = [line for line in printed(list_runs, project / "runs").splitlines() if run.name in line]
    assert line.split() == [run.name, "small", "local", "0/1", "2", "min", "05", "s", "none", "yet"]


def test_show_says_what_reasons_mean_once_for_each_kind(project: Path) -> None:
    run = make_run(project)
    reason = {"level": "SUSPECT", "cell": "c", "code": "x", "meaning": "It means.", "advice": "Do this."}
    reasons = [reason | {"text": "first"}, reason | {"text": "second"}, {"level": "SUSPECT", "text": "third"}, 7]
    write_json(
        run.path / "verdict.json", {"verdict": "SUSPECT", "reasons": reasons, "cells": {"k4-b8K-t1K-r1": "SUSPECT"}}
    )
    lines = printed(show_run, run).splitlines()
    start = lines.index("SUSPECT c first")
    assert lines[start + 1 : start + 4] == ["SUSPECT c second", "  → It means. Do this.", "SUSPECT  third"]
    assert any(line.split()[:3] == ["k4-b8K-t1K-r1", "not", "run"] and "SUSPECT" in line for line in lines)
