"""Reads the answers of Flux queries: annotated CSV, one table for each field of each series.

https://docs.influxdata.com/influxdb/v2/reference/syntax/annotated-csv/
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

__all__ = ["FluxTable", "UnreadableAnswer", "quote", "read_tables"]

_MAX_LINE = 1 << 20
_MAX_VALUES = 1 << 26
"""Of one answer. A cell of 64 million values of one measurement has another problem."""
_CHUNK_ROWS = 1 << 16
_FIXED = {"", "result", "table", "_time", "_value", "_field", "_start", "_stop", "_measurement"}
_KINDS: Mapping[str, type] = {"long": int, "double": float, "boolean": bool, "string": str}


class UnreadableAnswer(ValueError):
    """What a server answered is no annotated CSV, or is an error; the message says which."""


@dataclass(frozen=True)
class FluxTable:
    """One field of one series: ``times`` (int64 ns since 1970) and ``values`` (int64, float64, bool or object: str)."""

    tags: Mapping[str, str]
    field: str
    kind: type
    times: npt.NDArray[np.int64]
    values: npt.NDArray[Any]


def quote(text: str) -> str:
    """Return a string literal of Flux."""
    return '"' + text.replace("\\", r"\\").replace('"', r"\"").replace("${", r"\${") + '"'


def read_tables(response: io.IOBase, intern: Callable[[list[str]], list[str]]) -> Iterator[FluxTable]:
    """Yield the tables of an answer as they come; ``intern`` keeps equal texts once. UnreadableAnswer if it is none."""
    rows = csv.reader(_lines(response), strict=True)
    builder: _Builder | None = None
    kinds: list[str] = []
    names: list[str] = []
    total = 0
    try:
        for row in rows:
            if builder is not None and builder.takes(row):
                builder.append(row)
                continue
            if builder is not None:
                yield builder.finish()
                total += builder.count
                builder = None
            if total > _MAX_VALUES:
                raise UnreadableAnswer(f"it has more than {_MAX_VALUES} values")
            if not row:
                kinds, names = [], []
            elif row[0] == "#datatype":
                kinds, names = row, []
            elif row[0].startswith("#"):
                continue
            elif not names:
                names = row
                if not kinds and "error" not in names:
                    raise ValueError("a header without types")
            elif "error" in names:
                raise UnreadableAnswer(f"the server says: {' '.join(row).strip()[:300]}")
            else:
                builder = _Builder(kinds, names, row, intern)
        if builder is not None:
            yield builder.finish()
    except UnreadableAnswer:
        raise
    except (csv.Error, ValueError, OverflowError, KeyError, IndexError, Warning) as error:
        raise UnreadableAnswer(f"it can't be read ({type(error).__name__}: {error})"[:300]) from None


def _lines(response: io.IOBase) -> Iterator[str]:
    """Yield the lines; one that is too long is cut, and then no row that fits."""
    with io.BufferedReader(cast(io.RawIOBase, response), 1 << 20) as stream:
        while line := stream.readline(_MAX_LINE):
            yield line.decode(errors="replace")


class _Builder:
    """Collects the rows of one table, converted a chunk at a time."""

    def __init__(
        self, kinds: list[str], names: list[str], row: list[str], intern: Callable[[list[str]], list[str]]
    ) -> None:
        if len(kinds) != len(names) or len(row) != len(names):
            raise ValueError("a row does not fit its header")
        cells = dict(zip(names, row, strict=True))
        self._tags = {name: value for name, value in cells.items() if name not in _FIXED and value}
        self._field = cells["_field"]
        self._time, self._value, self._table = names.index("_time"), names.index("_value"), names.index("table")
        self._kind = _KINDS[kinds[self._value]]
        self._width, self._number = len(names), row[self._table]
        self._intern = intern
        self._rows_times: list[str] = []
        self._rows_values: list[str] = []
        self._times: list[npt.NDArray[np.int64]] = []
        self._values: list[npt.NDArray[Any]] = []
        self.count = 0
        self.append(row)

    def takes(self, row: list[str]) -> bool:
        """Whether the row is one more of this table."""
        return len(row) == self._width and row[self._table] == self._number and not row[0]

    def append(self, row: list[str]) -> None:
        self._rows_times.append(row[self._time])
        self._rows_values.append(row[self._value])
        if len(self._rows_times) >= _CHUNK_ROWS:
            self._convert()

    def finish(self) -> FluxTable:
        """Return the table."""
        self._convert()
        times, values = np.concatenate(self._times), np.concatenate(self._values)
        return FluxTable(self._tags, self._field, self._kind, times, values)

    def _convert(self) -> None:
        texts, values = self._rows_times, self._rows_values
        if not texts:
            return
        self.count += len(texts)
        if self.count > _MAX_VALUES:
            raise UnreadableAnswer(f"it has more than {_MAX_VALUES} values")
        self._times.append(_parse_times(texts))
        self._values.append(_parse_values(self._kind, self._intern(values) if self._kind is str else values))
        self._rows_times, self._rows_values = [], []


def _parse_times(texts: list[str]) -> npt.NDArray[np.int64]:
    """Convert RFC 3339 times in UTC with up to nine digits of a second."""
    if not all(text.endswith("Z") and text[10:11] == "T" for text in texts):
        raise ValueError("a time that is no RFC 3339 in UTC")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of numpy, about what it only half understands
        return np.array([text[:-1] for text in texts], dtype="datetime64[ns]").view(np.int64)


def _parse_values(kind: type, texts: Iterable[str]) -> npt.NDArray[Any]:
    if kind is int:
        return np.array(list(map(int, texts)), dtype=np.int64)
    if kind is float:
        return np.array(list(map(float, texts)), dtype=np.float64)
    if kind is bool:
        return np.array([{"true": True, "false": False}[text] for text in texts], dtype=np.bool_)
    return np.array(list(texts), dtype=object)
