"""What the processes' own reports say of their telemetry, where the spools themselves were not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pandas as pd

from analysis.causes import Cause
from analysis.run import Cell, Run

__all__ = ["MAX_SHIFT_NS", "check_reports"]

MAX_SHIFT_NS = 1_000_000


def check_reports(run: Run, cell: Cell) -> Iterator[tuple[Cause, str]]:
    """Say what of a cell's telemetry was dropped, moved or is missing, by the measurement ``spool``."""
    yield Cause.SPOOLS_NOT_READ, "the points were read from InfluxDB, and the spools were not"
    frames = (run.transactions, run.blocks, run.votes, run.messages, run.peers, run.boards, run.processes, run.spools)
    counts: Counter[str] = Counter()
    for frame in frames:
        of_frame = frame.loc[frame["cell"] == cell.id, "validator"].value_counts()
        counts.update({str(name): count for name, count in of_frame.items()})
    reports = run.spools[run.spools["cell"] == cell.id]
    for name, of_process in reports.groupby("validator", observed=True):
        lives = _last_reports(of_process)
        # Python's integers: a report may claim anything.
        dropped, shift = sum(map(int, lives["dropped"])), int(lives["shift_ns"].max())
        if dropped:
            yield Cause.POINTS_DROPPED, f"{name} dropped {dropped} telemetry points"
        expected, found = sum(map(int, lives["points"])) + len(lives), counts[str(name)]
        if not lives["closed"].all():
            yield Cause.SPOOL_NOT_CLOSED, f"the points of {name} end with no closing report"
        elif found < expected:
            yield Cause.LINES_MISSING, f"{expected - found} of {expected} points of {name} are not in InfluxDB"
        if shift > MAX_SHIFT_NS:
            yield Cause.TIMES_MOVED, f"{name} moved timestamps by up to {shift / 1e6:.1f} ms to keep them apart"


def _last_reports(reports: pd.DataFrame) -> pd.DataFrame:
    """The last report of each life of a process: the next one begins to count anew."""
    reports = reports.sort_values("time", kind="stable")
    following = reports["points"].shift(-1)
    return reports[reports["closed"] | following.isna() | (following < reports["points"])]
