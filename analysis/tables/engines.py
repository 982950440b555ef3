"""The column that says which engine a row is of, in tables where that is a question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.data_table import Column
from analysis.measured import DEFAULT_ENGINE, MeasuredCell, Pool

__all__ = ["engine_columns", "needs_engine_column", "with_engine"]


def needs_engine_column(measured: Iterable[Pool | MeasuredCell]) -> bool:
    """Whether anything is of another engine than Microchain."""
    return any(item.engine != DEFAULT_ENGINE for item in measured)


def engine_columns(needed: bool) -> list[Column]:
    """Return the column, or none."""
    return [Column("engine")] if needed else []


def with_engine(rows: Sequence[list[str]], item: Pool | MeasuredCell, at: int = 1) -> list[list[str]]:
    """Return the rows of one item with the engine in its column; below the first it is not repeated."""
    return [[*row[:at], "" if number else item.engine, *row[at:]] for number, row in enumerate(rows)]
