"""Figures as they are printed: median [p90] from raw samples, the clock's error beside it, and never a bare 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

__all__ = ["CLOCK_BOUND_MS", "CLOCK_BOUND_SHARE", "MISSING", "Figure", "is_bound_too_wide", "milliseconds", "summarize"]

MISSING = "—"
CLOCK_BOUND_SHARE = 0.10
CLOCK_BOUND_MS = 1.0
"""A cross-host figure is refused if its clock error is more than a tenth of it and more than 1 ms."""


def is_bound_too_wide(value: float, bound: float) -> bool:
    """Whether a figure (ms) must not be printed because its clocks agree only to ± ``bound`` ms."""
    return bound > max(CLOCK_BOUND_MS, CLOCK_BOUND_SHARE * abs(value))


@dataclass(frozen=True)
class Figure:
    """One printed figure; ``reason`` says why there is none."""

    text: str
    reason: str = ""


def milliseconds(value: float) -> str:
    """Three significant digits, at most one decimal, without thousands of zeros: 8.27 → 8.3, 812.4 → 812."""
    return f"{value:.2f}" if abs(value) < 1 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def summarize(values: pd.Series, bounds: pd.Series, reasons: tuple[str, ...] = ()) -> Figure:
    """Return ``median [p90]`` of durations in ms, with ``± bound`` where several clocks took part."""
    samples = values.dropna()
    if samples.empty:
        return Figure(MISSING, "; ".join(reasons) or "no measured round was finished")
    median, p90 = float(samples.median()), float(samples.quantile(0.9))
    bound = float(bounds.loc[samples.index].max())
    if is_bound_too_wide(median, bound):
        return Figure(
            MISSING, f"the clocks agree only to ± {milliseconds(bound)} ms, {milliseconds(median)} was measured"
        )
    if median <= 0 or math.isnan(bound):
        return Figure(MISSING, f"a median of {milliseconds(median)} ms is no duration: the clocks can't be trusted")
    error = f" ± {milliseconds(bound)}" if bound > 0 else ""
    return Figure(f"{milliseconds(median)}{error} [{milliseconds(p90)}]")
