"""Points as columns: for each series and field the times and values, 64 bits each, from a spool or from a server.

Two sources hold the same points if their columns are equal. A value becomes 64 bits: an integer is itself, a float
its IEEE form, a boolean 0 or 1, a string 64 bits of its BLAKE2b; columns of different types are different columns.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from microchain.telemetry.line_protocol import FieldValue, MalformedLine, parse_fields, parse_series, split_line
from microchain.telemetry.spool import spool_segments
from numpy.typing import NDArray

__all__ = [
    "Column",
    "ColumnKey",
    "Kind",
    "Line",
    "Series",
    "Spool",
    "Times",
    "encode_values",
    "make_series",
    "read_spool",
]

Kind = Literal["bool", "int", "float", "string"]
Times = NDArray[np.int64]
"""Nanoseconds since 1970."""

MAX_SERIES = 10_000
"""Of one spool; a node writes at most a few hundred. Lines of further series are left out."""
MAX_COLUMNS = 50_000
MAX_LINE = 1 << 20
_LEFT_OUT_TAGS = frozenset(("run", "cell", "validator"))
_KINDS: dict[type, Kind] = {bool: "bool", int: "int", float: "float", str: "string"}


class Series(NamedTuple):
    """A series of one validator: measurement, and its tags but run, cell and validator, in order of key."""

    measurement: str
    tags: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return ",".join((self.measurement, *(f"{key}={value}" for key, value in self.tags)))


class ColumnKey(NamedTuple):
    """One field of a series, of one type."""

    series: Series
    field: str
    kind: Kind


class Column:
    """The values of one field: ``times`` in ns, and ``bits``, the value at each."""

    __slots__ = ("bits", "times")

    def __init__(self) -> None:
        self.times = array("q")
        self.bits = array("q")

    def append(self, time: int, value: FieldValue) -> None:
        """Add a value, in the order of writing."""
        self.times.append(time)
        self.bits.append(_compute_bits(value))

    def settle(self) -> tuple[Times, Times, int]:
        """Return times (strictly increasing), bits, and how many values another at the same time has replaced.

        As in InfluxDB the last one written stays; the same value again replaces nothing.
        """
        times, bits = np.asarray(self.times), np.asarray(self.bits)
        if np.all(times[1:] > times[:-1]):
            return times, bits, 0
        order = np.argsort(times, kind="stable")
        times, bits = times[order], bits[order]
        last = np.append(times[1:] != times[:-1], True)
        replaced = int(np.count_nonzero(~last[:-1] & (bits[1:] != bits[:-1])))
        return times[last], bits[last], replaced

    def checksum(self) -> str:
        """Return the SHA-256 of (time, value), ordered by time."""
        times, bits, _ = self.settle()
        return hashlib.sha256(np.column_stack((times, bits)).astype("<i8").tobytes()).hexdigest()


class Line(NamedTuple):
    """A good line of a spool: as it stands there, and what it says."""

    text: str
    series: Series
    time: int
    columns: tuple[Column, ...]
    values: tuple[FieldValue, ...]


class Spool:
    """The points of one spool directory that belong to one validator of one cell; other lines are left out.

    ``columns`` has every point; ``left_out`` counts lines that are malformed, of another run, cell or validator, or
    of a series or field too many. The analysis names them.
    """

    def __init__(self, directory: Path, run: str, cell: str, validator: str) -> None:
        self.directory = directory
        self.columns: dict[ColumnKey, Column] = {}
        self.left_out = 0
        self._owner = {"run": run, "cell": cell, "validator": validator}
        self._series: dict[str, Series | None] = {}
        self._shapes: dict[tuple[Series, tuple[str, ...], tuple[type, ...]], tuple[Column, ...]] = {}

    def load(self) -> None:
        """Read all points into ``columns``; OSError if a file can't be read."""
        for line in self.lines():
            for column, value in zip(line.columns, line.values, strict=True):
                column.append(line.time, value)

    def lines(self) -> Iterator[Line]:
        """Yield the good lines in the order of writing."""
        self.left_out = 0
        for text in _lines(self.directory):
            line = self._parse(text)
            if line is None:
                self.left_out += 1
            else:
                yield line

    def count_points(self) -> tuple[int, int]:
        """Return the number of points (different times of a series) and of series."""
        times: dict[Series, list[Times]] = {}
        for key, column in self.columns.items():
            times.setdefault(key.series, []).append(np.asarray(column.times))
        return sum(len(np.unique(np.concatenate(each))) for each in times.values()), len(times)

    def _parse(self, text: str) -> Line | None:
        try:
            head, field_set, time = split_line(text)
            series = self._find_series(head)
            fields = parse_fields(field_set)
        except MalformedLine:
            return None
        if series is None:
            return None
        values = tuple(fields.values())
        shape = (series, tuple(fields), tuple(map(type, values)))
        columns = self._shapes.get(shape)
        if columns is None:
            keys = [ColumnKey(series, name, _KINDS[kind]) for name, kind in zip(shape[1], shape[2], strict=True)]
            if len(self._shapes) >= MAX_COLUMNS or len(self.columns) + len(keys) > MAX_COLUMNS:
                return None
            columns = tuple(self.columns.setdefault(key, Column()) for key in keys)
            self._shapes[shape] = columns
        return Line(text, series, time, columns, values)

    def _find_series(self, head: str) -> Series | None:
        if head in self._series:
            return self._series[head]
        if len(self._series) >= MAX_SERIES:
            return None
        measurement, tags = parse_series(head)
        ours = all(tags.get(name) == value for name, value in self._owner.items())
        self._series[head] = make_series(measurement, tags) if ours else None
        return self._series[head]


def read_spool(directory: Path, run: str, cell: str, validator: str) -> Spool:
    """Read a spool directory, which may be absent; OSError if a file can't be read."""
    spool = Spool(directory, run, cell, validator)
    spool.load()
    return spool


def make_series(measurement: str, tags: Mapping[str, str]) -> Series:
    """Return the series of these tags, run, cell and validator left out."""
    return Series(measurement, tuple(sorted(item for item in tags.items() if item[0] not in _LEFT_OUT_TAGS)))


def encode_values(kind: Kind, values: Sequence[Any]) -> array[int]:
    """Return the 64 bits of each value; much faster than one by one. ValueError or OverflowError for one of no kind."""
    if kind == "int":
        return array("q", map(int, values))
    if kind == "float":
        return array("q", array("d", map(float, values)).tobytes())
    if kind == "bool":
        return array("q", map(_BOOLS.__getitem__, values))
    return array("q", map(_string_bits, values))


_BOOLS = {"true": 1, "false": 0, True: 1, False: 0}


def _compute_bits(value: FieldValue) -> int:
    if isinstance(value, str):
        return _string_bits(value)
    if isinstance(value, float):
        bits: int = struct.unpack("q", struct.pack("d", value))[0]
        return bits
    return int(value)


@lru_cache(maxsize=1 << 16)
def _string_bits(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _lines(directory: Path) -> Iterator[str]:
    """Yield the complete lines of all segments without their newlines; one that is no text as an empty one."""
    for path in spool_segments(directory):
        with path.open("rb", buffering=1 << 20) as file:
            while data := file.readline(MAX_LINE):
                if data.endswith(b"\n"):
                    try:
                        yield data[:-1].decode()
                    except UnicodeDecodeError:
                        yield ""
                elif len(data) == MAX_LINE:
                    yield ""  # and what follows of it is no point either
