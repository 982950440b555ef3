"""The table of a comparison: figures side by side, and what may be said about the difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from analysis.compare_runs import ComparedFigure, Comparison, Value
from analysis.data_table import Column, DataTable
from analysis.effect import CONFIDENCE, MIN_RUNS, POWER, Estimate
from analysis.figures import MISSING, milliseconds

__all__ = ["build_table", "explain", "read_figure"]


def build_table(figures: Sequence[ComparedFigure]) -> DataTable:
    """Return the figures of one shape; intervals and readings only where there are enough runs."""
    columns = [Column("figure"), Column("A", align="right"), Column("B", align="right")]
    measured = any(figure.effect is not None for figure in figures)
    if measured:
        labels = ("B - A [95 %]", "B / A [95 %]", "detectable")
        columns += [*(Column(label, align="right") for label in labels), Column("reading")]
    rows = []
    for figure in figures:
        row = [f"{figure.metric.name}, {figure.metric.unit}", _mean(figure.a), _mean(figure.b)]
        rows.append([*row, *(_describe_effect(figure) if measured else [])])
    return DataTable("comparison", "", columns, rows, [], "latency")


def _describe_effect(figure: ComparedFigure) -> list[str]:
    effect = figure.effect
    if effect is None:
        return [MISSING, MISSING, MISSING, read_figure(figure)]
    return [
        _interval(effect.difference, lambda x: f"{'-' if x < 0 else '+'}{milliseconds(abs(x))}"),
        _interval(effect.ratio, lambda x: f"{x:.2f}" if x < 10 else f"{x:.0f}"),
        f"{effect.detectable:.1%}" if effect.detectable < 0.1 else f"{effect.detectable:.0%}",
        read_figure(figure),
    ]


def read_figure(figure: ComparedFigure) -> str:
    """Say in a few words what the figure shows, and no more than that."""
    effect = figure.effect
    if effect is None:
        return f"not enough runs ({len(figure.a)}, {len(figure.b)})"
    if abs(effect.difference.value) <= figure.clock_error > 0:
        return f"clocks: ± {milliseconds(figure.clock_error)}"
    if figure.p < 1 - CONFIDENCE:
        is_more = effect.ratio.value > 1
        if figure.metric.more_is_better:
            return "B is more" if is_more else "B is less"
        return "B is slower" if is_more else "B is faster"
    if effect.ratio.low > 1 or effect.ratio.high < 1:
        return "unsure: one of many"
    return "none shown"


def explain(comparison: Comparison) -> list[str]:
    """Say how to read the tables, or how many runs are lacking."""
    lacking = [max(0, MIN_RUNS - len(group)) for group in (comparison.a, comparison.b)]
    lines = []
    if any(lacking):
        more = " and ".join(f"{count} more of {side}" for side, count in zip("AB", lacking, strict=True) if count)
        lines.append(
            f"Not enough runs: a difference is claimed from {MIN_RUNS} of A and {MIN_RUNS} of B on, so {more} "
            f"{'is' if sum(lacking) == 1 else 'are'} needed. The figures stand side by side, and that is all."
        )
    count = sum(figure.effect is not None for figures in comparison.shapes.values() for figure in figures)
    if count:
        lines += [
            "Each run gives one figure, the median of its rounds; A and B are the means of these. Intervals: Welch's "
            f"t, the ratio's on logarithms. detectable: the least change that is found in {POWER:.0%} of cases.",
            f"A reading is given at {1 - CONFIDENCE:.0%} for all {count} figures together (Holm): of many intervals "
            "one may leave out 1 by chance. clocks: the difference is within the clocks' error.",
        ]
    return lines


def _mean(values: Sequence[Value]) -> str:
    return milliseconds(fmean(value.value for value in values)) if values else MISSING


def _interval(estimate: Estimate, show: Callable[[float], str]) -> str:
    return f"{show(estimate.value)} [{show(estimate.low)}, {show(estimate.high)}]"
