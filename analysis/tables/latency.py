"""Latency by committee size: ours beside the prototype's and the chapter's."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.data_table import Column, DataTable, Footnotes
from analysis.figures import MISSING
from analysis.growth import MIN_SIZES
from analysis.measured import DEFAULT_ENGINE, MeasuredCell, Pool, describe_size, group_engines, pool_cells
from analysis.reference import CHAPTER, LATENCY_BLOCK_BYTES, LATENCY_REFERENCES, PROTOTYPE
from analysis.rounds import PHASES
from analysis.tables.engines import engine_columns, needs_engine_column, with_engine

__all__ = ["latency_tables"]


def latency_tables(cells: Sequence[MeasuredCell], hardware: str, *, chapter_boards: bool = False) -> list[DataTable]:
    """Return one table for each size of block and transaction. ``chapter_boards``: all ran on the chapter's boards."""
    return [_latency_table(pools, hardware, chapter_boards) for pools in group_engines(pool_cells(cells))]


def _latency_table(pools: Sequence[Pool], hardware: str, chapter_boards: bool) -> DataTable:
    block, transaction = pools[0].block_bytes, pools[0].transaction_bytes
    notes = Footnotes()
    rows: list[list[str]] = []
    groups = []
    mixed = needs_engine_column(pools)
    for pool in pools:
        groups.append(len(rows))
        label = f"this run, {len(pool.frame)} rounds, median [p90]"
        rows.append([str(pool.validators), label, *(notes.show(pool.figure(phase)) for phase in PHASES)])
        for reference in LATENCY_REFERENCES if _is_compared(pool) else ():
            if reference.validators == pool.validators:
                figures = (reference.T_ct, reference.T_bp, reference.T_cf)
                rows.append(["", reference.source, *(f"{value:.0f}" for value in figures), MISSING, MISSING])
        if chapter_boards and _is_compared(pool):
            rows += _ratios(pool)
        if mixed:
            rows[groups[-1] :] = with_engine(rows[groups[-1] :], pool)
    return DataTable(
        name=f"latency-b{block}-t{transaction}",
        title=f"Latency by committee size: {describe_size(block)} blocks of {describe_size(transaction)} transactions",
        columns=[
            Column("K"),
            *engine_columns(mixed),
            Column("measured by"),
            *(Column(phase, "ms", "right") for phase in PHASES),
        ],
        rows=rows,
        notes=[
            *notes.lines(),
            *_growth_note(pools),
            f"Measured on: {hardware}",
            "T_bc = T_ct + T_bp + T_cf. Finality: first submission until final on all validators.",
        ],
        section="latency",
        sources=[f"Prototype: {PROTOTYPE}", f"Chapter: {CHAPTER}"],
        groups=groups,
    )


def _is_compared(pool: Pool) -> bool:
    """Prototype and chapter measured Microchain with blocks of one size."""
    return pool.block_bytes == LATENCY_BLOCK_BYTES and pool.engine == DEFAULT_ENGINE


def _growth_note(pools: Sequence[Pool]) -> list[str]:
    """Why growth with K is not fitted, where one may look for it."""
    sizes = len({pool.validators for pool in pools})
    if not 1 < sizes < MIN_SIZES:
        return []
    return [f"How figures grow with K is not fitted: that needs {MIN_SIZES} committee sizes, here are {sizes}."]


def _ratios(pool: Pool) -> list[list[str]]:
    """How many times faster than the chapter; only ever asked for on its own boards."""
    rows = []
    for reference in LATENCY_REFERENCES:
        if reference.validators == pool.validators and reference.source.startswith("chapter"):
            ratios = [
                MISSING if pool.figure(phase).reason else f"{published / float(pool.frame[phase].median()):.1f} x"
                for phase, published in (("T_ct", reference.T_ct), ("T_bp", reference.T_bp), ("T_cf", reference.T_cf))
            ]
            rows.append(["", "chapter / this run, same boards", *ratios, MISSING, MISSING])
    return rows
