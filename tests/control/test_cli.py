"""The command line: help, exit codes, the commands it prints and runs, and ending in order."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control import cli, playbooks, verbs
from control.errors import CheckFailed, DeploymentFailed, UsageError
from control.plan import plan
from control.playbooks import playbook_command, run_logged, run_playbook
from control.project import ROOT
from tests.control.deployment import SPEC, make_project, write_spec

VERBS = [
    "demo",
    "deploy",
    "experiment",
    "status",
    "collect",
    "stop",
    "reset",
    "teardown",
    "test",
    "bench",
    "influx",
    "exec",
    "logs",
    "simulate",
    "runs",
    "report",
]


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'node'}"}
    command = [sys.executable, "-m", "control", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


@pytest.fixture
def ansible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for ansible-playbook: writes its arguments to ``calls`` and then does what ``act`` says."""
    program = tmp_path / "ansible-playbook"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\necho said by ansible\n. {tmp_path}/act\n')
    program.chmod(0o755)
    (tmp_path / "act").write_text("true\n")
    monkeypatch.setattr(playbooks, "_program", lambda: str(program))
    return tmp_path


def test_help_names_every_verb_and_the_exit_codes() -> None:
    done = run_cli("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert f"    {verb}" in done.stdout
    assert "exit codes:" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [[], ["depoly"], ["runs"], ["experiment"], ["bench", "all"], ["demo", "--fast"], ["experiment", "x.yml", "-v"]],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2


def test_a_wrong_experiment_file_ends_with_2_and_its_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(tmp_path, SPEC.replace("rounds: 3", "ruonds: 3"))
    assert cli.main(["experiment", str(spec)]) == 2
    assert "experiment.yml:5: unknown key 'ruonds' in 'workload'; did you mean 'rounds'?" in capsys.readouterr().err


def test_an_unknown_inventory_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["deploy", "-i", "moon"]) == 2
    assert "there is no inventory 'moon'" in capsys.readouterr().err


def test_a_verb_prints_the_command_that_it_runs(ansible: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["deploy", "--check", "-i", "local", "-e", "x=1"]) == 0
    command = "playbooks/deploy.yml -i inventory/local --check -e x=1"
    assert (ansible / "calls").read_text().strip() == command
    output = capfd.readouterr().out
    assert command in output
    assert output.index(command) < output.index("said by ansible")


def test_a_failed_playbook_ends_with_3(ansible: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (ansible / "act").write_text("exit 4\n")
    assert cli.main(["stop"]) == 3
    assert "playbooks/stop.yml failed (ansible-playbook ended with 4)" in capfd.readouterr().err


def test_variables_are_passed_so_that_ansible_reads_what_was_meant() -> None:
    command = playbook_command("deploy", "local", {"a": "x", "b": "with space", "c": 3})
    assert command[4:] == ["-e", "a=x", "-e", '{"b": "with space"}', "-e", '{"c": 3}']


def test_a_playbook_that_does_not_exist_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"playbooks/fly\.yml does not exist"):
        playbook_command("fly", "local")


def test_a_logged_command_says_what_it_was_and_what_it_said(ansible: Path) -> None:
    log = ansible / "logs" / "x.log"
    code = run_logged([str(ansible / "ansible-playbook"), "p.yml"], log, lambda: time.sleep(0.01))
    assert code == 0
    assert log.read_text().splitlines() == [f"$ {ansible}/ansible-playbook p.yml", "said by ansible"]


def test_an_interruption_ends_what_was_started(ansible: Path) -> None:
    (ansible / "act").write_text(
        f"trap 'echo ended >> {ansible}/calls; exit 1' INT\necho ready\nwhile :; do sleep 0.05; done\n"
    )

    def interrupt() -> None:
        if "ready" in (ansible / "x.log").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_logged([str(ansible / "ansible-playbook")], ansible / "x.log", interrupt)
    assert (ansible / "calls").read_text().splitlines()[-1] == "ended"


def test_a_command_in_the_foreground_fails_with_what_it_ran(ansible: Path) -> None:
    (ansible / "act").write_text("exit 2\n")
    with pytest.raises(DeploymentFailed, match=r"p\.yml failed \(ansible-playbook ended with 2\)"):
        run_playbook([str(ansible / "ansible-playbook"), "p.yml"])


class TestExperiment:
    """The verb `experiment` with a stand-in for Ansible and a project of its own."""

    @pytest.fixture
    def spec(self, ansible: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        project = make_project(ansible / "project")
        monkeypatch.setattr(verbs, "plan", functools.partial(plan, root=project))
        return write_spec(project)

    def act(self, ansible: Path, script: str) -> None:
        (ansible / "act").write_text(f"run=$(echo {ansible}/project/runs/2*)\n{script}\n")

    @pytest.mark.parametrize(("verdict", "code"), [("VALID", 0), ("SUSPECT", 0), ("INVALID", 1)])
    def test_the_verdict_decides(
        self, ansible: Path, spec: Path, verdict: str, code: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.act(ansible, f"""echo '{{"verdict":"{verdict}"}}' > $run/verdict.json; echo a table > $run/tables.txt""")
        assert cli.main(["experiment", str(spec)]) == code
        output = capsys.readouterr().out
        assert "playbooks/experiment.yml -i inventory/local -e experiment=" in output
        assert "a table" in output
        assert f"verdict: {verdict}" in output

    def test_progress_is_shown_while_it_runs(
        self, ansible: Path, spec: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = '{"cell":"k4-b8K-t1K-r1","phase":"ready","done":4,"total":4,"at":"2026-11-23T12:34:56.000+00:00"}'
        self.act(ansible, f"""echo '{line}' >> $run/progress.jsonl; echo '{{"verdict":"VALID"}}' > $run/verdict.json""")
        assert cli.main(["experiment", str(spec)]) == 0
        assert "12:34:56 k4-b8K-t1K-r1 ready 4/4" in capsys.readouterr().out

    def test_no_verdict_ends_with_3_and_the_end_of_ansibles_log(
        self, ansible: Path, spec: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.act(ansible, "echo host unreachable; exit 4")
        assert cli.main(["experiment", str(spec)]) == 3
        error = capsys.readouterr().err
        assert "ended with 4" in error
        assert "host unreachable" in error
        assert "ansible.log" in error

    def test_an_interruption_stops_the_validators(
        self, ansible: Path, spec: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.act(ansible, "case $1 in *experiment*) exec sleep 250;; esac")

        def interrupt(self: object) -> None:
            calls = ansible / "calls"
            if calls.exists() and calls.read_text().endswith("\n"):
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

        monkeypatch.setattr("control.live._Follower.update", interrupt)
        assert cli.main(["experiment", str(spec)]) == 130
        assert [line.split()[0] for line in (ansible / "calls").read_text().splitlines()] == [
            "playbooks/experiment.yml",
            "playbooks/stop.yml",
        ]
        assert "can be continued with --run-dir" in capsys.readouterr().out


def test_tests_and_simulations_pass_their_arguments_and_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter([0, 2, 1])
    commands = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, next(codes))

    monkeypatch.setattr("control.verbs.subprocess.run", run)
    assert cli.main(["test", "-k", "merkle", "--lf"]) == 0
    assert cli.main(["simulate", "--seed", "x"]) == 2
    assert cli.main(["test"]) == CheckFailed.exit_code
    assert commands[0][:2] == ["-m", "pytest"] and commands[0][-3:] == ["-k", "merkle", "--lf"]
    assert commands[1] == ["-m", "microchain.simulator", "--seed", "x"]
