"""Cumulative distributions of the phases and of finality, with p50, p90, p99 and the maximum marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures import milliseconds, summarize
from analysis.measured import MeasuredCell, Pool, describe_size, engine_label, engine_stem, group_pools, pool_cells
from analysis.plots.drawing import (
    DASHES,
    INK,
    SERIES,
    Drawing,
    label,
    legend_below,
    new_figure,
    panels,
    plain_ticks,
)
from analysis.statistics import Array, cumulative, cumulative_band, estimate_quantile

__all__ = ["draw_distributions", "draw_rate_distribution"]

_SHOWN = ("T_ct", "T_bp", "T_cf", "finality")
_MARKS = {0.5: "o", 0.9: "^", 0.99: "s"}
_MAX_CURVES = 6
_LEVELS: Array = np.concatenate([np.linspace(0.005, 0.995, 100), [0.998, 0.999]])
_EXPLANATION = (
    "Share of samples at or below each latency, from raw samples; the horizontal axis is logarithmic. Shaded: the 95 % "
    "interval of each quantile, from order statistics; where too few samples give no bound, to the ends. "
    "A long, flat end to the right is a tail that a median hides."
)


def draw_distributions(cells: Sequence[MeasuredCell]) -> list[Drawing]:
    """Draw one figure for each size of block and transaction: a panel for each phase, a curve for each K."""
    return [_draw(pools) for pools in group_pools(pool_cells(cells))]


def draw_rate_distribution(cells: Sequence[MeasuredCell]) -> list[Drawing]:
    """Draw the latency to finality of open-loop cells, one curve a cell."""
    rates = [(cell.spec.id, cell.rate) for cell in cells if cell.rate is not None]
    drawing = Drawing("rate-distribution", "Latency at an offered rate: distribution", "", "latency")
    curves: dict[str, Array] = {}
    reasons = []
    for name, rate in rates:
        refused = summarize(rate.latency, rate.bound, ("no traced transaction is final on all validators",)).reason
        if refused:
            reasons.append(f"{name}: {refused}")
        else:
            curves[f"{label(name)}: {rate.offered:g} tx/s"] = rate.latency.dropna().to_numpy(dtype=np.float64)
    left_out = f" Not drawn: {'; '.join(reasons)}." if reasons else ""
    if not curves:
        drawing.caption = left_out.strip()
        return [drawing]
    figure = new_figure(3.6)
    (axes,) = panels(figure, 1, 1)
    shown = _choose(curves)
    _panel(axes, shown)
    axes.set_title("scheduled moment until final on all validators")
    legend_below(figure, _legend(list(shown)), 2)
    drawing.figure = figure
    drawing.caption = f"{_EXPLANATION}{_longest(shown)}{left_out}{_not_shown(curves, shown)}"
    return [drawing]


def _draw(pools: Sequence[Pool]) -> Drawing:
    block, transaction = pools[0].block_bytes, pools[0].transaction_bytes
    shape = f"{describe_size(block)} blocks of {describe_size(transaction)} transactions"
    engine = pools[0].engine
    name = f"distribution-b{block}-t{transaction}{engine_stem(engine)}"
    drawing = Drawing(name, f"Distributions{engine_label(engine)}: {shape}", "", "latency")
    curves = {
        phase: {
            f"K = {pool.validators}": pool.frame[phase].dropna().to_numpy(dtype=np.float64)
            for pool in pools
            if not pool.figure(phase).reason
        }
        for phase in _SHOWN
    }
    if not any(curves.values()):
        drawing.caption = "Not drawn: no phase has a figure; the tables say why."
        return drawing
    figure = new_figure(5.4)
    names = _choose({f"K = {pool.validators}": np.empty(0) for pool in pools})
    for axes, phase in zip(panels(figure, 2, 2), _SHOWN, strict=True):
        _panel(axes, {name: curves[phase].get(name, np.empty(0)) for name in names})
        axes.set_title(phase)
    legend_below(figure, _legend(list(names)), 4)
    drawing.figure = figure
    drawing.caption = f"{_EXPLANATION}{_not_shown(curves['finality'], names)}"
    return drawing


def _choose(curves: Mapping[str, Array]) -> dict[str, Array]:
    """At most _MAX_CURVES of the curves, evenly chosen, the first and the last among them."""
    names = list(curves)
    if len(names) > _MAX_CURVES:
        names = [names[int(i)] for i in np.linspace(0, len(names) - 1, _MAX_CURVES).round()]
    return {name: curves[name] for name in names}


def _not_shown(curves: Mapping[str, Array], shown: Mapping[str, Array]) -> str:
    hidden = len(curves.keys() - shown.keys())
    return f" {hidden} more curves are left out; the tables have them." if hidden else ""


def _longest(curves: Mapping[str, Array]) -> str:
    name, values = max(curves.items(), key=lambda item: float(item[1].max()))
    return f" The longest, {milliseconds(float(values.max()))} ms, was in {name}."


def _panel(axes: Axes, curves: Mapping[str, Array]) -> None:
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("ms")
    axes.set_ylabel("share of samples")
    drawn = False
    for number, samples in enumerate(curves.values()):
        samples = samples[samples > 0]
        if not len(samples):
            continue
        drawn = True
        color, dashes = SERIES[number], DASHES[number % 4]
        values, shares = cumulative(samples)
        axes.plot(values, shares, drawstyle="steps-post", color=color, linestyle=dashes)
        low, high = cumulative_band(samples, _LEVELS)
        low, high = np.where(np.isnan(low), samples.min(), low), np.where(np.isnan(high), samples.max(), high)
        axes.fill_betweenx(_LEVELS, low, high, color=color, alpha=0.15, linewidth=0)
        for q, marker in _MARKS.items():
            estimate = estimate_quantile(samples, q)
            if estimate is not None:
                axes.plot([estimate.value], [q], marker=marker, color=color, linestyle="none", zorder=4)
        axes.plot([samples.max()], [1.0], marker="x", color=color, linestyle="none", markeredgewidth=1.6, zorder=4)
    if drawn:
        plain_ticks(axes, x=True)
    else:
        axes.text(0.5, 0.5, "no figure; the tables say why", ha="center", va="center", transform=axes.transAxes)
        axes.set_xticks([])


def _legend(names: Sequence[str]) -> list[Line2D]:
    curves = [Line2D([], [], color=SERIES[i], linestyle=DASHES[i % 4], label=name) for i, name in enumerate(names)]
    marks = [
        Line2D([], [], color=INK, marker=marker, linestyle="none", label=text)
        for marker, text in (("o", "p50"), ("^", "p90"), ("s", "p99 (of 100 or more)"), ("x", "max"))
    ]
    return [*curves, *marks]
