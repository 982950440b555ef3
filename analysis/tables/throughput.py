"""Throughput by block size, and latency at an offered rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.data_table import Column, DataTable, Footnotes
from analysis.figures import MISSING, Figure, milliseconds, summarize
from analysis.measured import DEFAULT_ENGINE, MIB, MeasuredCell, Pool, describe_size, group_engines, pool_cells
from analysis.rates import RateFigures
from analysis.reference import CHAPTER, PROTOTYPE, THROUGHPUT_REFERENCES, THROUGHPUT_VALIDATORS
from analysis.statistics import MIN_P99_SAMPLES, estimate_quantile
from analysis.tables.engines import engine_columns, needs_engine_column, with_engine

__all__ = ["rate_table", "throughput_of", "throughput_table"]

_FORMULA = (
    "MB/h = size / T_bc * 3600 at the median T_bc; size: the round's transactions, MB = 2^20 bytes. The "
    "chapter prints this formula upside down (T_bc / size * 3600); its figures follow it as given here."
)

_NO_P99 = Figure(MISSING, f"a 99th percentile needs at least {MIN_P99_SAMPLES} samples")


def throughput_table(cells: Sequence[MeasuredCell], hardware: str) -> DataTable:
    """Return MB/h and transactions a second while rounds run one after the other, and T_bc."""
    notes = Footnotes()
    rows: list[list[str]] = []
    groups = []
    pools = [pool for group in group_engines(pool_cells(cells)) for pool in group]
    mixed = needs_engine_column(pools)
    for pool in pools:
        groups.append(len(rows))
        duration = pool.figure("T_bc")
        label = f"this run, {len(pool.frame)} rounds, median [p90]"
        size = [str(pool.validators), describe_size(pool.block_bytes), describe_size(pool.transaction_bytes)]
        rows.append([*size, label, *(notes.show(figure) for figure in (*_throughput(pool, duration), duration))])
        for reference in THROUGHPUT_REFERENCES if _is_compared(pool) else ():
            if reference.block_bytes == pool.block_bytes:
                published = MISSING if reference.T_bc_ms is None else f"{reference.T_bc_ms:.0f}"
                rows.append(["", "", "", reference.source, f"{reference.mb_per_hour:.0f}", MISSING, published])
        if mixed:
            rows[groups[-1] :] = with_engine(rows[groups[-1] :], pool, at=3)
    return DataTable(
        name="throughput",
        title="Throughput by block size",
        columns=[
            *(Column(label) for label in ("K", "block", "tx")),
            *engine_columns(mixed),
            Column("measured by"),
            Column("MB/h", align="right"),
            Column("tx/s", align="right"),
            Column("T_bc", "ms", "right"),
        ],
        rows=rows,
        notes=[*notes.lines(), f"Measured on: {hardware}", _FORMULA],
        section="throughput",
        sources=[f"Prototype: {PROTOTYPE}", f"Chapter: {CHAPTER}"],
        groups=groups,
    )


def _is_compared(pool: Pool) -> bool:
    """Prototype and chapter measured Microchain with committees of one size."""
    return pool.validators == THROUGHPUT_VALIDATORS and pool.engine == DEFAULT_ENGINE


def throughput_of(pool: Pool) -> tuple[float, float] | None:
    """Return MB/h (MB = 2^20 bytes) and transactions a second at the median T_bc; None if there is no such T_bc."""
    if pool.figure("T_bc").reason:
        return None
    seconds = float(pool.frame["T_bc"].median()) / 1e3
    megabytes = float(pool.frame["bytes"].median()) / MIB
    return megabytes / seconds * 3600, float(pool.frame["transactions"].median()) / seconds


def _throughput(pool: Pool, duration: Figure) -> tuple[Figure, Figure]:
    rates = throughput_of(pool)
    return (duration, duration) if rates is None else (Figure(f"{rates[0]:.0f}"), Figure(f"{rates[1]:.0f}"))


def rate_table(cells: Sequence[MeasuredCell], hardware: str) -> DataTable:
    """Return latency from the scheduled moment until final on all validators, for open-loop cells."""
    notes = Footnotes()
    mixed = needs_engine_column(cells)
    rows = []
    for cell in cells:
        if cell.rate is not None:
            row = [cell.spec.id, str(cell.shape[0]), *_rate_texts(cell.rate, notes)]
            rows += with_engine([row], cell) if mixed else [row]
    return DataTable(
        name="rate",
        title="Offered rate: scheduled moment until final on all validators",
        columns=[
            Column("cell"),
            *engine_columns(mixed),
            *(Column(label, align="right") for label in ("K", "offered tx/s", "finalized tx/s")),
            *(Column(label, "ms", "right") for label in ("p50", "p90", "p99")),
            Column("not final", align="right"),
        ],
        rows=rows,
        notes=[*notes.lines(), f"Measured on: {hardware}", "Warm-up left out; percentiles from raw samples."],
        section="throughput",
    )


def _rate_texts(rate: RateFigures, notes: Footnotes) -> list[str]:
    samples = rate.latency.dropna()
    summary = summarize(rate.latency, rate.bound, ("no traced transaction is final on all validators",))
    bound = float(rate.bound.max()) if len(samples) else 0.0
    error = f" ± {milliseconds(bound)}" if bound > 0 else ""
    quantiles = [notes.show(summary)] * 3
    if not summary.reason:
        estimates = (estimate_quantile(samples.to_numpy(dtype=np.float64), q) for q in (0.5, 0.9, 0.99))
        quantiles = [notes.show(_NO_P99) if e is None else milliseconds(e.value) + error for e in estimates]
    nothing = Figure(MISSING, "no traced transaction became final in the measured time")
    rates = [f"{value:.1f}" if value > 0 else notes.show(nothing) for value in (rate.offered, rate.finalized)]
    unfinished = int(rate.latency.isna().sum())
    return [*rates, *quantiles, str(unfinished) if unfinished else "none"]
