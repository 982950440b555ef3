"""Points in columns, from any source: kept as arrays while they are read, and turned into DataFrames at the end.

Both sources end here, so their DataFrames are equal: same columns, dtypes, categories and order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.schema import SCHEMAS, Schema

__all__ = ["Batch", "Column", "PointTables", "Series", "make_column"]

Array = npt.NDArray[Any]

_NUMPY: dict[type, Any] = {int: np.int64, float: np.float64, bool: np.bool_, str: object}
_NULLABLE = {int: "Int64", bool: "boolean"}


@dataclass(frozen=True)
class Series:
    """What all points of one series share; ``tag`` is the value of the measurement's own tag, or empty."""

    measurement: str
    cell: str
    validator: str
    host: str
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One field's values (int64, float64, bool, or object for text) and where it is absent (None: nowhere)."""

    values: Array
    absent: Array | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Some points of one series: ``times`` in ns (int64), a Column for each field; None for one wholly absent."""

    series: Series
    times: Array
    columns: Sequence[Column | None]


def make_column(kind: type, values: Sequence[Any]) -> Column | None:
    """Return a column from Python values, None where absent. OverflowError for an integer beyond 64 bits."""
    missing = values.count(None)
    if missing == len(values):
        return None
    if missing == 0:
        return Column(_array(kind, values))
    absent = np.fromiter((value is None for value in values), np.bool_, len(values))
    filler = "" if kind is str else kind(0)
    return Column(_array(kind, [filler if value is None else value for value in values]), absent)


def _array(kind: type, values: Sequence[Any]) -> Array:
    return np.fromiter(values, _NUMPY[kind], len(values))


class PointTables:
    """Batches by measurement. Equal texts are kept once: an id appears on every validator at every stage."""

    def __init__(self) -> None:
        self._batches: dict[str, list[Batch]] = {name: [] for name in SCHEMAS}
        self._texts: dict[str, str] = {}
        self.empty = True

    def intern(self, texts: Sequence[str]) -> list[str]:
        """Return the same texts, equal ones as one object."""
        keep = self._texts.setdefault
        return [keep(text, text) for text in texts]

    def add(self, batch: Batch) -> None:
        """Take a batch; an empty one is left out."""
        if len(batch.times):
            self.empty = False
            self._batches[batch.series.measurement].append(batch)

    def take_frame(self, measurement: str) -> pd.DataFrame:
        """Return one measurement's points, ordered by cell, validator, time, own tag and host, and forget them."""
        schema, batches = SCHEMAS[measurement], self._batches.pop(measurement)
        lengths = np.array([len(batch.times) for batch in batches], dtype=np.int64)
        keys = {
            "cell": _codes([batch.series.cell for batch in batches], lengths),
            "validator": _codes([batch.series.validator for batch in batches], lengths),
            "host": _codes([batch.series.host for batch in batches], lengths),
        }
        if schema.tag:
            keys[schema.tag] = _codes([batch.series.tag for batch in batches], lengths)
        times = _concatenate([batch.times for batch in batches], np.int64)
        last = keys[schema.tag][0] if schema.tag else keys["host"][0]
        order = np.lexsort((keys["host"][0], last, times, keys["validator"][0], keys["cell"][0]))
        data: dict[str, Any] = {"time": times[order]}
        for name, (codes, names) in keys.items():
            data[name] = pd.Categorical.from_codes(codes[order], categories=pd.Index(names, dtype="str"))
        for position, name in enumerate(schema.fields):
            columns = [batch.columns[position] for batch in batches]
            data[name] = _values(schema, name, columns, lengths, order)
        return pd.DataFrame(data, columns=schema.columns, copy=False)


def _codes(names: list[str], lengths: Array) -> tuple[Array, list[str]]:
    """Return the code of each point's name, and the names in order."""
    ordered = sorted(set(names))
    position = {name: code for code, name in enumerate(ordered)}
    kind = np.min_scalar_type(-max(1, len(ordered)))
    return np.repeat(np.array([position[name] for name in names], dtype=kind), lengths), ordered


def _values(schema: Schema, name: str, columns: list[Column | None], lengths: Array, order: Array) -> Any:
    kind = schema.fields[name]
    dtype = _NUMPY[kind]
    filled = [
        column.values if column is not None else _absent_values(kind, length)
        for column, length in zip(columns, lengths, strict=True)
    ]
    values = _concatenate(filled, dtype)[order]
    if name in schema.required and kind is not str:
        return values
    masks = [
        np.full(length, column is None) if column is None or column.absent is None else column.absent
        for column, length in zip(columns, lengths, strict=True)
    ]
    absent = _concatenate(masks, np.bool_)[order]
    if kind in _NULLABLE:
        values[absent] = 0
        masked = pd.arrays.IntegerArray if kind is int else pd.arrays.BooleanArray
        return masked(values, absent)
    values[absent] = np.nan
    return pd.array(values, dtype="str") if kind is str else values


def _absent_values(kind: type, length: int) -> Array:
    return np.full(length, np.nan if kind in (float, str) else 0, dtype=_NUMPY[kind])


def _concatenate(arrays: list[Array], dtype: Any) -> Array:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype)
