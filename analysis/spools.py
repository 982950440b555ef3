"""Reads telemetry spools into tables. A hostile or corrupt spool costs its bad lines and a reason, never a crash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from microchain.telemetry.line_protocol import FieldValue, MalformedLine, parse_fields, parse_series, split_line
from microchain.telemetry.spool import read_complete_lines, spool_segments

from analysis.bulk import parse_bulk
from analysis.points import Batch, PointTables, Series, make_column
from analysis.problems import LineProblems, Problem
from analysis.schema import SCHEMAS, find_series_problem

__all__ = ["SpoolSession", "read_spool"]

_CHUNK_BYTES = 32 << 20
_MAX_SERIES = 4096
"""Of one validator; docs/telemetry.md allows 160 of 128 validators, and few more if it moves between hosts."""


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


def read_spool(
    directory: Path, tables: PointTables, problems: list[Problem], *, run: str, cell: str, validator: str, root: Path
) -> list[SpoolSession]:
    """Add every good line of a spool directory; lines that claim another run, cell or validator are bad ones."""
    segments = spool_segments(directory)
    if not segments:
        problems.append(Problem(str(directory.relative_to(root)), "no spool"))
    reader = _ChunkReader(tables, run, cell, validator)
    sessions: dict[str, SpoolSession] = {}
    for position, path in enumerate(segments):
        name = path.name.split("-")[0]
        session = sessions.setdefault(name, SpoolSession(cell, validator, name))
        bad = LineProblems(str(path.relative_to(root)))
        number = 0
        try:
            for data in _chunks(path):
                number += reader.add(data, number, session, bad)
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
    return list(sessions.values())


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield the complete lines, many at a time, without the last one's newline."""
    offset = 0
    while True:
        data, offset = read_complete_lines(path, offset, _CHUNK_BYTES)
        if not data:
            return
        yield data[:-1]


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return size > 0 and file.read(1) != b"\n"


class _BadLine(ValueError):
    """A well-formed line that does not belong where it stands; the message is one of a few fixed texts."""


class _ChunkReader:
    """Adds the lines of one validator's spool to the tables: each series of a chunk at once, if its lines are ordinary.

    The lines of a series that has any other line are parsed one by one, which also finds the bad ones.
    """

    def __init__(self, tables: PointTables, run: str, cell: str, validator: str) -> None:
        self._tables = tables
        self._run, self._cell, self._validator = run, cell, validator
        self._series: dict[str, Series] = {}

    def add(self, data: bytes, before: int, session: SpoolSession, bad: LineProblems) -> int:
        """Add a chunk of lines, whose file has ``before`` lines before it; return how many there were."""
        lines, undecodable = _decode(data)
        groups: dict[str, list[str]] = {}
        for line in lines:
            head, _, rest = line.partition(" ")
            try:
                groups[head].append(rest)
            except KeyError:
                groups[head] = [rest]
        ordinary = {head for head, rests in groups.items() if self._add_group(head, rests, session)}
        if len(ordinary) < len(groups):
            self._add_singly(lines, ordinary, undecodable, before + 1, session, bad)
        return len(lines)

    def _add_group(self, head: str, rests: list[str], session: SpoolSession) -> bool:
        if not head or head.endswith("\\"):
            return False  # the space that ended it is a part of a tag
        try:
            series = self._open(head)
        except ValueError:
            return False
        batch = parse_bulk(series, rests, self._tables)
        if batch is None:
            return False
        self._take(batch, session)
        return True

    def _add_singly(
        self,
        lines: list[str],
        done: set[str],
        undecodable: set[int],
        first: int,
        session: SpoolSession,
        bad: LineProblems,
    ) -> None:
        found: dict[Series, list[tuple[int, list[FieldValue | None]]]] = {}
        for position, line in enumerate(lines):
            if position in undecodable:
                bad.add("not UTF-8", first + position)
            elif line.partition(" ")[0] not in done:
                try:
                    series, time, values = self._parse(line)
                except MalformedLine:
                    bad.add("not line protocol", first + position)
                except _BadLine as problem:
                    bad.add(str(problem), first + position)
                else:
                    found.setdefault(series, []).append((time, values))
        for series, rows in found.items():
            columns = zip(*(values for _, values in rows), strict=True)
            kinds = SCHEMAS[series.measurement].fields.values()
            made = [make_column(kind, list(column)) for kind, column in zip(kinds, columns, strict=True)]
            times = make_column(int, [time for time, _ in rows])
            assert times is not None
            self._take(Batch(series, times.values, made), session)

    def _parse(self, line: str) -> tuple[Series, int, list[FieldValue | None]]:
        head, field_set, time = split_line(line)
        series = self._open(head)
        fields = parse_fields(field_set)
        schema = SCHEMAS[series.measurement]
        values: list[FieldValue | None] = []
        for name in schema.fields:
            value = fields.get(name)
            if value == "" and isinstance(value, str):
                value = None
            if not schema.allows(name, type(value)):
                raise _BadLine(f"{series.measurement} without its fields")
            values.append(value)
        return series, time, values

    def _open(self, head: str) -> Series:
        series = self._series.get(head)
        if series is not None:
            return series
        measurement, tags = parse_series(head)
        if measurement not in SCHEMAS:
            raise _BadLine("unknown measurement")
        if tags.get("run") != self._run or tags.get("cell") != self._cell:
            raise _BadLine("a point of another run or cell")
        if tags.get("validator") != self._validator:
            raise _BadLine("a point of another validator")
        problem = find_series_problem(measurement, tags)
        if problem:
            raise _BadLine(problem)
        if len(self._series) >= _MAX_SERIES:
            raise _BadLine("a point of too many series")
        own = SCHEMAS[measurement].tag
        series = Series(measurement, self._cell, self._validator, tags["host"], tags[own] if own else "")
        self._series[head] = series
        return series

    def _take(self, batch: Batch, session: SpoolSession) -> None:
        self._tables.add(batch)
        if batch.series.measurement == "spool":
            points, dropped, shift, closed = (column.values[-1] for column in batch.columns if column is not None)
            session.points, session.dropped, session.shift_ns = int(points), int(dropped), int(shift)
            session.closed = bool(closed)


def _decode(data: bytes) -> tuple[list[str], set[int]]:
    """Return the lines, and the positions of those that are no UTF-8 (empty in their place)."""
    try:
        return data.decode().split("\n"), set()
    except UnicodeDecodeError:
        lines, undecodable = [], set()
        for position, line in enumerate(data.split(b"\n")):
            try:
                lines.append(line.decode())
            except UnicodeDecodeError:
                lines.append("")
                undecodable.add(position)
        return lines, undecodable
