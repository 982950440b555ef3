"""``./testbed compare A B``: two groups of runs side by side, and what may be said about their difference."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console

from control.errors import CheckFailed, UsageError
from control.playbooks import ansible_environment
from control.project import ROOT, RUNS, shown_path
from control.rundir import RunDirectory
from control.runs import find_run, run_names

__all__ = ["add_parser", "find_group"]

_GROUP = "a run, an experiment's name (all its runs), a pattern such as '2026*-demo-*', or several with commas between"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``compare``."""
    text = "compare two groups of runs: effect, confidence interval, least detectable effect"
    parser = commands.add_parser("compare", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("a", metavar="A", help=_GROUP)
    parser.add_argument("b", metavar="B", help="the same; differences are those of B against A")
    parser.set_defaults(run=compare)


def compare(options: argparse.Namespace, console: Console) -> int:
    """Compare; CheckFailed if nothing could be compared."""
    a, b = ([str(run.path) for run in find_group(text)] for text in (options.a, options.b))
    both = sorted(set(a) & set(b))
    if both:
        raise UsageError(f"{shown_path(Path(both[0]))} stands on both sides; name the runs of each side")
    command = [sys.executable, "-m", "analysis.compare", "--a", *a, "--b", *b]
    code = subprocess.run(command, cwd=ROOT, env=ansible_environment(), check=False).returncode
    if code == 1:
        raise CheckFailed("nothing could be compared; what speaks against it stands above")
    return code


def find_group(text: str, runs: Path = RUNS) -> list[RunDirectory]:
    """Return the runs that a text names, each once, in the order of their names; UsageError if one is not found."""
    found: dict[Path, RunDirectory] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        found |= {run.path: run for run in _find(part, runs)}
    if not found:
        raise UsageError(f"'{text}' names no run")
    return [found[path] for path in sorted(found)]


def _find(part: str, runs: Path) -> Iterator[RunDirectory]:
    names = run_names(runs)
    chosen = [name for name in names if _experiment_of(runs / name) == part]
    if not chosen and any(mark in part for mark in "*?["):
        chosen = [name for name in names if fnmatchcase(name, part)]
        if not chosen:
            raise UsageError(f"no run in {shown_path(runs)} is like '{part}'; './testbed runs list' shows them")
    yield from (RunDirectory(runs / name) for name in chosen) if chosen else [find_run(part, runs)]


def _experiment_of(path: Path) -> str:
    try:
        cells = RunDirectory(path).cells()
    except UsageError:
        return ""
    return cells[0].experiment if cells else ""
