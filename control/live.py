"""The live display of a run: a table of its cells in a terminal, plain lines in a pipe, both from progress.jsonl."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from control.cells import Cell
from control.progress import Progress, ProgressTail
from control.rundir import RunDirectory

__all__ = ["ENDED", "CellState", "RunView", "follow", "seconds_of", "shown_seconds"]

ENDED = ("collected", "sealed", "failed", "comparing", "compared")
"""The phases of a cell whose measurement is over."""

_BAR = 20
_REFRESH_S = 0.25
_LINES_FOR_A_CELL = 4
"""In a pipe a cell's rounds are reported about this many times."""


class CellState:
    """Where one cell is; times in seconds since 1970."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.phase = "failed" if cell.refused else "planned"
        self.done = 0
        self.total = 0
        self.message = cell.refused
        self.failed = bool(cell.refused)
        self.started: float | None = None
        self.ended: float | None = None

    def apply(self, progress: Progress, at: float) -> None:
        if progress.phase == "planned":
            return
        if progress.phase in ("genesis", "starting") and (self.started is None or self.ended is not None):
            self.started, self.ended, self.failed, self.message = at, None, False, ""
        self.phase, self.done, self.total = progress.phase, progress.done, progress.total
        if progress.phase == "failed":
            self.failed = True
        if not self.failed or progress.phase == "failed":
            self.message = progress.message
        if progress.phase in ENDED:
            self.ended = at

    def seconds(self, now: float) -> float | None:
        """How long the cell took, or has taken so far; None before it began."""
        return None if self.started is None else (self.ended or now) - self.started


class RunView:
    """All cells of a run, kept up to date by its progress lines."""

    def __init__(self, name: str, cells: Sequence[Cell], sealed: Sequence[str] = ()) -> None:
        self.name = name
        self.states = {cell.id: CellState(cell) for cell in cells}
        self.began = time.time()
        for cell_id in sealed:
            self.states[cell_id].phase = "sealed"

    def apply(self, progress: Progress) -> None:
        """Take one line into account; lines of cells that aren't ours are left alone."""
        state = self.states.get(progress.cell)
        if state is not None:
            state.apply(progress, seconds_of(progress.at))

    def remaining(self, now: float) -> float | None:
        """Estimate the seconds left from what finished cells took, compared with their plan; None before one has."""
        finished = [s for s in self.states.values() if s.ended is not None and s.started is not None and not s.failed]
        planned = sum(s.cell.planned_s for s in finished)
        if not planned:
            return None
        factor = sum(s.seconds(now) or 0.0 for s in finished) / planned
        left = 0.0
        for state in self.states.values():
            if state.phase not in ENDED:
                left += max(0.0, factor * state.cell.planned_s - (state.seconds(now) or 0.0))
        return left

    def headline(self, now: float) -> str:
        """One line: run, cells done, time taken, time left."""
        done = sum(s.phase in ENDED for s in self.states.values())
        failed = sum(s.failed for s in self.states.values())
        remaining = self.remaining(now)
        left = "time left not known yet" if remaining is None else f"about {shown_seconds(remaining)} left"
        parts = [self.name, f"{done}/{len(self.states)} cells", shown_seconds(now - self.began)]
        if failed:
            parts.append(f"{failed} failed")
        if done < len(self.states):
            parts.append(left)
        return " · ".join(parts)

    def render(self, now: float) -> RenderableType:
        """The display for a terminal."""
        table = Table("cell", "phase", "progress", "seconds", "", box=None, pad_edge=False)
        for cell_id, state in self.states.items():
            seconds = state.seconds(now)
            style = "red" if state.failed else "green" if state.phase in ENDED else ""
            phase = "failed" if state.failed else state.phase
            table.add_row(
                cell_id,
                Text(phase, style=style),
                _bar(state),
                "" if seconds is None else f"{seconds:.1f}",
                Text(state.message, overflow="ellipsis", no_wrap=True),
            )
        return Group(Text(self.headline(now), style="bold"), table)

    def failures(self) -> list[str]:
        """Return a line for each failed cell, with its reason."""
        return [f"{cell_id} failed: {state.message}" for cell_id, state in self.states.items() if state.failed]


@contextmanager
def follow(run: RunDirectory, console: Console) -> Iterator[_Follower]:
    """Show a run's progress from now on; call ``update`` of what is yielded again and again."""
    cells = run.cells()
    view = RunView(run.name, cells, [cell.id for cell in cells if run.is_cell_sealed(cell.id)])
    tail = ProgressTail(run.progress, from_end=True)
    if not console.is_terminal:
        follower = _Follower(view, tail, console, None)
        yield follower
        follower.read()
        return
    with Live(view.render(time.time()), console=console, auto_refresh=False) as live:
        follower = _Follower(view, tail, console, live)
        yield follower
        follower.read()


class _Follower:
    """Reads new progress and shows it."""

    def __init__(self, view: RunView, tail: ProgressTail, console: Console, live: Live | None) -> None:
        self.view = view
        self._tail = tail
        self._console = console
        self._live = live

    def update(self) -> None:
        """Show what is new, then wait a moment."""
        self.read()
        time.sleep(_REFRESH_S)

    def read(self) -> None:
        """Show what is new."""
        for progress in self._tail.read():
            self.view.apply(progress)
            if self._live is None and _is_worth_a_line(progress):
                self._console.print(_line(progress), markup=False, highlight=False, soft_wrap=True)
        if self._live is not None:
            self._live.update(self.view.render(time.time()), refresh=True)


def shown_seconds(seconds: float) -> str:
    """Return a duration for people: 8 s, 2 min 05 s, 1 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _bar(state: CellState) -> Text:
    if not state.total or state.phase not in ("warmup", "round", "running", "draining"):
        return Text("")
    filled = min(_BAR, _BAR * state.done // state.total)
    return Text("━" * filled + "─" * (_BAR - filled) + f" {state.done}/{state.total}")


def _is_worth_a_line(progress: Progress) -> bool:
    if progress.phase in ("warmup", "round", "running") and progress.total:
        step = max(1, progress.total // _LINES_FOR_A_CELL)
        return progress.done == progress.total or (progress.phase == "round" and progress.done % step == 0)
    return progress.phase != "planned"


def _line(progress: Progress) -> str:
    amount = f" {progress.done}/{progress.total}" if progress.total else ""
    message = f": {progress.message}" if progress.message else ""
    return f"{progress.at[11:19]} {progress.cell or 'run'} {progress.phase}{amount}{message}"


def seconds_of(at: str) -> float:
    """The moment of a progress line; now, if another program wrote it in a form of its own."""
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return time.time()
