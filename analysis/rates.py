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

    NaN if not final on all validators. Rates are in transactions a second, scaled up by the traced share.
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
    if not scheduled.empty:
        scheduled = scheduled[scheduled["at"] >= scheduled["at"].iloc[0] + workload.warmup_s * 1e9]
    final = points[(points["event"] == "finalized") & points["validator"].isin(cell.spec.validators)]
    final = final.sort_values("at").drop_duplicates(["id", "validator"])
    last = final.groupby("id").agg(at=("at", "max"), bound=("bound", "max"), count=("validator", "size"))
    everywhere = last[last["count"] == len(cell.spec.validators)].reindex(scheduled.index)
    latency = (everywhere["at"] - scheduled["at"]) / 1e6
    scale = 1 / cell.spec.telemetry.sample
    span = _span(scheduled["at"])
    return RateFigures(
        latency,
        (everywhere["bound"] + scheduled["bound"]) / 1e6,
        scale * len(scheduled) / span if span else 0.0,
        scale * latency.notna().sum() / span if span else 0.0,
    )


def _span(at: pd.Series) -> float:
    """Seconds that ``len(at)`` evenly spaced moments stand for."""
    if len(at) < 2:
        return 0.0
    return float((at.max() - at.min()) / 1e9 * len(at) / (len(at) - 1))
