"""Throughput and T_bc by block size, beside the prototype's and the chapter's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.measured import DEFAULT_ENGINE, MeasuredCell, Pool, describe_size, engine_label, pool_cells
from analysis.plots.drawing import DASHES, MARKERS, SERIES, Drawing, legend_below, new_figure, panels, plain_ticks
from analysis.reference import THROUGHPUT_REFERENCES, THROUGHPUT_VALIDATORS
from analysis.statistics import estimate_quantile
from analysis.tables.throughput import throughput_of

__all__ = ["draw_throughput"]

_REFERENCES = {"prototype": (SERIES[1], "s"), "chapter, 5 Pis": (SERIES[2], "D")}
_OWN = (SERIES[0], SERIES[3], SERIES[6], SERIES[4], SERIES[5], SERIES[7])


def draw_throughput(cells: Sequence[MeasuredCell]) -> list[Drawing]:
    """Draw MB/h and T_bc by block size, one line for each committee and transaction size."""
    drawing = Drawing("throughput", "Throughput and T_bc by block size", "", "throughput")
    lines: dict[tuple[int, int, str], list[Pool]] = {}
    for pool in pool_cells(cells):
        if throughput_of(pool) is not None:
            lines.setdefault((pool.validators, pool.transaction_bytes, pool.engine), []).append(pool)
    if not lines:
        drawing.caption = "Not drawn: no T_bc was measured; the tables say why."
        return [drawing]
    sizes = {pool.block_bytes for pools in lines.values() for pool in pools}
    if len(sizes) < 2:
        drawing.caption = f"Not drawn: all blocks were of one size, {describe_size(sizes.pop())}."
        return [drawing]
    figure = new_figure(3.4)
    left, right = panels(figure, 1, 2)
    shown = dict(list(lines.items())[: len(_OWN)])
    for number, pools in enumerate(shown.values()):
        _line(left, right, pools, number)
    compared = any(count == THROUGHPUT_VALIDATORS and engine == DEFAULT_ENGINE for count, _, engine in shown)
    if compared:
        sizes |= _references(left, right)
    for axes, title, unit in ((left, "throughput", "MB/h"), (right, "T_bc", "ms")):
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.set_xlabel("block size")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sorted(sizes), [describe_size(size) for size in sorted(sizes)], minor=False)
        axes.set_xticks([], minor=True)
        plain_ticks(axes, y=True)
    legend_below(figure, _legend(list(shown), compared), 2)
    drawing.figure = figure
    drawing.caption = _caption(shown, compared, len(lines) - len(shown))
    return [drawing]


def _line(left: Axes, right: Axes, pools: Sequence[Pool], number: int) -> None:
    sizes = [pool.block_bytes for pool in pools]
    rates = [throughput_of(pool) for pool in pools]
    look: dict[str, Any] = {"color": _OWN[number], "linestyle": DASHES[number % 4]}
    left.plot(sizes, [np.nan if rate is None else rate[0] for rate in rates], marker="o", **look)
    medians, ends = [], []
    for pool in pools:
        estimate = estimate_quantile(pool.frame["T_bc"].to_numpy(dtype=np.float64), 0.5)
        assert estimate is not None  # throughput_of gave a figure
        low = estimate.value if estimate.interval.low is None else estimate.interval.low
        high = estimate.value if estimate.interval.high is None else estimate.interval.high
        medians.append(estimate.value)
        ends.append((estimate.value - low, high - estimate.value))
    right.errorbar(sizes, medians, yerr=np.array(ends).T, marker="o", capsize=3, **look)


def _references(left: Axes, right: Axes) -> set[int]:
    """Draw what others published for 5 validators; returns their block sizes."""
    for source, (color, marker) in _REFERENCES.items():
        points = [reference for reference in THROUGHPUT_REFERENCES if reference.source == source]
        sizes = [point.block_bytes for point in points]
        look: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "none"}
        left.plot(sizes, [point.mb_per_hour for point in points], **look)
        known = [(point.block_bytes, point.T_bc_ms) for point in points if point.T_bc_ms is not None]
        right.plot([size for size, _ in known], [duration for _, duration in known], **look)
    return {reference.block_bytes for reference in THROUGHPUT_REFERENCES}


def _legend(shapes: Sequence[tuple[int, int, str]], compared: bool) -> list[Line2D]:
    handles = [
        Line2D(
            [],
            [],
            color=_OWN[number],
            linestyle=DASHES[number % 4],
            marker=MARKERS[0],
            label=f"this run, K = {count}{engine_label(engine)}, {describe_size(transaction)} transactions",
        )
        for number, (count, transaction, engine) in enumerate(shapes)
    ]
    if compared:
        handles += [
            Line2D([], [], color=color, marker=marker, linestyle="none", label=source)
            for source, (color, marker) in _REFERENCES.items()
        ]
    return handles


def _caption(lines: dict[tuple[int, int, str], list[Pool]], compared: bool, hidden: int) -> str:
    words = [
        "MB/h = size / T_bc * 3600 at the median T_bc (the chapter prints this formula upside down, its figures follow "
        "it as given here). Right: the median of T_bc with its 95 % interval. Both axes are logarithmic."
    ]
    best = {}
    for (count, transaction, engine), pools in lines.items():
        rates = {pool.block_bytes: rate[0] for pool in pools if (rate := throughput_of(pool)) is not None}
        if len(rates) > 1:
            size = max(rates, key=lambda size: rates[size])
            best[f"K = {count}{engine_label(engine)} with {describe_size(transaction)} transactions"] = (
                size,
                rates[size],
            )
    words += [
        f"{what}: most with {describe_size(size)} blocks, {rate:.0f} MB/h." for what, (size, rate) in best.items()
    ]
    if compared:
        words.append(
            "The chapter's throughput peaks at 2 MB on its boards; its and the prototype's figures are from other "
            "machines or other loads."
        )
    if hidden:
        words.append(f"{hidden} more lines are left out; the table has them.")
    return " ".join(words)
