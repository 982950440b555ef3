"""What is known of the runs in ``runs/``: for ``./testbed runs list`` and ``runs show``."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from control.errors import CheckFailed, UsageError
from control.live import shown_seconds
from control.project import RUNS, shown_path
from control.rundir import RunDirectory
from control.seal import check_seal

__all__ = ["find_run", "list_runs", "read_verdict", "run_names", "show_run"]

_PIPE_WIDTH = 160
_STYLES = {"VALID": "green", "SUSPECT": "yellow", "INVALID": "red"}


def find_run(name: str, runs: Path = RUNS) -> RunDirectory:
    """Return a run by path, name or unique beginning or end of the name; ``last`` is the newest."""
    if (Path(name) / "cells.json").exists():
        return RunDirectory(Path(name))
    names = run_names(runs)
    if name == "last" and names:
        return RunDirectory(runs / names[-1])
    found = [n for n in names if n == name] or [n for n in names if n.startswith(name) or n.endswith(name)]
    if len(found) == 1:
        return RunDirectory(runs / found[0])
    if found:
        raise UsageError(f"'{name}' may be {', '.join(found)}; give more of the name")
    raise UsageError(f"there is no run '{name}' in {shown_path(runs)}; './testbed runs list' shows what there is")


def list_runs(console: Console, runs: Path = RUNS) -> None:
    """Print a table of all runs, the newest last."""
    names = run_names(runs)
    if not names:
        console.print(f"There are no runs in {shown_path(runs)} yet; './testbed demo' makes the first one.")
        return
    whole = Column("run", no_wrap=True, min_width=max(map(len, names)))
    table = Table(whole, "experiment", "inventory", "cells done", "took", "verdict", box=None, pad_edge=False)
    for name in names:
        run = RunDirectory(runs / name)
        try:
            cells = run.cells()
            done = f"{sum(run.is_cell_sealed(cell.id) for cell in cells)}/{len(cells)}"
            experiment = cells[0].experiment if cells else ""
        except UsageError:
            cells, done, experiment = [], "damaged", ""
        inventory = str(_read(run.path / "inventory.json").get("name", ""))
        took = sum(_seconds(run, cell.id) for cell in cells)
        texts = (name, experiment, inventory, done, shown_seconds(took) if took else "")
        table.add_row(*map(Text, texts), _styled_verdict(run))
    console.print(table, width=None if console.is_terminal else _PIPE_WIDTH, crop=console.is_terminal)


def show_run(console: Console, run: RunDirectory) -> None:
    """Print what a run is, how its cells ended, its tables and verdict, and whether its seal holds."""
    cells = run.cells()
    console.print(f"{run.path}\n", highlight=False)
    table = Table("cell", "status", "took", "verdict", "message", box=None, pad_edge=False)
    verdict = _read(run.path / "verdict.json")
    verdicts = verdict.get("cells")
    for cell in cells:
        outcome = _read(run.cell(cell.id) / "outcome.json")
        status = str(outcome.get("status", "not run"))
        of_cell = verdicts.get(cell.id, "") if isinstance(verdicts, dict) else ""
        seconds = _seconds(run, cell.id)
        texts = (cell.id, status, shown_seconds(seconds) if seconds else "")
        message = Text(str(outcome.get("message", "")))
        table.add_row(*map(Text, texts), Text(str(of_cell), style=_STYLES.get(str(of_cell), "")), message)
    console.print(table)
    tables = run.path / "tables.txt"
    if tables.exists():
        console.print(f"\n{tables.read_text(errors='replace')}", markup=False, highlight=False)
    for line in _list_reasons(verdict):
        console.print(line, markup=False, highlight=False)
    console.print(Text("verdict: ").append(_styled_verdict(run)))
    try:
        console.print(f"seal: {check_seal(run)} files are as they were sealed")
    except CheckFailed as error:
        console.print(f"seal: {error}", markup=False)


def read_verdict(run: RunDirectory) -> str | None:
    """Return VALID, SUSPECT or INVALID, or None if the run has not been analysed."""
    verdict = _read(run.path / "verdict.json").get("verdict")
    return verdict if isinstance(verdict, str) else None


def _styled_verdict(run: RunDirectory) -> Text:
    verdict = read_verdict(run) or "none yet"
    return Text(verdict, style=_STYLES.get(verdict, "dim"))


def _list_reasons(verdict: dict[str, Any]) -> list[str]:
    """The reasons; below those of one kind what they mean and what to do."""
    given = verdict.get("reasons")
    reasons = [reason for reason in given if isinstance(reason, dict)] if isinstance(given, list) else []
    lines = []
    for _, alike in groupby(reasons, key=lambda reason: reason.get("code", "")):
        group = list(alike)
        lines += [" ".join(str(reason.get(key, "")) for key in ("level", "cell", "text")) for reason in group]
        help_text = " ".join(str(group[0][key]) for key in ("meaning", "advice") if group[0].get(key))
        lines += [f"  → {help_text}"] if help_text else []
    return lines


def _seconds(run: RunDirectory, cell: str) -> float:
    """How long the cell's load took; 0 if that is not known."""
    seconds = _read(run.cell(cell) / "outcome.json").get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def run_names(runs: Path = RUNS) -> list[str]:
    """Return the names of all runs, the oldest first."""
    if not runs.is_dir():
        return []
    return sorted(path.name for path in runs.iterdir() if (path / "cells.json").exists() and path.name[0] != ".")


def _read(path: Path) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}
