"""The figures of a report, as SVG for any ground and PNG on white. matplotlib is imported only when one is drawn."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.data_table import Section
from analysis.run import Run

if TYPE_CHECKING:
    from analysis.plots.drawing import Drawing
    from analysis.report import Report

__all__ = ["PlottedFigure", "build_figures"]

_LOG = logging.getLogger(__name__)
_CACHE = Path(__file__).parents[2] / ".cache" / "matplotlib"


@dataclass(frozen=True)
class PlottedFigure:
    """A drawn figure.

    ``name`` is a file stem. ``caption`` says what is shown and what to see. ``svg`` is for embedding in a page: no
    ground, text and axes in ``currentColor``, series in ``var(--series-1, …)`` and so on. ``png`` is on white. A figure
    for which nothing was measured, or which could not be drawn, has neither (``svg`` and ``png`` are empty): its
    caption says why.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    section: Section


def build_figures(run: Run, report: Report) -> list[PlottedFigure]:
    """Draw every figure; ``report`` is the analysis of ``run``. A figure that fails costs none of the others."""
    # Its font list belongs to the project's caches, also where a notebook or a bare Python runs this.
    os.environ.setdefault("MPLCONFIGDIR", str(_CACHE))
    import matplotlib as mpl

    from analysis.plots.catalogue import plan_drawings
    from analysis.plots.drawing import style

    figures: list[PlottedFigure] = []
    with mpl.rc_context(style()):
        for planned in plan_drawings(run, report):
            try:
                figures += [_render(drawing) for drawing in planned.draw()]
            except Exception as error:
                _LOG.exception("the figure %r could not be drawn", planned.title)
                caption = f"This figure could not be drawn ({type(error).__name__}); the tables have what it shows."
                figures.append(PlottedFigure(planned.name, planned.title, caption, "", b"", planned.section))
    return figures


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """A name may have letters that matplotlib's font lacks; a browser finds them elsewhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        yield


def _render(drawing: Drawing) -> PlottedFigure:
    from analysis.plots.drawing import fix_layout, to_png, to_svg

    svg, png = "", b""
    if drawing.figure is not None:
        with _quiet_fonts():
            fix_layout(drawing.figure)
            svg, png = to_svg(drawing.figure), to_png(drawing.figure)
    return PlottedFigure(drawing.name, drawing.title, drawing.caption, svg, png, drawing.section)
