"""Latency and traffic by committee size, and how they grow beside what the chapter claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from analysis.data_table import Column, DataTable, Footnotes
from analysis.figures import MISSING, Figure
from analysis.growth import CLAIMS, MIN_SIZES, Fit, Growth, fit_growth
from analysis.measured import (
    MeasuredCell,
    describe_size,
    engine_label,
    engine_stem,
    group_pools,
    phase_samples,
    pool_cells,
    traffic_samples,
)
from analysis.rounds import PHASES

__all__ = ["growth_tables", "traffic_growth_tables"]

_EXPLANATION = (
    "Least squares of a + b·term(K) through the medians of all K. Support: how often this term fits best when rounds "
    "are drawn again (1000 times); b's 95% interval is from the same. ΔAIC: 0 is the best, above 10 has next to no "
    "support (Burnham and Anderson). Claimed: by the chapter."
)


def growth_tables(cells: Sequence[MeasuredCell], hardware: str, credits: Mapping[int, float]) -> list[DataTable]:
    """Return one table for each size of block and transaction that was measured with enough committee sizes.

    ``credits`` is E(D) by committee size.
    """
    tables = []
    for pools in group_pools(pool_cells(cells)):
        if len(pools) < MIN_SIZES:
            continue
        block, transaction = pools[0].block_bytes, pools[0].transaction_bytes
        growths = {phase: fit_growth(phase_samples(pools, phase), credits) for phase in PHASES}
        notes = Footnotes()
        rows, groups = _rows(growths, notes)
        indistinct = dict.fromkeys(g.indistinct for g in growths.values() if g.indistinct and g.fits)
        tables.append(
            DataTable(
                name=f"growth-b{block}-t{transaction}{engine_stem(pools[0].engine)}",
                title=f"Growth with K{engine_label(pools[0].engine)}: {describe_size(block)} blocks of "
                f"{describe_size(transaction)} transactions",
                columns=[
                    *(Column(label) for label in ("phase", "claimed", "term")),
                    *(Column(label, "ms", "right") for label in ("a", "b")),
                    *(Column(label, align="right") for label in ("R²", "ΔAIC", "support")),
                ],
                rows=rows,
                notes=[*notes.lines(), *indistinct, _EXPLANATION],
                section="latency",
                sources=[f"Measured on: {hardware}"],
                groups=groups,
            )
        )
    return tables


def _rows(growths: Mapping[str, Growth], notes: Footnotes) -> tuple[list[list[str]], list[int]]:
    rows: list[list[str]] = []
    groups = []
    for phase, growth in growths.items():
        groups.append(len(rows))
        claim = CLAIMS.get(phase, MISSING)
        if not growth.fits:
            rows.append([phase, claim, notes.show(Figure(MISSING, growth.reason)), *[MISSING] * 5])
        for number, fit in enumerate(growth.fits):
            rows.append([*(("", "") if number else (phase, claim)), *_fit_texts(fit)])
    return rows, groups


def traffic_growth_tables(cells: Sequence[MeasuredCell]) -> list[DataTable]:
    """Return how messages and bytes of each phase grow, for what was measured with enough committee sizes."""
    tables = []
    for (block, transaction, engine), samples in traffic_samples(cells).items():
        growths = {what: fit_growth(by_size) for what, by_size in samples.items()}
        rows = [[*what, *_closest(growth)] for what, growth in growths.items() if growth.fits]
        if rows:
            tables.append(
                DataTable(
                    name=f"traffic-growth-b{block}-t{transaction}{engine_stem(engine)}",
                    title=f"Growth of traffic with K{engine_label(engine)}: "
                    f"{describe_size(block)} blocks of {describe_size(transaction)} transactions",
                    columns=[
                        *(Column(label) for label in ("phase", "sent a round", "closest term")),
                        *(Column(label, align="right") for label in ("a", "b", "R² of K", "R² of K²")),
                    ],
                    rows=rows,
                    notes=["Least squares of a + b·term(K); all validators together, medians of a cell's repeats."],
                    section="traffic",
                )
            )
    return tables


def _closest(growth: Growth) -> list[str]:
    best = growth.fits[0]
    if math.isnan(best.r_squared):
        return ["does not grow", _significant(best.intercept), *[MISSING] * 3]
    explained = {fit.term: f"{fit.r_squared:.3f}" for fit in growth.fits}
    return [best.term, _significant(best.intercept), _significant(best.slope), explained["K"], explained["K²"]]


def _fit_texts(fit: Fit) -> list[str]:
    interval = fit.slope_interval
    ends = f" [{_significant(interval[0])}, {_significant(interval[1])}]" if interval else ""
    return [
        fit.term,
        _significant(fit.intercept),
        f"{_significant(fit.slope)}{ends}",
        MISSING if math.isnan(fit.r_squared) else f"{fit.r_squared:.3f}",
        f"{fit.delta_aic:.1f}",
        MISSING if fit.support is None else f"{fit.support:.0%}",
    ]


def _significant(value: float) -> str:
    """Three significant digits, or a whole number."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"
