"""Two groups of runs: one figure of each run for each cell shape, and what may be said about the difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import pandas as pd

from analysis.conditions import Difference, describe_differences, list_cell_conditions, list_run_conditions
from analysis.documents import CellSpec, RateWorkload
from analysis.effect import MIN_RUNS, Effect, adjust_p_values, measure_effect
from analysis.figures import is_bound_too_wide
from analysis.measured import DEFAULT_ENGINE, MeasuredCell, describe_size, engine_label
from analysis.report import analyse
from analysis.rounds import PHASES
from analysis.run import load
from analysis.statistics import MIN_P99_SAMPLES
from analysis.verdict import Level, Verdict

__all__ = ["ComparedFigure", "Comparison", "Metric", "RunSummary", "Shape", "compare_runs", "summarise_run"]


@dataclass(frozen=True, order=True)
class Shape:
    """What cells must have in common to be compared."""

    validators: int
    block_bytes: int
    transaction_bytes: int
    workload: str
    engine: str = DEFAULT_ENGINE

    def __str__(self) -> str:
        block, transaction = describe_size(self.block_bytes), describe_size(self.transaction_bytes)
        engine = engine_label(self.engine)
        return f"{self.validators} validators, {block} blocks, {transaction} transactions, {self.workload}{engine}"


@dataclass(frozen=True)
class Metric:
    """A figure of a run's cells."""

    name: str
    unit: str
    more_is_better: bool = False


@dataclass(frozen=True)
class Value:
    """A run's figure, and the error of the clocks in it (same unit)."""

    value: float
    bound: float = 0.0


@dataclass(frozen=True)
class RunSummary:
    """One run: its verdict, its figures by shape, and the cells that have each shape."""

    name: str
    path: Path
    verdict: Verdict
    figures: dict[Shape, dict[Metric, Value]]
    cells: dict[Shape, list[str]]


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of both groups; ``effect`` is None if there are too few runs. ``p`` is adjusted for all figures."""

    metric: Metric
    a: tuple[Value, ...]
    b: tuple[Value, ...]
    effect: Effect | None = None
    p: float = 1.0

    @property
    def clock_error(self) -> float:
        """By how much the difference may be wrong because of the clocks, in the metric's unit."""
        return max((v.bound for v in self.a), default=0.0) + max((v.bound for v in self.b), default=0.0)


@dataclass(frozen=True)
class Comparison:
    """What was found. ``unmatched`` shapes are in one group only; INVALID runs are ``refused`` and not counted."""

    a: tuple[RunSummary, ...]
    b: tuple[RunSummary, ...]
    refused: tuple[RunSummary, ...]
    shapes: dict[Shape, list[ComparedFigure]]
    unmatched: dict[Shape, str]
    differences: list[Difference]


def summarise_run(path: Path) -> RunSummary:
    """Analyse a run; NotARun if it is none."""
    report = analyse(load(path))
    by_shape: dict[Shape, list[MeasuredCell]] = {}
    for cell in report.cells:
        by_shape.setdefault(_shape_of(cell.spec), []).append(cell)
    figures = {shape: dict(_measure(cells)) for shape, cells in by_shape.items()}
    names = {shape: [cell.spec.id for cell in cells] for shape, cells in by_shape.items()}
    return RunSummary(report.verdict.run, path, report.verdict, figures, names)


def _shape_of(spec: CellSpec) -> Shape:
    workload = spec.workload
    if isinstance(workload, RateWorkload):
        label = f"{workload.rate:g} transactions a second"
    else:
        label = f"rounds of {workload.transactions}"
    return Shape(len(spec.validators), spec.parameters.max_block_bytes, workload.transaction_bytes, label, spec.engine)


def _measure(cells: Sequence[MeasuredCell]) -> Iterator[tuple[Metric, Value]]:
    """The run's figures of one shape: medians over the raw samples of all its repeats together."""
    rounds = [cell.rounds.frame for cell in cells if cell.rounds is not None]
    if rounds:
        frame = pd.concat(rounds, ignore_index=True)
        for phase in PHASES:
            yield from _quantile(Metric(phase, "ms"), frame[phase], frame[f"{phase}_bound"], 0.5)
    rates = [cell.rate for cell in cells if cell.rate is not None]
    if rates:
        latency = pd.concat([rate.latency for rate in rates], ignore_index=True)
        bound = pd.concat([rate.bound for rate in rates], ignore_index=True)
        yield from _quantile(Metric("latency p50", "ms"), latency, bound, 0.5)
        if latency.notna().sum() >= MIN_P99_SAMPLES:
            yield from _quantile(Metric("latency p99", "ms"), latency, bound, 0.99)
        finalized = fmean(rate.finalized for rate in rates)
        if finalized > 0:
            yield Metric("finalized", "tx/s", more_is_better=True), Value(finalized)


def _quantile(metric: Metric, samples: pd.Series, bounds: pd.Series, q: float) -> Iterator[tuple[Metric, Value]]:
    """One figure, unless there is none, or its clocks are too wrong."""
    known = samples.dropna()
    if known.empty:
        return
    value, bound = float(known.quantile(q)), float(bounds.loc[known.index].max())
    if value > 0 and not is_bound_too_wide(value, bound):
        yield metric, Value(value, bound)


def compare_runs(a: Iterable[RunSummary], b: Iterable[RunSummary]) -> Comparison:
    """Compare all figures that both groups have."""
    a, b = tuple(a), tuple(b)
    refused = tuple(run for run in (*a, *b) if run.verdict.level is Level.INVALID)
    a, b = (tuple(run for run in group if run.verdict.level is not Level.INVALID) for group in (a, b))
    in_a, in_b = ({shape for run in group for shape in run.figures} for group in (a, b))
    matched = sorted(in_a & in_b)
    shapes = {shape: _compare_shape(shape, a, b) for shape in matched}
    unmatched = {shape: "A" if shape in in_a else "B" for shape in sorted(in_a ^ in_b)}
    return Comparison(a, b, refused, _adjust(shapes), unmatched, _find_differences(matched, a, b))


def _find_differences(shapes: Iterable[Shape], a: Sequence[RunSummary], b: Sequence[RunSummary]) -> list[Difference]:
    """What differs between the runs, and between their cells of one shape; each topic once."""
    whole = ([list_run_conditions(run.path) for run in group] for group in (a, b))
    found = {difference.topic: difference for difference in describe_differences(*whole)}
    for shape in shapes:
        of_a, of_b = (
            [list_cell_conditions(run.path, run.cells[shape]) for run in group if shape in run.cells]
            for group in (a, b)
        )
        for difference in describe_differences(of_a, of_b):
            found.setdefault(difference.topic, difference)
    return list(found.values())


def _compare_shape(shape: Shape, a: Sequence[RunSummary], b: Sequence[RunSummary]) -> list[ComparedFigure]:
    metrics = dict.fromkeys(metric for run in (*a, *b) for metric in run.figures.get(shape, {}))
    found = []
    for metric in metrics:
        of_a, of_b = (
            tuple(run.figures[shape][metric] for run in group if metric in run.figures.get(shape, {}))
            for group in (a, b)
        )
        effect = None
        if min(len(of_a), len(of_b)) >= MIN_RUNS:
            effect = measure_effect([value.value for value in of_a], [value.value for value in of_b])
        found.append(ComparedFigure(metric, of_a, of_b, effect, effect.p if effect else 1.0))
    return found


def _adjust(shapes: dict[Shape, list[ComparedFigure]]) -> dict[Shape, list[ComparedFigure]]:
    """Adjust the p-values of all figures together: of many, some differ by chance."""
    measured = [figure for figures in shapes.values() for figure in figures if figure.effect is not None]
    adjusted = dict(zip(map(id, measured), adjust_p_values([figure.p for figure in measured]), strict=True))
    return {
        shape: [replace(figure, p=adjusted.get(id(figure), 1.0)) for figure in figures]
        for shape, figures in shapes.items()
    }
