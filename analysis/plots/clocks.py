"""How far the hosts' clocks were apart, and how well that is known."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.figures import milliseconds
from analysis.plots.drawing import DASHES, INK, SERIES, Drawing, label, new_figure, panels, plain_ticks
from analysis.run import Run

__all__ = ["draw_clocks"]

_MAX_HOSTS = 40


def draw_clocks(run: Run, cell: str, choice: str) -> Drawing:
    """Draw one cell; ``choice`` says which cells are not drawn."""
    drawing = Drawing(f"clocks-{cell}", f"Clocks: {label(cell)}", "", "clocks")
    clocks = run.clocks[run.clocks["cell"] == cell]
    reference = str(clocks["reference"].iloc[0])
    known = clocks[clocks["reachable"] & (clocks["host"].astype(str) != reference)]
    unknown = sorted(set(map(str, clocks.loc[~clocks["reachable"], "host"])))
    lost = f" Never compared with it: {label(', '.join(unknown))}." if unknown else ""
    if known.empty:
        drawing.caption = f"Not drawn: no clock was compared with that of {label(reference)}.{lost}"
        return drawing
    by_host = {str(host): rows for host, rows in known.groupby("host", observed=True)}
    shown = dict(sorted(by_host.items(), key=lambda item: -float(item[1]["bound_ns"].median()))[:_MAX_HOSTS])
    figure = new_figure(min(7.0, 2.4 + 0.17 * len(shown)))
    left, right = panels(figure, 1, 2, width_ratios=[3, 2])
    start = int(known["time"].min())
    for number, rows in enumerate(shown.values()):
        seconds = (rows["time"].to_numpy(dtype=np.int64) - start) / 1e9
        offset = rows["offset_ns"].to_numpy(dtype=np.float64) / 1e6
        moved, bound = offset - np.median(offset), rows["bound_ns"].to_numpy(dtype=np.float64) / 1e6
        color, dashes = (SERIES[number], DASHES[number % 4]) if number < len(SERIES) else (INK, ":")
        left.plot(seconds, moved, color=color, linestyle=dashes, linewidth=1.2)
        left.fill_between(seconds, moved - bound, moved + bound, color=color, alpha=0.06, linewidth=0)
    left.set_title("offset less its median, ± bound")
    left.set_xlabel("s")
    left.set_ylabel("ms")
    right.set_title("bound: median to greatest")
    right.set_xscale("log")
    for row, points in enumerate(shown.values()):
        bounds = points["bound_ns"].to_numpy(dtype=np.float64) / 1e6
        color = SERIES[row] if row < len(SERIES) else INK
        right.plot([np.median(bounds), bounds.max()], [row, row], color=color, linewidth=1.2)
        right.plot([np.median(bounds)], [row], marker="o", color=color)
        right.plot([bounds.max()], [row], marker="|", color=color)
    medians = {
        host: float(pd.Series(rows["offset_ns"]).astype("float64").median()) / 1e6 for host, rows in shown.items()
    }
    names = [f"{label(host, 16)} ({medians[host]:+,.1f} ms)" for host in shown]
    right.set_yticks(range(len(shown)), names, fontsize=7.5)
    right.yaxis.tick_right()
    right.spines[["left"]].set_visible(False)
    right.set_ylim(len(shown) - 0.5, -0.5)
    right.set_xlabel("ms")
    plain_ticks(right, x=True)
    drawing.figure = figure
    worst = max(shown, key=lambda host: float(shown[host]["bound_ns"].max()))
    widest = milliseconds(float(shown[worst]["bound_ns"].max()) / 1e6)
    drawing.caption = (
        f"Each host's clock against that of {label(reference)}, as the validators measured it while the cell ran. "
        "Left: how the offset moved around its median (named on the right); the true one lies in the shade, its bound. "
        "A line that runs straight up or down is a crystal's drift, a step a clock that was set. Right: how wide the "
        f"bound is; the widest is ± {widest} ms, of {label(worst)}. Every figure across hosts carries it.{lost}"
        + (f" {len(by_host) - len(shown)} more hosts are left out." if len(by_host) > len(shown) else "")
        + choice
    )
    return drawing
