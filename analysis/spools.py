"""Reads telemetry spools into tables. A hostile or corrupt spool costs its bad lines and a reason, never a crash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType

import pandas as pd
from microchain.telemetry.line_protocol import FieldValue, MalformedLine, parse_fields, parse_series, split_line
from microchain.telemetry.spool import read_complete_lines, spool_segments

from analysis.problems import LineProblems, Problem

__all__ = ["SCHEMAS", "Schema", "SpoolSession", "SpoolTables", "read_spool"]

_CHUNK_BYTES = 32 << 20


@dataclass(frozen=True)
class Schema:
    """One measurement: its own tag (besides run, cell, validator, host), required and optional fields by type."""

    tag: str | None
    required: dict[str, type]
    optional: dict[str, type] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Columns of the DataFrame, in order."""
        own = [self.tag] if self.tag else []
        return ["cell", "validator", "host", "time", *own, *self.required, *self.optional]


SCHEMAS: dict[str, Schema] = {
    "transaction": Schema("event", {"id": str}, {"local": bool, "height": int, "block": str}),
    "block": Schema(
        "event",
        {"id": str, "height": int, "slot": int, "epoch": int, "proposer": str, "size": int, "transactions": int},
        {"detail": str},
    ),
    "vote": Schema("event", {"voter": str, "target": str, "target_epoch": int, "source_epoch": int}),
    "messages": Schema(
        "phase", {"sent_messages": int, "sent_bytes": int, "received_messages": int, "received_bytes": int}
    ),
    "peer": Schema("peer", {"rtt_ns": int, "offset_ns": int, "bound_ns": int}),
    "board": Schema(
        None,
        {"cpu_percent": float, "load1": float, "memory_total_bytes": int, "memory_available_bytes": int},
        {
            "temperature_c": float,
            "frequency_hz": int,
            "throttled": int,
            "under_voltage_now": bool,
            "frequency_capped_now": bool,
            "throttled_now": bool,
            "temperature_limit_now": bool,
        },
    ),
    "process": Schema(None, {"cpu_user_s": float, "cpu_system_s": float, "rss_bytes": int, "threads": int}),
    "spool": Schema(None, {"points": int, "dropped": int, "shift_ns": int, "closed": bool}),
}
"""What docs/telemetry.md says; lines of any other form are counted as bad."""

_DTYPES = {
    "time": "int64",
    "height": "Int64",
    "frequency_hz": "Int64",
    "throttled": "Int64",
    "temperature_c": "float64",
}
_CATEGORIES = {"cell", "validator", "host", "event", "phase", "peer"}


@dataclass
class SpoolSession:
    """One life of a process as its spool shows it. ``points``, ``dropped`` and ``shift_ns`` are its last report's."""

    cell: str
    validator: str
    session: str
    lines: int = 0
    bad_lines: int = 0
    torn: bool = False
    closed: bool = False
    points: int = 0
    dropped: int = 0
    shift_ns: int = 0

    @property
    def missing_lines(self) -> int:
        """Lines that the closing report counted but the files lack (its own line comes on top)."""
        return max(0, self.points + 1 - self.lines) if self.closed else 0


@dataclass
class SpoolTables:
    """Rows by measurement, from any number of spools."""

    rows: dict[str, list[tuple[object, ...]]] = field(default_factory=lambda: {name: [] for name in SCHEMAS})
    sessions: list[SpoolSession] = field(default_factory=list)

    def frame(self, measurement: str) -> pd.DataFrame:
        """Return one measurement's points; columns are its Schema's."""
        columns = SCHEMAS[measurement].columns
        frame = pd.DataFrame.from_records(self.rows[measurement], columns=columns)
        dtypes = {c: _DTYPES[c] for c in columns if c in _DTYPES} | {c: "category" for c in columns if c in _CATEGORIES}
        return frame.astype(dtypes)


def read_spool(
    directory: Path, tables: SpoolTables, problems: list[Problem], *, run: str, cell: str, validator: str, root: Path
) -> None:
    """Add every good line of a spool directory; lines that claim another run, cell or validator are bad ones."""
    segments = spool_segments(directory)
    if not segments:
        problems.append(Problem(str(directory.relative_to(root)), "no spool"))
    reader = _LineReader(tables, run, cell, validator)
    sessions: dict[str, SpoolSession] = {}
    for position, path in enumerate(segments):
        name = path.name.split("-")[0]
        session = sessions.setdefault(name, SpoolSession(cell, validator, name))
        bad = LineProblems(str(path.relative_to(root)))
        number = 0
        try:
            for number, line in enumerate(_lines(path), 1):
                problem = reader.add(line, session)
                if problem:
                    bad.add(problem, number)
            torn = _ends_torn(path)
        except OSError as error:
            problems.append(Problem(bad.file, f"can't be read: {error.strerror}"))
            continue
        session.lines += number
        session.bad_lines += bad.total
        if torn and position + 1 < len(segments) and segments[position + 1].name.startswith(name):
            bad.add("torn line in a finished segment", number + 1)
        session.torn |= torn
        problems += bad.problems()
    tables.sessions += sessions.values()


def _lines(path: Path) -> Iterator[str | None]:
    """Yield the complete lines without their newlines; None for one that is no UTF-8."""
    offset = 0
    while True:
        data, offset = read_complete_lines(path, offset, _CHUNK_BYTES)
        if not data:
            return
        try:
            yield from data[:-1].decode().split("\n")
        except UnicodeDecodeError:
            for line in data[:-1].split(b"\n"):
                try:
                    yield line.decode()
                except UnicodeDecodeError:
                    yield None


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return size > 0 and file.read(1) != b"\n"


@dataclass(frozen=True)
class _Series:
    """What the rows of one series share: their schema, and the columns before and after the time."""

    measurement: str
    schema: Schema
    names: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]


class _BadLine(ValueError):
    """A well-formed line that does not belong where it stands; the message is one of a few fixed texts."""


class _LineReader:
    """Adds the lines of one validator's spool to the tables. Each series, and combination of types, is checked once."""

    def __init__(self, tables: SpoolTables, run: str, cell: str, validator: str) -> None:
        self._rows = tables.rows
        self._run, self._cell, self._validator = run, cell, validator
        self._series: dict[str, _Series] = {}
        self._good_types: set[tuple[str, tuple[type, ...]]] = set()

    def add(self, line: str | None, session: SpoolSession) -> str:
        """Add one line; returns what is wrong with it, or an empty text."""
        if line is None:
            return "not UTF-8"
        try:
            head, field_set, time = split_line(line)
            series = self._series.get(head) or self._open(head)
            fields = parse_fields(field_set)
            values = tuple(map(fields.get, series.names))
            types = (series.measurement, tuple(map(type, values)))
            if types not in self._good_types:
                self._check_types(series, types)
        except MalformedLine:
            return "not line protocol"
        except _BadLine as problem:
            return str(problem)
        self._rows[series.measurement].append((*series.before, time, *series.after, *values))
        if series.measurement == "spool":
            _report(session, fields)
        return ""

    def _open(self, head: str) -> _Series:
        measurement, tags = parse_series(head)
        schema = SCHEMAS.get(measurement)
        if schema is None:
            raise _BadLine("unknown measurement")
        if tags.get("run") != self._run or tags.get("cell") != self._cell:
            raise _BadLine("a point of another run or cell")
        if tags.get("validator") != self._validator:
            raise _BadLine("a point of another validator")
        own = (schema.tag,) if schema.tag else ()
        if "host" not in tags or any(tag not in tags for tag in own):
            raise _BadLine(f"{measurement} without its tags")
        names = (*schema.required, *schema.optional)
        before = (self._cell, self._validator, tags["host"])
        series = _Series(measurement, schema, names, before, tuple(tags[tag] for tag in own))
        self._series[head] = series
        return series

    def _check_types(self, series: _Series, types: tuple[str, tuple[type, ...]]) -> None:
        required, optional = series.schema.required, series.schema.optional
        for name, kind in zip(series.names, types[1], strict=True):
            wanted = required.get(name) or optional[name]
            allowed = {wanted, int} if wanted is float else {wanted}
            if name in optional:
                allowed.add(NoneType)
            if kind not in allowed:
                raise _BadLine(f"{series.measurement} without its fields")
        self._good_types.add(types)


def _report(session: SpoolSession, fields: dict[str, FieldValue]) -> None:
    points, dropped, shift = fields["points"], fields["dropped"], fields["shift_ns"]
    assert isinstance(points, int) and isinstance(dropped, int) and isinstance(shift, int)
    session.points, session.dropped, session.shift_ns = points, dropped, shift
    session.closed = fields["closed"] is True
