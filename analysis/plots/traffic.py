"""Messages and bytes of each phase by committee size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.growth import fit_growth
from analysis.measured import MeasuredCell, Traffic, describe_size, engine_label, engine_stem, traffic_samples
from analysis.plots.drawing import DASHES, INK, MARKERS, SERIES, Drawing, legend_below, new_figure, panels, plain_ticks
from analysis.plots.drawing import label as shown_name

__all__ = ["draw_traffic"]

_UNITS = ("messages", "KB")


def draw_traffic(cells: Sequence[MeasuredCell]) -> list[Drawing]:
    """Draw one figure for each size of block and transaction."""
    found = traffic_samples(cells)
    if not found:
        caption = "Not drawn: no validator counted messages, or no round was finished."
        return [Drawing("traffic", "Messages and bytes by phase", caption, "traffic")]
    return [_draw(*shape, traffic) for shape, traffic in found.items()]


def _draw(block: int, transaction: int, engine: str, traffic: Traffic) -> Drawing:
    shape = f"{describe_size(block)} blocks of {describe_size(transaction)} transactions{engine_label(engine)}"
    sizes = sorted({size for by_size in traffic.values() for size in by_size})
    phases = list(dict.fromkeys(phase for phase, _ in traffic))[: len(SERIES)]
    figure = new_figure(3.5 if len(sizes) > 1 else 2.6)
    pair = panels(figure, 1, 2, sharey=len(sizes) == 1)
    for axes, unit in zip(pair, _UNITS, strict=True):
        if len(sizes) > 1:
            _by_size(axes, traffic, phases, unit, sizes)
        else:
            _bars(axes, traffic, phases, unit, sizes[0])
        axes.set_title(f"{unit} sent for each round")
    if len(sizes) > 1:
        legend_below(figure, _legend(phases), 4)
    return Drawing(
        f"traffic-b{block}-t{transaction}{engine_stem(engine)}",
        f"Messages and bytes by phase: {shape}",
        _caption(traffic, phases, sizes),
        "traffic",
        figure,
    )


def _by_size(axes: Axes, traffic: Traffic, phases: Sequence[str], unit: str, sizes: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    largest = 0.0
    for number, phase in enumerate(phases):
        medians = {size: float(np.median(values)) for size, values in traffic.get((phase, unit), {}).items()}
        known = {size: value for size, value in sorted(medians.items()) if value >= 0.05}
        if known:
            look = {"color": SERIES[number], "linestyle": DASHES[number % 4], "marker": MARKERS[number]}
            axes.plot(list(known), list(known.values()), **look)
            largest = max(largest, *known.values())
    if largest:
        grid = np.array([sizes[0], sizes[-1]], dtype=np.float64)
        for power in (1, 2):
            axes.plot(grid, 2.5 * largest * (grid / grid[-1]) ** power, color=INK, linewidth=0.9, alpha=0.5)
            axes.annotate(
                "K" if power == 1 else "K²",
                (grid[0], 2.5 * largest * (grid[0] / grid[-1]) ** power),
                xytext=(-3, 0),
                textcoords="offset points",
                ha="right",
                va="center",
            )
    axes.set_xlabel("committee size K")
    axes.set_ylabel(unit)
    axes.set_xlim(sizes[0] / 1.25, sizes[-1] * 1.08)
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    plain_ticks(axes, y=True)


def _bars(axes: Axes, traffic: Traffic, phases: Sequence[str], unit: str, size: int) -> None:
    """One committee size: a bar for each phase with its figure."""
    values = [float(np.median(traffic.get((phase, unit), {}).get(size, np.zeros(1)))) for phase in phases]
    bars = axes.barh([shown_name(phase) for phase in phases], values, color=SERIES[0], height=0.65)
    axes.bar_label(bars, [f"{value:.1f}" if value >= 0.05 else "—" for value in values], padding=3, color=INK)
    axes.margins(x=0.2)
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis() if not axes.yaxis_inverted() else None
    axes.set_xlabel(unit)


def _legend(phases: Sequence[str]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=SERIES[i], linestyle=DASHES[i % 4], marker=MARKERS[i], label=shown_name(phase))
        for i, phase in enumerate(phases)
    ]
    return [*handles, Line2D([], [], color=INK, linewidth=0.9, alpha=0.5, label="slopes of K and K²")]


def _caption(traffic: Traffic, phases: Sequence[str], sizes: Sequence[int]) -> str:
    words = ["What all validators together sent for each round, warm-up included."]
    if len(sizes) == 1:
        words.append(f"There is one committee size only, K = {sizes[0]}.")
    else:
        words.append("Both axes are logarithmic: what grows as K or as K² runs parallel to the line so marked.")
    for unit in _UNITS:
        shares = {
            phase: float(np.median(traffic.get((phase, unit), {}).get(sizes[-1], np.zeros(1)))) for phase in phases
        }
        total = sum(shares.values())
        if total > 0:
            phase = max(shares, key=lambda phase: shares[phase])
            words.append(f"At K = {sizes[-1]}, {shares[phase] / total:.0%} of {unit} are of {shown_name(phase)}.")
    closest = {phase: fit_growth(traffic.get((phase, "messages"), {})).fits for phase in phases}
    terms = [f"{shown_name(phase)} as {fits[0].term}" for phase, fits in closest.items() if fits]
    if terms:
        words.append(f"Messages grow, by least squares: {', '.join(terms)}.")
    return " ".join(words)
