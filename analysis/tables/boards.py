"""The health of the boards, as far as they have sensors for it."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from analysis.data_table import Column, DataTable
from analysis.figures import MISSING
from analysis.run import Run

__all__ = ["FLAGS", "board_table", "memory_used"]

FLAGS = {
    "throttled_now": "throttled",
    "under_voltage_now": "under-voltage",
    "frequency_capped_now": "capped",
    "temperature_limit_now": "temperature limit",
}
"""What a Raspberry Pi's firmware reports, as columns of Run.boards."""


def board_table(run: Run) -> DataTable | None:
    """Return one row for each host, over the whole run; None if no board wrote a point."""
    if run.boards.empty:
        return None
    rows = [_row(str(host), points) for host, points in run.boards.groupby("host", observed=True)]
    sensors = [
        name
        for name, column in (("temperature", "temperature_c"), ("frequency", "frequency_hz"), ("flags", "throttled"))
        if run.boards[column].isna().all()
    ]
    missing = [f"No board has a sensor for: {', '.join(sensors)}."] if sensors else []
    return DataTable(
        name="boards",
        title="Health of the boards",
        columns=[
            Column("host"),
            Column("samples", align="right"),
            Column("CPU median", "%", "right"),
            Column("max", "%", "right"),
            Column("load max", align="right"),
            Column("memory max", "%", "right"),
            Column("hottest", "°C", "right"),
            Column("slowest", "MHz", "right"),
            Column("seen"),
        ],
        rows=rows,
        notes=[*missing, "CPU: of all cores of the machine. Several validators of one host all sample it."],
        section="boards",
    )


def memory_used(points: pd.DataFrame) -> pd.Series:
    """Return the share of memory in use (0 … 1); NaN where the board's own figures make no sense."""
    total = points["memory_total_bytes"].astype("float64")
    used = 1 - points["memory_available_bytes"].astype("float64") / total
    return used.where((total > 0) & used.between(0, 1))


def _row(host: str, points: pd.DataFrame) -> list[str]:
    cpu, hot = points["cpu_percent"].astype("float64"), points["temperature_c"]
    frequency = points["frequency_hz"].astype("float64") / 1e6
    seen = [text for column, text in FLAGS.items() if points[column].eq(True).any()]
    return [
        host,
        str(len(points)),
        _text(cpu, pd.Series.median, 0),
        _text(cpu, pd.Series.max, 0),
        _text(points["load1"].astype("float64"), pd.Series.max, 1),
        _text(memory_used(points) * 100, pd.Series.max, 0),
        _text(hot, pd.Series.max, 1),
        _text(frequency, pd.Series.min, 0),
        ", ".join(seen) or (MISSING if points["throttled"].isna().all() else "nothing"),
    ]


def _text(values: pd.Series, reduce: Callable[[pd.Series], float], digits: int) -> str:
    known = values.dropna()
    return MISSING if known.empty else f"{float(reduce(known)):.{digits}f}"
