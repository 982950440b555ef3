"""``./testbed report RUN``: analyses a run again and writes its page."""

from __future__ import annotations

import argparse
import subprocess
import sys
import webbrowser

from rich.console import Console

from control.errors import CheckFailed
from control.playbooks import ansible_environment
from control.project import ROOT, shown_path
from control.rundir import RunDirectory
from control.runs import find_run, read_verdict

__all__ = ["REPORT", "add_parser", "make_report", "print_report"]

REPORT = "report.html"
_INVALID = 1
"""Exit code of ``python -m analysis`` for an INVALID run, which has its report all the same."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``report``."""
    text = "write a run's report (one HTML file), its figures and tables as files, and print where"
    parser = commands.add_parser("report", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("run_name", metavar="RUN", help="its name, a part of it, its directory, or 'last'")
    parser.add_argument("--open", action="store_true", help="show it in the browser of this machine")
    parser.set_defaults(run=report)


def report(options: argparse.Namespace, console: Console) -> int:
    """Analyse the run and write its report; 1 if its verdict is INVALID."""
    run = find_run(options.run_name)
    code = make_report(run, console)
    if options.open and not webbrowser.open((run.path / REPORT).as_uri()):
        console.print("no browser could be started: open the file yourself", markup=False)
    return code


def make_report(run: RunDirectory, console: Console) -> int:
    """Analyse a run and print verdict and report; 1 if it is INVALID, else 0. CheckFailed if there is no report."""
    command = [sys.executable, "-m", "analysis", str(run.path), "--report"]
    done = subprocess.run(
        command, cwd=ROOT, env=ansible_environment(), stdout=subprocess.PIPE, text=True, errors="replace", check=False
    )
    if done.returncode not in (0, _INVALID) or not (run.path / REPORT).exists():
        raise CheckFailed(f"{shown_path(run.path)} has no report (the analysis ended with {done.returncode})")
    console.print(f"verdict: {read_verdict(run)}", markup=False)
    print_report(run, console)
    return done.returncode


def print_report(run: RunDirectory, console: Console) -> None:
    """Say where a run's report is, or that there is none."""
    path = run.path / REPORT
    if path.exists():
        console.print(f"report: {shown_path(path)}", markup=False, soft_wrap=True)
    else:
        console.print(f"report: none was made; './testbed report {run.name}' says why", markup=False, soft_wrap=True)
