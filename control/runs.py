"""What is known of the runs in ``runs/``: for ``./testbed runs list`` and ``runs show``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from control.errors import CheckFailed, UsageError
from control.project import RUNS, shown_path
from control.rundir import RunDirectory
from control.seal import check_seal

__all__ = ["find_run", "list_runs", "read_verdict", "show_run"]


def find_run(name: str, runs: Path = RUNS) -> RunDirectory:
    """Return a run by path, name or unique beginning or end of the name; ``last`` is the newest."""
    if (Path(name) / "cells.json").exists():
        return RunDirectory(Path(name))
    names = _run_names(runs)
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
    names = _run_names(runs)
    if not names:
        console.print(f"There are no runs in {shown_path(runs)} yet; './testbed demo' makes the first one.")
        return
    table = Table("run", "experiment", "inventory", "cells done", "verdict", box=None, pad_edge=False)
    for name in names:
        run = RunDirectory(runs / name)
        try:
            cells = run.cells()
            done = f"{sum(run.is_cell_sealed(cell.id) for cell in cells)}/{len(cells)}"
            experiment = cells[0].experiment if cells else ""
        except UsageError:
            done, experiment = "damaged", ""
        inventory = str(_read(run.path / "inventory.json").get("name", ""))
        table.add_row(name, experiment, inventory, done, read_verdict(run) or "none yet")
    console.print(table)


def show_run(console: Console, run: RunDirectory) -> None:
    """Print what a run is, how its cells ended, its tables and verdict, and whether its seal holds."""
    cells = run.cells()
    console.print(f"{run.path}\n", highlight=False)
    table = Table("cell", "status", "seconds", "message", box=None, pad_edge=False)
    for cell in cells:
        outcome = _read(run.cell(cell.id) / "outcome.json")
        status = str(outcome.get("status", "not run"))
        table.add_row(cell.id, status, str(outcome.get("seconds", "")), str(outcome.get("message", "")))
    console.print(table)
    tables = run.path / "tables.txt"
    if tables.exists():
        console.print(f"\n{tables.read_text(errors='replace')}", markup=False, highlight=False)
    for reason in _read(run.path / "verdict.json").get("reasons", []):
        console.print(f"{reason['level']} {reason['cell']} {reason['text']}", markup=False, highlight=False)
    console.print(f"verdict: {read_verdict(run) or 'none yet'}")
    try:
        console.print(f"seal: {check_seal(run)} files are as they were sealed")
    except CheckFailed as error:
        console.print(f"seal: {error}", markup=False)


def read_verdict(run: RunDirectory) -> str | None:
    """Return VALID, SUSPECT or INVALID, or None if the run has not been analysed."""
    verdict = _read(run.path / "verdict.json").get("verdict")
    return verdict if isinstance(verdict, str) else None


def _run_names(runs: Path) -> list[str]:
    if not runs.is_dir():
        return []
    return sorted(path.name for path in runs.iterdir() if (path / "cells.json").exists() and path.name[0] != ".")


def _read(path: Path) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}
