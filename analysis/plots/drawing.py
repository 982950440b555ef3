"""What all figures share: their look, axes, and how they become SVG and PNG.

matplotlib draws with the colours of a light page. In the SVG, ink becomes ``currentColor`` and each series' colour a
variable of the page with that colour as its default, so that the same drawing stands on a light and on a dark ground.
Colours come with different markers and line styles; no figure relies on colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path as DrawnPath
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from rich.cells import cell_len

from analysis.data_table import Section
from analysis.rendering import clean
from analysis.statistics import Array

__all__ = [
    "DASHES",
    "INK",
    "MARKERS",
    "MAX_POINTS",
    "SERIES",
    "Drawing",
    "draw_dots",
    "fix_layout",
    "label",
    "legend_below",
    "new_figure",
    "panels",
    "plain_ticks",
    "style",
    "thin",
    "to_png",
    "to_svg",
]

INK = "#1d2126"
SERIES = ("#1f5fa8", "#b4500b", "#1b7a4b", "#8e3a86", "#a8203a", "#5c6b00", "#006d77", "#6b5344")
"""The light page's --series-1 to --series-8; each at least 4.5 : 1 against white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), *["-"] * 4)
MAX_POINTS = 1000
"""Of one line or cloud: more can't be told apart at this size, and would only make the file larger."""
_DPI = 160
_WIDTH = 6.6


@dataclass
class Drawing:
    """A figure before it is rendered; without ``figure``, the caption says why nothing could be drawn."""

    name: str
    title: str
    caption: str
    section: Section
    figure: Figure | None = None


def style() -> Any:
    """Return the settings under which every figure is made and rendered."""
    return {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,
        "text.hinting": "none",
        "figure.dpi": _DPI,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "grid.color": INK,
        "grid.alpha": 0.13,
        "grid.linewidth": 0.6,
        "xtick.color": INK,
        "ytick.color": INK,
        **{f"{axis}tick.{kind}.size": 3 for axis in "xy" for kind in ("major", "minor")},
        **{f"{axis}tick.{kind}.pad": 3.5 for axis in "xy" for kind in ("major", "minor")},
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.5,
        "lines.markersize": 5,
        "figure.constrained_layout.use": True,
        "path.simplify": True,
        "svg.fonttype": "none",
        "svg.hashsalt": "testbed",
    }


def new_figure(height: float, width: float = _WIDTH) -> Figure:
    """Return an empty figure; sizes in inches at which its text is as large as a page's small print."""
    return Figure(figsize=(width, height), layout="constrained")


def panels(figure: Figure, rows: int, columns: int, **options: Any) -> list[Axes]:
    """Return the axes of a grid of panels, row by row."""
    return list(np.asarray(figure.subplots(rows, columns, squeeze=False, **options)).flat)


def label(text: str, longest: int = 40) -> str:
    """Return a name from a run as it may stand in a figure: no control characters, and of bounded width."""
    text = clean(text[:200])
    if cell_len(text) <= longest:
        return text
    while cell_len(text) >= longest:
        text = text[:-1]
    return f"{text}…"


def plain_ticks(axes: Axes, *, x: bool = False, y: bool = False) -> None:
    """Write plain numbers (0.5, 20, 1 000) on logarithmic axes, and enough of them. Call it when all is drawn."""
    for wanted, axis in ((x, axes.xaxis), (y, axes.yaxis)):
        if not wanted:
            continue
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}".replace(",", "\u202f")))
        axis.set_minor_formatter(NullFormatter())
        low, high = sorted(axis.get_view_interval())
        if low > 0 and high / low < 4:
            axis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
            axis.set_minor_locator(NullLocator())
        elif low > 0 and high / low < 30:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))


def thin(x: Array, y: Array, points: int = MAX_POINTS) -> tuple[Array, Array]:
    """Return at most ``points`` of the points in their order: of each stretch its smallest and its largest y."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= points:
        return x, y
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(x)), points // 2):
        kept += sorted({int(stretch[np.argmin(y[stretch])]), int(stretch[np.argmax(y[stretch])])})
    return x[kept], y[kept]


def draw_dots(axes: Axes, x: Array, y: Array, color: str, *, size: float = 3.0, alpha: float = 0.55) -> None:
    """Draw a cloud of dots as one path: a third of the bytes that as many markers take."""
    known = np.isfinite(x) & np.isfinite(y)
    points = np.column_stack([x[known], y[known]])
    if not len(points):
        return
    axes.update_datalim(points)
    axes.autoscale_view()
    vertices = np.repeat(points, 2, axis=0)
    # A line without any length is drawn by browsers, but not by matplotlib: a fraction of a pixel makes it a dot.
    vertices[1::2, 0] += 1e-3 * abs(float(np.ptp(axes.get_xlim())))
    codes = np.tile([DrawnPath.MOVETO, DrawnPath.LINETO], len(points))
    cloud = PathPatch(
        DrawnPath(vertices, codes), fill=False, edgecolor=color, linewidth=size, alpha=alpha, capstyle="round"
    )
    axes.add_patch(cloud)


def legend_below(figure: Figure, handles: Sequence[Line2D | Any], columns: int) -> None:
    """Put one legend for all panels below them."""
    if handles:
        figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, handlelength=2.4)


def fix_layout(figure: Figure) -> None:
    """Compute the layout once for all renderings; it costs as much as these."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def to_svg(figure: Figure) -> str:
    """Render without a ground, in the page's colours."""
    text = _render(figure, "svg", transparent=True, metadata={"Date": None, "Creator": None}).decode()
    text = re.sub(r"<\?xml.*?\?>\s*|<!DOCTYPE.*?>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r">\s+<", "><", text)
    text = re.sub(re.escape(INK), "currentColor", text, flags=re.IGNORECASE)
    for number, color in enumerate(SERIES, 1):
        text = re.sub(re.escape(color), f"var(--series-{number}, {color})", text, flags=re.IGNORECASE)
    return text


def to_png(figure: Figure) -> bytes:
    """Render on white."""
    return _render(figure, "png", dpi=_DPI, facecolor="white", metadata={"Software": None})


def _render(figure: Figure, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=format, **options)
    return file.getvalue()
