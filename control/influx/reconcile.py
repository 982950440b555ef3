"""Brings InfluxDB and the collected spools of a cell together, and writes down whether they are equal.

The spools are the truth. What the server lacks, or has otherwise, is written to it again; then both are compared once
more. What the server has and no spool is a difference and stays, with one exception: points that an earlier, failed
attempt at the cell left under the same tags. Of a cell that was run again, whatever is older than a validator's first
point in its spool is removed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from microchain.config import NAME_PATTERN
from microchain.telemetry.recorder import CLIENT
from msgspec import Struct

from control.cells import Cell
from control.errors import ControlError, UsageError
from control.influx.columns import Series, Spool, Times, read_spool
from control.influx.comparison import Comparison, compare
from control.influx.connection import Connection, load_connection
from control.influx.store import Refusal, Store
from control.influx.transport import ServerError
from control.rundir import read_cell, write_json

__all__ = ["RECORD", "Equality", "ServerFacts", "reconcile_cell", "spool_directories"]

RECORD = "influxdb.json"
_MAX_DIFFERENCES = 50
_SHOWN_SERIES = 3
_SHOWN_LINE = 160


class ServerFacts(Struct, frozen=True, kw_only=True):
    """The server that was compared with; no secrets."""

    url: str = ""
    version: str = ""
    bucket: str = ""


class Equality(Struct, kw_only=True):
    """``cells/<cell>/influxdb.json``: whether InfluxDB and the cell's spools hold the same points.

    ``points`` and ``series`` are those of the spools; ``left_out`` counts their lines that are no points of this cell.
    ``streamed`` points were in InfluxDB before anything was backfilled, ``backfilled`` ones were written from the
    spools, now or by an earlier comparison. ``removed`` points were of an earlier attempt. ``checksum`` is the SHA-256
    of the counts and checksums of all series and fields of the spools. ``equal`` is true only without ``error``.
    """

    server: ServerFacts = ServerFacts()
    points: int = 0
    series: int = 0
    left_out: int = 0
    streamed: int = 0
    backfilled: int = 0
    removed: int = 0
    checksum: str = ""
    equal: bool = False
    differences: list[str] = msgspec.field(default_factory=list)
    error: str = ""

    def __str__(self) -> str:
        """One line for people."""
        if self.error:
            return f"not compared with InfluxDB: {self.error}"
        counts = f"{self.points} points, {self.streamed} streamed, {self.backfilled} backfilled"
        return f"InfluxDB {'equals' if self.equal else 'DIFFERS from'} the spools: {counts}"


def reconcile_cell(
    directory: Path, connection_file: Path, report: Callable[[int, int], None] = lambda done, total: None
) -> Equality:
    """Compare, backfill, compare again, and write the record; whatever goes wrong with the server stands in it.

    ``report`` is called with the number of spools done, and of all. UsageError if this is no cell's directory.
    """
    cell = read_cell(directory)
    before = _read_record(directory)
    # Should this be interrupted, nobody takes the cell for compared.
    interrupted = msgspec.structs.replace(before or Equality(), equal=False, error="the comparison was interrupted")
    write_json(directory / RECORD, interrupted)
    found = Equality()
    try:
        _check_names(cell)
        connection = load_connection(connection_file)
        found.server = ServerFacts(url=connection.url, version=connection.version, bucket=connection.bucket)
        _Reconciler(directory, cell, connection, found).run(report)
    except Exception as error:  # whatever it is, the experiment goes on, and the verdict says that this was not done
        reason = str(error) if isinstance(error, ControlError | OSError) else f"{type(error).__name__}: {error}"
        found.error = f"{reason}; once that is mended: ./testbed influx backfill {cell.run}"
    if before is not None and before.server == found.server:
        found.streamed = max(0, found.streamed - before.backfilled)
        found.backfilled = min(found.points, before.backfilled + found.backfilled)
        found.removed += before.removed
    found.equal = not (found.error or found.differences)
    if len(found.differences) > _MAX_DIFFERENCES:
        more = len(found.differences) - _MAX_DIFFERENCES
        found.differences = [*found.differences[:_MAX_DIFFERENCES], f"and {more} more"]
    write_json(directory / RECORD, found)
    return found


def spool_directories(directory: Path, cell: Cell) -> dict[str, Path]:
    """Return where the spool of each validator of a cell, and of the load generator, is collected."""
    nodes = {name: directory / "nodes" / name / "spool" for name in cell.validators}
    return {**nodes, CLIENT: directory / "client"}


class _Reconciler:
    """One comparison of a cell; adds what it finds to ``found``."""

    def __init__(self, directory: Path, cell: Cell, connection: Connection, found: Equality) -> None:
        self._spools = spool_directories(directory, cell)
        self._was_run_before = any((directory / "attempts").glob("*"))
        self._cell = cell
        self._connection = connection
        self._found = found
        self._checksum = hashlib.sha256()

    def run(self, report: Callable[[int, int], None]) -> None:
        with Store(self._connection) as store:
            for done, validator in enumerate(self._spools):
                report(done, len(self._spools))
                self._reconcile(store, validator)
            strangers = store.count_strangers(self._cell.run, self._cell.id, list(self._spools))
            if strangers:
                self._found.differences.append(f"InfluxDB has {strangers} values of this cell by no validator of it")
        self._found.checksum = self._checksum.hexdigest()

    def _reconcile(self, store: Store, validator: str) -> None:
        spool = read_spool(self._spools[validator], self._cell.run, self._cell.id, validator)
        points, series = spool.count_points()
        self._found.points += points
        self._found.series += series
        self._found.left_out += spool.left_out
        for key in sorted(spool.columns):
            column = spool.columns[key]
            self._checksum.update(f"{validator} {key!r} {len(column.times)} {column.checksum()}\n".encode())
        replaced = sum(column.settle()[2] for column in spool.columns.values())
        if replaced:
            self._differ(f"{validator}: {replaced} values of the spool are replaced by later ones of the same time")
        comparison = self._compare(store, spool, validator)
        if self._was_run_before and comparison.extra:
            comparison = self._remove_earlier_attempt(store, spool, validator, comparison)
        wanted = comparison.wanted()
        lacking = sum(times.size for times in wanted.values())
        self._found.streamed += points - lacking
        if wanted:
            refusals = store.write(_pick(spool, wanted))
            for refusal in refusals:
                self._differ(_describe_refusal(validator, refusal))
            comparison = self._compare(store, spool, validator)
            lacking -= sum(times.size for times in comparison.wanted().values())
            self._found.backfilled += lacking
        for times, what in (
            (comparison.lacking, "of the spool are not in InfluxDB"),
            (comparison.changed, "have another value in InfluxDB"),
            (comparison.extra, "in InfluxDB are in no spool"),
        ):
            if times:
                self._differ(_describe(validator, times, what))

    def _compare(self, store: Store, spool: Spool, validator: str) -> Comparison:
        return store.read(self._cell.run, self._cell.id, validator, lambda columns: compare(spool, columns))

    def _remove_earlier_attempt(self, store: Store, spool: Spool, validator: str, comparison: Comparison) -> Comparison:
        """Remove what is older than the spool; one clock wrote both, so nothing of this attempt is."""
        if not spool.columns:
            return comparison
        first = min(int(column.settle()[0][0]) for column in spool.columns.values())
        older = sum(int(np.searchsorted(times, first)) for times in comparison.extra.values())
        if not older:
            return comparison
        try:
            store.remove(self._cell.run, self._cell.id, validator, first)
        except ServerError as error:
            self._differ(f"{validator}: points of an earlier attempt could not be removed from InfluxDB: {error}")
            return comparison
        self._found.removed += older
        return self._compare(store, spool, validator)

    def _differ(self, sentence: str) -> None:
        self._found.differences.append(sentence)


def _pick(spool: Spool, wanted: Mapping[Series, Times]) -> Iterator[str]:
    """Yield the lines of the wanted points, in the order of writing."""
    sets = {series: set(times.tolist()) for series, times in wanted.items()}
    for line in spool.lines():
        if line.time in sets.get(line.series, ()):
            yield line.text


def _describe(validator: str, found: Mapping[Series, Times], what: str) -> str:
    count = sum(times.size for times in found.values())
    first = datetime.fromtimestamp(min(int(times[0]) for times in found.values()) // 10**9, UTC)
    shown = ", ".join(f"{series} ({times.size})" for series, times in sorted(found.items())[:_SHOWN_SERIES])
    more = f" and {len(found) - _SHOWN_SERIES} more series" if len(found) > _SHOWN_SERIES else ""
    return f"{validator}: {count} points {what}, the first at {first:%Y-%m-%d %H:%M:%S} UTC: {shown}{more}"


def _describe_refusal(validator: str, refusal: Refusal) -> str:
    line = refusal.line if len(refusal.line) <= _SHOWN_LINE else f"{refusal.line[:_SHOWN_LINE]}…"
    return f"{validator}: InfluxDB does not take the line {line!r}: {refusal.reason}"


def _check_names(cell: Cell) -> None:
    for name in cell.validators:
        if not re.match(NAME_PATTERN, name) or name == CLIENT:
            raise UsageError(f"cell.json: {name[:80]!r} is no name of a validator")


def _read_record(directory: Path) -> Equality | None:
    try:
        return msgspec.json.decode((directory / RECORD).read_bytes(), type=Equality)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
