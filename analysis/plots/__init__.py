"""The figures of a report, as SVG for any ground and PNG on white. matplotlib is imported only when one is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.data_table import Section
from analysis.run import Run

if TYPE_CHECKING:
    from analysis.report import Report

__all__ = ["PlottedFigure", "build_figures"]


@dataclass(frozen=True)
class PlottedFigure:
    """A drawn figure.

    ``name`` is a file stem. ``caption`` says what is shown and what to see. ``svg`` is for embedding in a page: no
    ground, text and axes in ``currentColor``, series in ``var(--series-1, …)`` and so on. ``png`` is on white. A figure
    for which nothing was measured has neither (``svg`` and ``png`` empty): its caption says why.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    section: Section


def build_figures(run: Run, report: Report) -> list[PlottedFigure]:
    """Draw every figure; ``report`` is the analysis of ``run``."""
    return []
