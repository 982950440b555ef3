"""Latency by committee size with fitted curves, beside the chapter's and its prototype's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.growth import CLAIMS, Growth, fit_growth
from analysis.measured import (
    MeasuredCell,
    Pool,
    describe_size,
    engine_label,
    engine_stem,
    group_pools,
    phase_samples,
    pool_cells,
)
from analysis.plots.drawing import (
    INK,
    MAX_POINTS,
    SERIES,
    Drawing,
    draw_dots,
    legend_below,
    new_figure,
    panels,
    plain_ticks,
    thin,
)
from analysis.reference import LATENCY_BLOCK_BYTES, LATENCY_REFERENCES
from analysis.statistics import Array, estimate_quantile

__all__ = ["draw_growth"]

_SHOWN = ("T_ct", "T_bp", "T_cf", "finality")
_CURVES: dict[str, Literal["--", "-", "-."]] = {"K": "--", "K²": "-", "K²/E(D)": "-."}
_REFERENCES = {
    "prototype, one 128 KB tx": (SERIES[1], "s"),
    "prototype, one 1 KB tx": (SERIES[3], "^"),
    "chapter, 16 Pis": (SERIES[2], "D"),
}


def draw_growth(cells: Sequence[MeasuredCell], credits: Mapping[int, float]) -> list[Drawing]:
    """Draw one figure for each size of block and transaction; ``credits`` is E(D) by committee size."""
    groups = [pools for pools in group_pools(pool_cells(cells)) if len(pools) > 1]
    if not groups:
        caption = "Not drawn: all cells that could be compared had one committee size."
        return [Drawing("growth", "Latency by committee size", caption, "latency")]
    return [_draw(pools, credits) for pools in groups]


def _draw(pools: Sequence[Pool], credits: Mapping[int, float]) -> Drawing:
    block, transaction = pools[0].block_bytes, pools[0].transaction_bytes
    shape = f"{describe_size(block)} blocks of {describe_size(transaction)} transactions"
    engine = pools[0].engine
    name = f"growth-b{block}-t{transaction}{engine_stem(engine)}"
    drawing = Drawing(name, f"Latency by committee size{engine_label(engine)}: {shape}", "", "latency")
    growths = {phase: fit_growth(phase_samples(pools, phase), credits) for phase in _SHOWN}
    if not any(len(growth.sizes) for growth in growths.values()):
        drawing.caption = "Not drawn: no phase has a figure; the tables say why."
        return drawing
    figure = new_figure(5.6)
    for axes, phase in zip(panels(figure, 2, 2), _SHOWN, strict=True):
        _panel(axes, phase, phase_samples(pools, phase), growths[phase], block)
    legend_below(figure, _legend(growths, block), 3)
    drawing.figure = figure
    drawing.caption = _caption(growths, block)
    return drawing


def _panel(axes: Axes, phase: str, samples: Mapping[int, Array], growth: Growth, block: int) -> None:
    claim = f"  (claimed: O({CLAIMS[phase]}))" if phase in CLAIMS else ""
    axes.set_title(f"{phase}{claim}")
    axes.set_yscale("log")
    axes.set_xlabel("committee size K")
    axes.set_ylabel("ms")
    clouds = [thin(_side_by_side(size, values), values, MAX_POINTS // len(samples)) for size, values in samples.items()]
    if clouds:
        x, y = (np.concatenate(parts) for parts in zip(*clouds, strict=True))
        draw_dots(axes, x, y, SERIES[0], size=2, alpha=0.5)
    for size, values in samples.items():
        estimate = estimate_quantile(values, 0.5)
        if estimate is None:
            continue
        low = estimate.value if estimate.interval.low is None else estimate.interval.low
        high = estimate.value if estimate.interval.high is None else estimate.interval.high
        axes.errorbar(
            [size],
            [estimate.value],
            yerr=[[estimate.value - low], [high - estimate.value]],
            color=SERIES[0],
            marker="o",
            markeredgecolor=SERIES[0],
            capsize=3,
            linewidth=1.3,
            zorder=4,
        )
    _curves(axes, growth)
    sizes = {int(size) for size in growth.sizes}
    for reference in LATENCY_REFERENCES if block == LATENCY_BLOCK_BYTES and phase in CLAIMS else ():
        color, marker = _REFERENCES[reference.source]
        value = {"T_ct": reference.T_ct, "T_bp": reference.T_bp, "T_cf": reference.T_cf}[phase]
        axes.plot([reference.validators], [value], color=color, marker=marker, linestyle="none", zorder=3)
        sizes.add(reference.validators)
    axes.set_xticks(
        sorted(sizes) if len(sizes) <= 8 else sorted(int(size) for size in growth.sizes)[:: len(sizes) // 6]
    )
    plain_ticks(axes, y=True)


def _side_by_side(size: int, values: Array) -> Array:
    """Spread a size's rounds a little to both sides, in their order."""
    return size + 0.5 * (np.arange(len(values)) / max(1, len(values) - 1) - 0.5)


def _curves(axes: Axes, growth: Growth) -> None:
    if not growth.fits:
        return
    grid = np.linspace(growth.sizes.min(), growth.sizes.max(), 80)
    for fit in growth.fits:
        curve = growth.curve(fit, grid)
        best = fit is growth.fits[0]
        visible = np.where(curve > 0, curve, np.nan)
        axes.plot(
            grid, visible, _CURVES[fit.term], color=INK, linewidth=1.4 if best else 0.9, alpha=0.9 if best else 0.4
        )


def _legend(growths: Mapping[str, Growth], block: int) -> list[Line2D]:
    handles = [Line2D([], [], color=SERIES[0], marker="o", linewidth=1.3, label="this run: median, 95 % interval")]
    handles.append(
        Line2D([], [], color=SERIES[0], marker=".", markersize=4, alpha=0.5, linestyle="none", label="its rounds")
    )
    terms = dict.fromkeys(fit.term for growth in growths.values() for fit in growth.fits)
    handles += [Line2D([], [], color=INK, linestyle=_CURVES[t], linewidth=1.2, label=f"a + b·{t}") for t in terms]
    if block == LATENCY_BLOCK_BYTES:
        handles += [
            Line2D([], [], color=color, marker=marker, linestyle="none", label=source)
            for source, (color, marker) in _REFERENCES.items()
        ]
    return handles


def _caption(growths: Mapping[str, Growth], block: int) -> str:
    words = [
        "Every round of this run (dots) and the median of each committee size with its 95 % interval; the vertical "
        "axis is logarithmic."
    ]
    reasons = dict.fromkeys(growth.reason for growth in growths.values() if growth.reason)
    fitted = {phase: growth for phase, growth in growths.items() if growth.fits}
    if fitted:
        words.append("Lines are least-squares fits through the medians, the strongest line the closest.")
        words += [describe_growth(phase, growth) for phase, growth in fitted.items()]
    words += [f"Not fitted: {reason}." for reason in reasons]
    words += dict.fromkeys(f"{growth.indistinct}." for growth in fitted.values() if growth.indistinct)
    if block == LATENCY_BLOCK_BYTES:
        words.append(
            "The prototype's and the chapter's figures are from other machines or other loads (see the table's "
            "sources): what may be compared is how they grow, not how high they are."
        )
    return " ".join(words)


def describe_growth(phase: str, growth: Growth) -> str:
    """Return in one sentence which term fits best, how sure that is, and whether the chapter claims it."""
    best = growth.fits[0]
    claim = CLAIMS.get(phase)
    if best.slope_interval is not None and best.slope_interval[0] <= 0 <= best.slope_interval[1]:
        return f"{phase} shows no growth beyond what rounds differ by."
    support = "" if best.support is None else f", in {best.support:.0%} of resamples"
    sure = "" if best.support is None or growth.is_decided else " (not decided)"
    beside = ""
    if claim is not None:
        same = claim == best.term or (growth.indistinct and claim == "K²/E(D)" and best.term == "K²")
        beside = f"; the chapter claims {claim}{', as here' if same else ''}"
    return f"{phase} is closest to a + b·{best.term}{support}{sure}{beside}."
