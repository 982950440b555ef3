"""Each host's clock against the reference host's over a cell, as a DataFrame: what corrected times rest on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.run import Cell, Run
from analysis.timeline import find_clocks

__all__ = ["CLOCK_COLUMNS", "MOMENTS", "find_clock_offsets"]

CLOCK_COLUMNS = ["cell", "host", "reference", "time", "offset_ns", "bound_ns", "reachable"]
MOMENTS = 33
"""Evenly spaced, from a host's first point in the cell to its last."""
_LONGEST_NS = 1 << 62


def find_clock_offsets(run: Run) -> pd.DataFrame:
    """Return MOMENTS rows for each cell and host.

    - ``cell``, ``host``, ``reference`` (category): the reference is the host with most of the cell's validators
    - ``time`` (int64): the moment, ns since 1970 on the host's own clock
    - ``offset_ns`` (Int64): the host's clock minus the reference's; 0 for the reference itself
    - ``bound_ns`` (float64): the offset is right within ± this
    - ``reachable`` (bool): false if no chain of measurements leads from the host to the reference; then offset_ns and
      bound_ns are missing, and no time of this host can be compared with another's
    """
    parts = [part for cell in run.cells.values() for part in _of_cell(run, cell)]
    dtypes = {"cell": "category", "host": "category", "reference": "category"}
    dtypes |= {"time": "int64", "offset_ns": "Int64", "bound_ns": "float64", "reachable": "bool"}
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=CLOCK_COLUMNS)
    return frame[CLOCK_COLUMNS].astype(dtypes)


def _of_cell(run: Run, cell: Cell) -> list[pd.DataFrame]:
    hosts, clocks = find_clocks(run, cell)
    spans = _spans(run, cell)
    parts = []
    for host in sorted(set(hosts.values())):
        first, last = spans[host]
        # In whole ns: a float does not hold a time since 1970.
        times = first + np.linspace(0, min(last - first, _LONGEST_NS), MOMENTS).astype(np.int64)
        corrected, bound = clocks.correct(host, times)
        offset = pd.array(times - corrected, dtype="Int64")
        offset[np.isnan(bound)] = pd.NA
        columns = {"time": times, "offset_ns": offset, "bound_ns": bound, "reachable": ~np.isnan(bound)}
        parts.append(pd.DataFrame(columns).assign(cell=cell.id, host=host, reference=clocks.reference))
    return parts


def _spans(run: Run, cell: Cell) -> dict[str, tuple[int, int]]:
    """The times of each host's first and last point in the cell."""
    spans: dict[str, tuple[int, int]] = {}
    for frame in (run.transactions, run.blocks, run.votes, run.peers):
        times = frame[frame["cell"] == cell.id].groupby("host", observed=True)["time"]
        for host, first, last in zip(times.min().index, times.min(), times.max(), strict=True):
            before = spans.get(str(host), (first, last))
            spans[str(host)] = min(before[0], int(first)), max(before[1], int(last))
    return spans
