"""Boards that could not run as fast as they can, as their sensors and the Raspberry Pi's firmware say."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.causes import Cause
from analysis.run import Cell, Run

__all__ = ["check_boards"]

_STATES = (
    ("under_voltage_now", 16, Cause.BOARD_UNDER_VOLTAGE, "had too little voltage"),
    ("frequency_capped_now", 17, Cause.BOARD_THROTTLED, "had its frequency capped"),
    ("throttled_now", 18, Cause.BOARD_THROTTLED, "was throttled"),
    ("temperature_limit_now", 19, Cause.BOARD_HOT, "reached its temperature limit"),
)
"""Field of now, bit of ``throttled`` that stays set until the board boots, cause, and how to say it."""


def check_boards(run: Run, cell: Cell) -> Iterator[tuple[Cause, str]]:
    """What happened to boards while the cell ran, also between two samples; what was before it does not count."""
    boards = run.boards[run.boards["cell"] == cell.id]
    for host, points in boards.groupby("host", observed=True):
        points = points.sort_values("time", kind="stable")
        since_boot = points["throttled"].dropna()
        for field, bit, cause, text in _STATES:
            if points[field].eq(True).any():
                yield cause, f"board {host} {text}"
            elif _appeared(since_boot, bit):
                yield cause, f"board {host} {text} for a moment, between two samples"


def _appeared(since_boot: pd.Series, bit: int) -> bool:
    """Whether a bit was not set at first and is later."""
    states = [bool(int(value) >> bit & 1) for value in since_boot]
    return bool(states) and not states[0] and any(states)
