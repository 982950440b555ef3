"""Messages and bytes of each phase, of all validators together."""

from __future__ import annotations

import pandas as pd

from analysis.run import Cell, Run

__all__ = ["COUNTERS", "count_traffic"]

COUNTERS = ("sent_messages", "sent_bytes", "received_messages", "received_bytes")


def count_traffic(run: Run, cell: Cell) -> pd.DataFrame:
    """Return what all validators counted over the whole cell: index phase, columns COUNTERS (float64).

    Counters are cumulative and start again at 0 with the process: a fall marks a restart.
    """
    points = run.messages[run.messages["cell"] == cell.id].sort_values("time", kind="stable")
    keys = [points["validator"], points["phase"]]
    total = pd.DataFrame(index=points.index)
    for counter in COUNTERS:
        grown = points.groupby(keys, observed=True)[counter].diff()
        total[counter] = grown.where(grown >= 0, points[counter])
    return total.groupby(points["phase"].astype(str)).sum().astype("float64")
