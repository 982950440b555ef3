"""Which validator was behind, and when: a heat map, with the health of the boards below it on the same time axis."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import milliseconds
from analysis.moments import LagMap, bin_edges, bin_medians, map_lags
from analysis.plots.drawing import DASHES, INK, SERIES, Drawing, draw_dots, label, new_figure
from analysis.run import Run
from analysis.statistics import Array
from analysis.tables.boards import FLAGS, memory_used
from analysis.timeline import Timeline, correct_times

__all__ = ["draw_validators"]

_COLUMNS = 72
_PIXELS = 480
_BINS = 120
_MAX_LINES = 6
_MAX_NAMES = 20


def draw_validators(run: Run, timeline: Timeline, choice: str) -> Drawing:
    """Draw one cell; ``choice`` says which cells are not drawn."""
    cell = timeline.cell
    drawing = Drawing(f"validators-{cell.id}", f"Validators and boards: {label(cell.id)}", "", "validators")
    lags = map_lags(timeline, _COLUMNS)
    health = _health(run, timeline)
    if lags is None and not health:
        drawing.caption = "Not drawn: no validator reported a finalized block, and no board its health."
        return drawing
    heights = [min(3.2, 0.9 + 0.16 * len(cell.spec.validators))] * (lags is not None) + [1.15] * len(health)
    figure = new_figure(sum(heights) + 0.6)
    axes = list(np.atleast_1d(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)))
    words = ["Times in seconds after the beginning of the cell, warm-up included."]
    if lags is not None:
        words.append(_heat_map(figure, axes.pop(0), lags))
    hosts = sorted({host for series in health.values() for host in series})
    for panel, (title, series) in zip(axes, health.items(), strict=True):
        _health_panel(panel, title, series, hosts)
    if health:
        words.append(_flags(axes[0], run, timeline))
        words.append(_hosts(figure, hosts))
    else:
        words.append("No board reported its health.")
    bottom = figure.axes[len(heights) - 1]
    bottom.set_xlabel("s")
    if lags is not None:
        bottom.set_xlim(min(0.0, float(lags.edges[0])), float(lags.edges[-1]))
    drawing.figure = figure
    drawing.caption = " ".join(word for word in words if word) + choice
    return drawing


def _heat_map(figure: Figure, axes: Axes, lags: LagMap) -> str:
    known = lags.lags[np.isfinite(lags.lags)]
    most = max(float(np.quantile(known, 0.98)), 1e-3)
    edges = (float(lags.edges[0]), float(lags.edges[-1]))
    # Columns last until the next blocks: an image has columns of one width, so each takes as many as it lasts.
    grid = np.linspace(*edges, _PIXELS, endpoint=False)
    columns = np.clip(np.searchsorted(lags.edges, grid, side="right") - 1, 0, lags.lags.shape[1] - 1)
    image = axes.imshow(
        lags.lags[:, columns],
        cmap="cividis",
        vmin=0,
        vmax=most,
        aspect="auto",
        interpolation="none",
        extent=(*edges, len(lags.validators) - 0.5, -0.5),
    )
    step = -(-len(lags.validators) // _MAX_NAMES)
    rows = range(0, len(lags.validators), step)
    axes.set_yticks(rows, [label(lags.validators[row], 20) for row in rows], fontsize=min(8.0, 9 - len(rows) / 8))
    axes.grid(visible=False)
    axes.set_title("median lag behind the first validator to finalize")
    bar = figure.colorbar(image, ax=axes, pad=0.01, fraction=0.04, extend="max" if known.max() > most else "neither")
    bar.set_label("ms")
    with np.errstate(invalid="ignore"):
        medians = {name: _median(row) for name, row in zip(lags.validators, lags.lags, strict=True)}
    slowest = max(medians, key=lambda name: medians[name])
    absent = [label(name) for name, row in zip(lags.validators, lags.lags, strict=True) if np.isnan(row).all()]
    bound = f" Times of two hosts agree to ± {milliseconds(lags.bound)} ms." if lags.bound > 0 else ""
    return (
        "Top: how long after the first validator each one finalized the same blocks; a row brighter than the others is "
        "a validator that is always behind, a bright column a moment at which many were. A column lasts until "
        "the next blocks; nothing is drawn where a validator finalized none of them. "
        f"Most behind: {label(slowest)}, {milliseconds(medians[slowest])} ms in the "
        f"median.{bound}" + (f" No finalized block from {', '.join(absent[:8])}." if absent else "")
    )


def _median(row: Array) -> float:
    known = row[np.isfinite(row)]
    return float(np.median(known)) if len(known) else -1.0


Series = dict[str, tuple[Array, Array]]
"""Times (s) and values by host."""


def _health(run: Run, timeline: Timeline) -> dict[str, Series]:
    """What the cell's boards reported, by title of the panel; only what at least one board has a sensor for."""
    points = _board_points(run, timeline)
    measures = {
        "CPU, %": points["cpu_percent"].astype("float64"),
        "memory in use, %": memory_used(points) * 100,
        "temperature, °C": points["temperature_c"].astype("float64"),
        "clock, MHz": points["frequency_hz"].astype("float64") / 1e6,
    }
    found: dict[str, Series] = {}
    for title, values in measures.items():
        for host, rows in points[values.notna()].groupby("host", observed=True):
            times = rows["at"].to_numpy(dtype=np.float64) / 1e9
            edges = bin_edges(times, min(_BINS, len(times)))
            series = bin_medians(times, values.loc[rows.index].to_numpy(dtype=np.float64), edges)
            found.setdefault(title, {})[str(host)] = series
    return found


def _board_points(run: Run, timeline: Timeline) -> pd.DataFrame:
    points = run.boards[run.boards["cell"] == timeline.cell.id]
    # A process's first point says 0 % CPU: there is no earlier one that it could count from.
    points = points[points.groupby("validator", observed=True).cumcount() > 0]
    corrected = correct_times(points, timeline.clocks, timeline.origin)
    return corrected[corrected["at"].notna()]


def _health_panel(axes: Axes, title: str, series: Series, hosts: list[str]) -> None:
    name, unit = title.rsplit(", ", 1)
    axes.set_title(name)
    axes.set_ylabel(unit)
    if len(hosts) <= _MAX_LINES:
        for host, (times, values) in series.items():
            number = hosts.index(host)
            axes.plot(times, values, color=SERIES[number], linestyle=DASHES[number % 4], linewidth=1.2)
    else:
        times = np.concatenate([times for times, _ in series.values()])
        values = np.concatenate([values for _, values in series.values()])
        edges = bin_edges(times, _BINS // 2)
        stretch = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(edges) - 2)
        spread = pd.Series(values).groupby(stretch).agg(["min", "median", "max"])
        middles = ((edges[:-1] + edges[1:]) / 2)[spread.index.to_numpy(dtype=np.intp)]
        axes.fill_between(middles, spread["min"], spread["max"], color=SERIES[0], alpha=0.2, linewidth=0)
        axes.plot(middles, spread["median"], color=SERIES[0], linewidth=1.2)
    if unit == "%":
        axes.set_ylim(0, 105)


def _hosts(figure: Figure, hosts: list[str]) -> str:
    if len(hosts) == 1:
        return f"All validators ran on {label(hosts[0])}: its health is the whole machine's."
    if len(hosts) > _MAX_LINES:
        return f"Of the {len(hosts)} boards: the median, and from the least to the greatest (shaded)."
    handles = [
        Line2D([], [], color=SERIES[i], linestyle=DASHES[i % 4], label=label(host, 20)) for i, host in enumerate(hosts)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return "Below: one line for each board."


def _flags(axes: Axes, run: Run, timeline: Timeline) -> str:
    """Mark on the first panel of the boards when a firmware reported trouble."""
    points = _board_points(run, timeline)
    seen = {text: points[points[column].eq(True).fillna(False)] for column, text in FLAGS.items()}
    shown = {text: rows for text, rows in seen.items() if len(rows)}
    if not shown:
        known = points["throttled"].notna().any()
        return "No board was throttled, capped or short of voltage." if known else ""
    marked = np.sort(np.concatenate([rows["at"].to_numpy(dtype=np.float64) for rows in shown.values()])) / 1e9
    marked = marked[:: max(1, len(marked) // 300)]
    draw_dots(axes, marked, np.full(len(marked), 103.0), INK, size=3.5, alpha=1.0)
    texts = [f"{text} ({', '.join(sorted(map(str, rows['host'].unique()))[:8])})" for text, rows in shown.items()]
    return f"Dots at the top of the boards' first panel: {label_all(texts)}."


def label_all(texts: list[str]) -> str:
    """Join texts that hold names from a run."""
    return "; ".join(label(text) for text in texts)
