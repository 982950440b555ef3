"""Open-loop cells: latency from the scheduled moment (no coordinated omission) to finality on all validators."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from microchain.telemetry.recorder import CLIENT

from analysis.documents import RateWorkload
from analysis.timeline import Timeline

__all__ = ["RateFigures", "measure_rate"]


@dataclass(frozen=True)
class RateFigures:
    """Traced transactions scheduled after the warm-up: ``latency`` and ``bound`` in ms by id.

    NaN if not final on all validators. ``offered`` is the planned rate; ``finalized`` is the rate at which transactions
    became final on all validators in the measured time, from the traced ones: what was final only later is not in it.
    """

    latency: pd.Series
    bound: pd.Series
    offered: float
    finalized: float


def measure_rate(timeline: Timeline, workload: RateWorkload) -> RateFigures:
    """Measure the transactions of one open-loop cell."""
    points, cell = timeline.transactions, timeline.cell
    scheduled = points[(points["validator"] == CLIENT) & (points["event"] == "scheduled")]
    scheduled = scheduled.sort_values("at").drop_duplicates("id").set_index("id")
    start = float(scheduled["at"].min()) + workload.warmup_s * 1e9
    end = start + workload.duration_s * 1e9
    scheduled = scheduled[scheduled["at"] >= start]
    final = points[(points["event"] == "finalized") & points["validator"].isin(cell.spec.validators)]
    final = final.sort_values("at").drop_duplicates(["id", "validator"])
    last = final.groupby("id").agg(at=("at", "max"), bound=("bound", "max"), count=("validator", "size"))
    last = last[last["count"] == len(cell.spec.validators)]
    everywhere = last.reindex(scheduled.index)
    # A ratio, so that the chance in what is traced cancels out.
    share = float(last["at"].between(start, end).sum()) / len(scheduled) if len(scheduled) else 0.0
    return RateFigures(
        (everywhere["at"] - scheduled["at"]) / 1e6,
        (everywhere["bound"] + scheduled["bound"]) / 1e6,
        workload.rate,
        workload.rate * share,
    )
