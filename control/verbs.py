"""What each verb of ``./testbed`` does; returns the exit code, raises ControlError."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from control.errors import CheckFailed, DeploymentFailed
from control.explain import print_explanation
from control.influx.connection import DEFAULT
from control.influx.demo import server_for_demo
from control.live import follow, shown_seconds
from control.plan import plan
from control.playbooks import hosts_left_out, log_tail, playbook_command, run_logged, run_playbook
from control.project import ROOT, shown_path
from control.report import print_report
from control.rundir import ANSIBLE_LOG, RunDirectory
from control.runs import find_run, list_runs, read_verdict, show_run

__all__ = ["demo", "doctor", "emulate", "experiment", "playbook", "run_experiment", "runs", "simulate", "test"]

_DEMO = ROOT / "experiments" / "demo.yml"
_CHECKS = {"verify-clean"}
_WAIT_S = 0.25


def playbook(options: argparse.Namespace, console: Console) -> int:
    """Run the playbook of the verb's name; CheckFailed if the check that it is fails."""
    command = playbook_command(options.playbook, options.inventory, arguments=options.arguments)
    try:
        run_playbook(command)
    except DeploymentFailed as error:
        if options.playbook in _CHECKS:
            raise CheckFailed(str(error)) from None
        raise
    return 0


def experiment(options: argparse.Namespace, console: Console) -> int:
    """Plan and run an experiment with a live display, then print its tables and verdict."""
    run = plan(options.file, options.inventory, options.run_dir)
    for cell in run.cells():
        if cell.refused:
            console.print(f"{cell.id} is not run: {cell.refused}", markup=False, soft_wrap=True)
    return run_experiment(run, options.file, options.inventory, console)


def demo(options: argparse.Namespace, console: Console) -> int:
    """Deploy, run the demo experiment, stop what that started."""
    began = time.monotonic()
    with _server(options, console) as variables:
        with _step(console, "deploy"):
            _run_quietly("deploy", options.inventory, console)
        try:
            with _step(console, "experiment"):
                run = plan(_DEMO, options.inventory)
                code = run_experiment(run, _DEMO, options.inventory, console, variables)
        finally:
            with _step(console, "stop"):
                _run_quietly("stop", options.inventory, console)
    console.print(f"demo: {shown_seconds(time.monotonic() - began)} in all; the run is {shown_path(run.path)}")
    return code


def run_experiment(
    run: RunDirectory, file: Path, inventory: str, console: Console, variables: Mapping[str, str] | None = None
) -> int:
    """Run a planned run's open cells by the playbook with these ``variables``; return the exit code.

    It is 1 for the verdict INVALID, 3 for another one where hosts were left out, else 0. DeploymentFailed if it did not
    come to a verdict. An interruption stops the validators before it goes on.
    """
    own = {"experiment": shown_path(file, ROOT), "run_dir": shown_path(run.path, ROOT)}
    command = playbook_command("experiment", inventory, {**own, **(variables or {})})
    console.print(f"$ {' '.join(command)}", markup=False, soft_wrap=True)
    log = run.path / ANSIBLE_LOG
    try:
        with follow(run, console) as progress:
            code = run_logged(command, log, progress.update)
        if console.is_terminal:
            for failure in progress.view.failures():
                console.print(failure, markup=False, style="red")
    except KeyboardInterrupt:
        console.print("interrupted: stopping the validators; the run can be continued with --run-dir")
        _run_quietly("stop", inventory, console)
        raise
    verdict = read_verdict(run)
    if verdict is None:
        raise DeploymentFailed(f"no verdict was reached (ansible-playbook ended with {code}):\n{log_tail(log)}\n{log}")
    _print_results(run, verdict, console)
    for sentence in hosts_left_out(log):
        console.print(sentence, markup=False, soft_wrap=True)
    return 1 if verdict == "INVALID" else DeploymentFailed.exit_code if code else 0


def runs(options: argparse.Namespace, console: Console) -> int:
    """List runs, show one, or explain what differs from now."""
    if options.action == "list":
        list_runs(console)
    elif options.action == "explain":
        print_explanation(console, find_run(options.run_name))
    else:
        show_run(console, find_run(options.run_name))
    return 0


def test(options: argparse.Namespace, console: Console) -> int:
    """Run pytest, on two cores; tests that deploy take turns."""
    shared = ["-n", "2", "--dist", "loadgroup"]
    return _run_module("pytest", [*shared, *options.arguments], "tests failed")


def emulate(options: argparse.Namespace, console: Console) -> int:
    """Run the emulator's own command line; its exit codes are ours, and those of commands in hosts."""
    return subprocess.run([sys.executable, "-m", "emulator", *options.arguments], check=False).returncode


def doctor(options: argparse.Namespace, console: Console) -> int:
    """Let the emulator look at this machine."""
    return subprocess.run([sys.executable, "-m", "emulator", "doctor", *options.arguments], check=False).returncode


def simulate(options: argparse.Namespace, console: Console) -> int:
    """Run the simulator's own command line."""
    return _run_module("microchain.simulator", options.arguments, "the simulation found a violation")


def _run_module(module: str, arguments: list[str], failure: str) -> int:
    """Run ``python -m module`` in the foreground; its usage errors (2) stay what they are."""
    code = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=False).returncode
    if code in (0, 2):
        return code
    raise CheckFailed(f"{failure} ({module} ended with {code})")


def _run_quietly(name: str, inventory: str, console: Console) -> None:
    """Run a playbook with its output in a log, which is shown if it fails."""
    command = playbook_command(name, inventory)
    log = ROOT / ".cache" / inventory / f"{name}.log"
    console.print(f"$ {' '.join(command)}", markup=False, soft_wrap=True)
    with _spinner(console, name) as wait:
        code = run_logged(command, log, wait)
    if code:
        raise DeploymentFailed(f"{name} failed (ansible-playbook ended with {code}):\n{log_tail(log)}\n{log}")


@contextmanager
def _server(options: argparse.Namespace, console: Console) -> Iterator[Mapping[str, str]]:
    """Have a server for the points while the demo lasts, if there is one to be had; yields variables of the playbook.

    A private server is on loopback, so only validators of this machine can stream to it.
    """
    if options.inventory != "local":
        yield {}
        return

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    def wait(_: str) -> None:
        time.sleep(_WAIT_S)

    with server_for_demo(say, wait, keep=options.keep_influxdb) as server:
        # One that is known and can't be used would be taken by the inventory.
        yield {"influxdb_connection": ""} if server is None and DEFAULT.exists() else {}


@contextmanager
def _spinner(console: Console, name: str) -> Iterator[Callable[[], None]]:
    def wait() -> None:
        time.sleep(_WAIT_S)

    if not console.is_terminal:
        yield wait
        return
    with console.status(f"{name} …"):
        yield wait


@contextmanager
def _step(console: Console, name: str) -> Iterator[None]:
    """Say how long a step took, also one that failed."""
    began = time.monotonic()
    try:
        yield
    finally:
        console.print(f"{name}: {shown_seconds(time.monotonic() - began)}")


def _print_results(run: RunDirectory, verdict: str, console: Console) -> None:
    tables = run.path / "tables.txt"
    if tables.exists():
        console.print(tables.read_text(errors="replace"), markup=False, soft_wrap=True)
    console.print(f"verdict: {verdict} ({shown_path(run.path / 'verdict.json')})", markup=False)
    print_report(run, console)
