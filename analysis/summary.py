"""``figures.json``: the medians of a run for programs; the tables are for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from analysis.measured import MeasuredCell
from analysis.rounds import PHASES

__all__ = ["summarise"]


def summarise(cells: Iterable[MeasuredCell]) -> dict[str, Any]:
    """Return by cell id what was measured; durations in ms as {median, p90, samples}, without samples no figure."""
    return {cell.spec.id: _summarise_cell(cell) for cell in cells}


def _summarise_cell(cell: MeasuredCell) -> dict[str, Any]:
    if cell.rounds is not None:
        frame = cell.rounds.frame
        figures = {phase: _figure(frame[phase]) for phase in PHASES}
        return {"rounds": len(frame), "failures": cell.rounds.failures, **figures}
    if cell.rate is not None:
        rate = cell.rate
        return {"offered_per_s": rate.offered, "finalized_per_s": rate.finalized, "latency": _figure(rate.latency)}
    return {}


def _figure(samples: pd.Series) -> dict[str, float] | None:
    known = samples.dropna()
    if known.empty:
        return None
    return {"median": float(known.median()), "p90": float(known.quantile(0.9)), "samples": len(known)}
