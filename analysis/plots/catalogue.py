"""Which figures a run has, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from analysis.credits import read_mean_credits
from analysis.data_table import Section
from analysis.plots.choice import choose_cells, describe_choice
from analysis.plots.clocks import draw_clocks
from analysis.plots.distributions import draw_distributions, draw_rate_distribution
from analysis.plots.drawing import Drawing
from analysis.plots.growth import draw_growth
from analysis.plots.series import draw_series
from analysis.plots.throughput import draw_throughput
from analysis.plots.traffic import draw_traffic
from analysis.plots.validators import draw_validators
from analysis.run import Run
from analysis.timeline import build_timeline

if TYPE_CHECKING:
    from analysis.report import Report

__all__ = ["PlannedDrawings", "plan_drawings"]


@dataclass(frozen=True)
class PlannedDrawings:
    """Drawings that are made together; ``name``, ``title`` and ``section`` stand for them if that fails."""

    name: str
    title: str
    section: Section
    draw: Callable[[], list[Drawing]]


def plan_drawings(run: Run, report: Report) -> list[PlannedDrawings]:
    """Return the drawings of everything that was planned in the run; nothing is drawn yet."""
    cells = report.cells
    planned = []
    if any(cell.rounds is not None for cell in cells):
        planned += [
            PlannedDrawings(
                "growth", "Latency by committee size", "latency", lambda: draw_growth(cells, read_mean_credits(run))
            ),
            PlannedDrawings("distribution", "Distributions", "latency", partial(draw_distributions, cells)),
        ]
    if any(cell.rate is not None for cell in cells):
        planned.append(
            PlannedDrawings(
                "rate-distribution", "Latency at an offered rate", "latency", partial(draw_rate_distribution, cells)
            )
        )
    if any(cell.rounds is not None for cell in cells):
        planned += [
            PlannedDrawings(
                "throughput", "Throughput and T_bc by block size", "throughput", partial(draw_throughput, cells)
            ),
            PlannedDrawings("traffic", "Messages and bytes by phase", "traffic", partial(draw_traffic, cells)),
        ]
    return planned + _plan_cells(run, report)


def _plan_cells(run: Run, report: Report) -> list[PlannedDrawings]:
    """Figures of single cells; a figure's failure, or a cell's, costs no other."""
    chosen, choice = choose_cells(report.cells), describe_choice(report.cells)
    timelines = cache(lambda cell: build_timeline(run, run.cells[cell]))
    planned = []
    for cell in chosen:
        id = cell.spec.id

        def series(id: str = id) -> list[Drawing]:
            return [draw_series(timelines(id), choice)]

        planned.append(PlannedDrawings(f"series-{id}", f"Over time: {id}", "series", series))
    for cell in chosen:
        id = cell.spec.id

        def validators(id: str = id) -> list[Drawing]:
            return [draw_validators(run, timelines(id), choice)]

        planned.append(PlannedDrawings(f"validators-{id}", f"Validators and boards: {id}", "validators", validators))

    def clocks() -> list[Drawing]:
        several = [c.spec.id for c in chosen if len(set(timelines(c.spec.id).hosts.values())) > 1]
        alone = "Not drawn: all processes of a cell ran on one host, and share its clock."
        return [draw_clocks(run, id, choice) for id in several] or [Drawing("clocks", "Clocks", alone, "clocks")]

    planned.append(PlannedDrawings("clocks", "Clocks", "clocks", clocks))
    return planned
