"""p50, p90, p99 and the maximum from raw samples, each with the interval that holds the true one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.data_table import Column, DataTable, Footnotes
from analysis.figures import MISSING, Figure, milliseconds, summarize
from analysis.measured import MeasuredCell, Pool, describe_size, group_engines, pool_cells
from analysis.rounds import PHASES
from analysis.statistics import CONFIDENCE, MIN_P99_SAMPLES, Array, Interval, QuantileEstimate, estimate_quantile
from analysis.tables.engines import needs_engine_column, with_engine

__all__ = ["quantile_tables", "rate_quantile_table"]

_ENGINE = ["engine"]
QUANTILES = (0.5, 0.9, 0.99)
_EXPLANATION = (
    f"From raw samples; in brackets the {CONFIDENCE:.0%} interval, from order statistics. An end that is open "
    f"(…) has too few samples for a bound. The maximum is the longest that was seen, and has no interval."
)


def quantile_tables(cells: Sequence[MeasuredCell], hardware: str) -> list[DataTable]:
    """Return one table for each size of block and transaction: every phase and committee size of cells with rounds."""
    return [_round_table(pools, hardware) for pools in group_engines(pool_cells(cells))]


def _round_table(pools: Sequence[Pool], hardware: str) -> DataTable:
    block, transaction = pools[0].block_bytes, pools[0].transaction_bytes
    notes = Footnotes()
    rows: list[list[str]] = []
    groups = []
    mixed = needs_engine_column(pools)
    for pool in pools:
        groups.append(len(rows))
        size = str(pool.validators)
        for phase in PHASES:
            rows.append([size, phase, *_texts(pool.frame[phase], pool.figure(phase), notes)])
            size = ""
        if mixed:
            rows[groups[-1] :] = with_engine(rows[groups[-1] :], pool)
    shape = f"{describe_size(block)} blocks of {describe_size(transaction)} transactions"
    return _table(
        f"quantiles-b{block}-t{transaction}",
        f"Quantiles: {shape}",
        ["K", *_ENGINE[:mixed]],
        rows,
        groups,
        notes,
        hardware,
    )


def rate_quantile_table(cells: Sequence[MeasuredCell], hardware: str) -> DataTable:
    """Return the latency to finality of open-loop cells: scheduled moment until final on all validators."""
    notes = Footnotes()
    rows = []
    for cell in cells:
        if cell.rate is not None:
            nothing = ("no traced transaction is final on all validators",)
            figure = summarize(cell.rate.latency, cell.rate.bound, nothing)
            rows.append([cell.spec.id, "finality", *_texts(cell.rate.latency, figure, notes)])
    return _table("rate-quantiles", "Quantiles at an offered rate", ["cell"], rows, range(len(rows)), notes, hardware)


def _table(
    name: str,
    title: str,
    first: list[str],
    rows: list[list[str]],
    groups: Sequence[int],
    notes: Footnotes,
    hardware: str,
) -> DataTable:
    return DataTable(
        name=name,
        title=title,
        columns=[
            *map(Column, first),
            Column("phase"),
            Column("samples", align="right"),
            *(Column(f"p{q * 100:.0f}", "ms", "right") for q in QUANTILES),
            Column("max", "ms", "right"),
        ],
        rows=rows,
        notes=[*notes.lines(), _EXPLANATION],
        section="latency",
        sources=[f"Measured on: {hardware}"],
        groups=groups,
    )


def _texts(values: pd.Series, figure: Figure, notes: Footnotes) -> list[str]:
    """Samples, quantiles and maximum; dashes with a reason if the figure is refused."""
    samples: Array = values.dropna().to_numpy(dtype=np.float64)
    if figure.reason:
        return [str(len(samples)) if len(samples) else "none", *[notes.show(figure)] * 4]
    return [
        str(len(samples)),
        *(_text(estimate_quantile(samples, q), len(samples), notes) for q in QUANTILES),
        milliseconds(float(samples.max())),
    ]


def _text(estimate: QuantileEstimate | None, count: int, notes: Footnotes) -> str:
    if estimate is None:
        reason = f"a 99th percentile needs at least {MIN_P99_SAMPLES} samples"
        return notes.show(Figure(MISSING, reason))
    return f"{milliseconds(estimate.value)} {describe_interval(estimate.interval)}"


def describe_interval(interval: Interval) -> str:
    """Return an interval of durations in ms, with … at an open end."""
    low, high = ("…" if end is None else milliseconds(end) for end in (interval.low, interval.high))
    return f"[{low}, {high}]"
