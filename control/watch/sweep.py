"""The run that goes on: which cell it is at, and how long the rest will take as far as that can be said."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from msgspec import Struct

from control.errors import UsageError
from control.live import ENDED, CellState, RunView, seconds_of, shown_seconds
from control.progress import Progress, ProgressTail
from control.project import RUNS
from control.rundir import RunDirectory
from control.runs import run_names

__all__ = ["Sweep", "SweepWatch", "find_latest_run"]

_QUIET_S = 15.0
_SILENT_S = 300.0
"""A run without a word for so long may have been interrupted; steps between two words take less, but for InfluxDB."""


class _Inventory(Struct):
    name: str = ""


def find_latest_run(inventory: str, runs: Path = RUNS) -> RunDirectory | None:
    """Return the run on an inventory that had the last word of all: one that goes on, if any does."""
    there = [RunDirectory(runs / name) for name in run_names(runs)]
    return next((run for run in sorted(there, key=_last_word, reverse=True) if _inventory_of(run) == inventory), None)


def _last_word(run: RunDirectory) -> float:
    try:
        return run.progress.stat().st_mtime
    except OSError:
        return 0.0


def _inventory_of(run: RunDirectory) -> str:
    try:
        return msgspec.json.decode((run.path / "inventory.json").read_bytes(), type=_Inventory).name
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return ""


class Sweep:
    """A run's cells, kept up to date by its progress lines; UsageError if it is no run."""

    def __init__(self, run: RunDirectory) -> None:
        cells = run.cells()
        self._view = RunView(run.name, cells, [cell.id for cell in cells if run.is_cell_sealed(cell.id)])
        self._tail = ProgressTail(run.progress)
        self._last: float | None = None
        self._ended = False

    def read(self) -> None:
        """Take in what is new."""
        while steps := self._tail.read():
            for step in steps:
                self.apply(step)

    def apply(self, step: Progress) -> None:
        self._last = seconds_of(step.at)
        self._ended = not step.cell and step.phase == "sealed"
        self._view.apply(step)

    def line(self, now: float) -> str:
        """Return the run's progress in one line; ``now`` is in seconds since 1970."""
        states = list(self._view.states.values())
        done = sum(state.phase in ENDED for state in states)
        failed = sum(state.failed for state in states)
        parts = [self._view.name, f"{done}/{len(states)} cells"]
        parts += [f"{failed} failed"] if failed else []
        current = next((state for state in states if state.started is not None and state.phase not in ENDED), None)
        if self._ended or done == len(states):
            return " · ".join([*parts, "done" if self._ended else "all cells have ended"])
        parts += [_shown_cell(current, now)] if current is not None else []
        quiet = 0.0 if self._last is None else now - self._last
        if quiet > _SILENT_S:
            parts.append(f"no word for {shown_seconds(quiet)}: interrupted? time left not known")
        else:
            parts += [f"no word for {shown_seconds(quiet)}"] if quiet > _QUIET_S else []
            parts.append(self._shown_remaining(now))
        return " · ".join(parts)

    def _shown_remaining(self, now: float) -> str:
        left = self._view.remaining(now)
        if left is None:
            return "time left not known until a cell is done"
        return f"about {shown_seconds(left)} left" if left >= 1 else "time left not known: longer than the cells before"


class SweepWatch:
    """The line of whichever run of an inventory had the last word."""

    def __init__(self, inventory: str, runs: Path = RUNS) -> None:
        self._inventory = inventory
        self._runs = runs
        self._path: Path | None = None
        self._sweep: Sweep | None = None

    def line(self) -> str:
        """Return what to show of it now."""
        run = find_latest_run(self._inventory, self._runs)
        try:
            if run is not None and run.path != self._path:
                self._path, self._sweep = run.path, Sweep(run)
            if self._sweep is not None:
                self._sweep.read()
                return self._sweep.line(time.time())
        except UsageError:
            pass  # planned this very moment, or damaged: `runs show` says so
        return "no experiment ran here yet"


def _shown_cell(state: CellState, now: float) -> str:
    amount = f" {state.done}/{state.total}" if state.total else ""
    return f"{state.cell.id} {state.phase}{amount}, {shown_seconds(state.seconds(now) or 0.0)}"
