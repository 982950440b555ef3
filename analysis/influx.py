"""The points of a run from an InfluxDB server, 1.8 or 2.x, by Flux. What it answers is not trusted.

Each field of each series is fetched by itself and joined here by time: the server's own ``pivot`` would hold all of a
measurement in its memory.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.domain.dialect import Dialect
from influxdb_client.rest import ApiException
from microchain.telemetry.recorder import CLIENT
from microchain.telemetry.spool import spool_segments
from urllib3.exceptions import HTTPError

from analysis.connection import Connection, ConnectionFileError, read_connection
from analysis.documents import CellSpec
from analysis.flux import FluxTable, UnreadableAnswer, quote, read_tables
from analysis.points import Batch, Column, PointTables, Series
from analysis.problems import Problem
from analysis.schema import SCHEMAS, Schema, find_series_problem
from analysis.sources import SourceError, SourceName
from analysis.spools import SpoolSession

__all__ = ["InfluxSource"]

_CONNECT_MS, _READ_MS = 5_000, 60_000
_ALL_TIME = "start: 1677-09-22T00:00:00Z, stop: 2262-04-11T00:00:00Z"
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_BEFORE_START_NS = 1_000_000_000
"""A process opens its spool, whose name is a time, just about when it takes its first time."""


class InfluxSource:
    """A server's points. Each query reads one measurement of one cell."""

    name: SourceName = "influxdb"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        try:
            self._client = InfluxDBClient(
                url=connection.url,
                token=connection.read_token,
                org=connection.org,
                timeout=(_CONNECT_MS, _READ_MS),
                ssl_ca_cert=connection.ca or None,
                retries=False,
            )
        except (OSError, ValueError) as error:
            raise SourceError(f"{connection.url} can't be used: {error}") from None

    @classmethod
    def open(cls, connection: Path | None) -> Self:
        """Open the server of a connection file; SourceError if there is none or it can't be used."""
        try:
            return cls(read_connection(connection))
        except ConnectionFileError as error:
            raise SourceError(str(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def read_cell(
        self, spec: CellSpec, directory: Path, tables: PointTables, problems: list[Problem]
    ) -> Sequence[SpoolSession]:
        """Add the points of the cell's validators and load generator; nothing is known of their spools."""
        if not (_NAME.fullmatch(spec.run) and _NAME.fullmatch(spec.id)):
            raise SourceError(f"{directory}: its run or cell has a name that can't be asked for")
        starts = _find_starts(spec, directory)
        for measurement in SCHEMAS:
            joiner = _Joiner(measurement, spec.id, starts)
            for table in self._query(measurement, spec, tables):
                joiner.add(table)
            joiner.finish(tables)
            place = f"InfluxDB bucket {self._connection.bucket}, {measurement} of {spec.id}"
            problems += [Problem(place, f"{kind} ({count})") for kind, count in joiner.bad.items()]
        return []

    def _query(self, measurement: str, spec: CellSpec, tables: PointTables) -> list[FluxTable]:
        kept = ["_time", "_value", "_field", "validator", "host", SCHEMAS[measurement].tag]
        columns = ", ".join(quote(name) for name in kept if name)
        tags = {"_measurement": measurement, "run": spec.run, "cell": spec.id}
        where = " and ".join(f"r[{quote(name)}] == {quote(value)}" for name, value in tags.items())
        query = (
            f"from(bucket: {quote(self._connection.bucket)}) |> range({_ALL_TIME})"
            f" |> filter(fn: (r) => {where}) |> keep(columns: [{columns}])"
        )
        dialect = Dialect(header=True, delimiter=",", comment_prefix="#", annotations=["datatype"])
        url = self._connection.url
        try:
            response = self._client.query_api().query_raw(query, dialect=dialect)
            response.auto_close = False
            try:
                return list(read_tables(response, tables.intern))
            finally:
                response.close()
        except ApiException as error:
            raise SourceError(f"{url} refuses the query: {_explain(error)}") from None
        except UnreadableAnswer as error:
            raise SourceError(f"{url} gives no usable answer: {error}") from None
        except (HTTPError, OSError) as error:
            raise SourceError(f"{url} can't be reached: {error}; `./testbed influx status` says more") from None


def _explain(error: ApiException) -> str:
    if error.status in (401, 403):
        return f"its read_token is not accepted (HTTP {error.status})"
    if error.status == 404:
        return "the bucket of the connection file does not exist (HTTP 404)"
    body = error.body if isinstance(error.body, str) else (error.body or b"").decode(errors="replace")
    return f"HTTP {error.status}: {' '.join(body.split())[:300]}"


def _find_starts(spec: CellSpec, directory: Path) -> dict[str, int]:
    """The least time of each process's points: for a cell that was tried before, when the last attempt's began.

    Points of an earlier attempt have the same tags. The names of a spool's files say when its process began.
    """
    starts = dict.fromkeys((*spec.validators, CLIENT), -(2**63))
    if not (directory / "attempts").is_dir():
        return starts
    for name in starts:
        place = directory / "client" if name == CLIENT else directory / "nodes" / name / "spool"
        for path in spool_segments(place)[:1]:
            session = path.name.split("-")[0]
            if session.isascii() and session.isdigit() and len(session) == 20:
                starts[name] = min(int(session), 2**63) - _BEFORE_START_NS
    return starts


class _Joiner:
    """Joins the fields of one measurement's series into batches; counts in ``bad`` the points that are none."""

    def __init__(self, measurement: str, cell: str, starts: Mapping[str, int]) -> None:
        self._measurement, self._cell, self._starts = measurement, cell, starts
        self._series: dict[Series, dict[str, list[FluxTable]]] = defaultdict(lambda: defaultdict(list))
        self.bad: Counter[str] = Counter()

    def add(self, table: FluxTable) -> None:
        """Take one field of one series."""
        tags, schema = table.tags, SCHEMAS[self._measurement]
        validator = tags.get("validator", "")
        problem = find_series_problem(self._measurement, tags)
        if validator not in self._starts:
            problem = "values of a validator that the cell does not have"
        if problem:
            self.bad[problem] += len(table.times)
            return
        tag = tags[schema.tag] if schema.tag else ""
        series = Series(self._measurement, self._cell, validator, tags["host"], tag)
        self._series[series][table.field].append(table)

    def finish(self, tables: PointTables) -> None:
        """Add what was taken to the tables."""
        for series, fields in self._series.items():
            self._finish_series(series, fields, SCHEMAS[self._measurement], tables)
        self._series.clear()

    def _finish_series(
        self, series: Series, fields: Mapping[str, list[FluxTable]], schema: Schema, tables: PointTables
    ) -> None:
        everything = np.unique(np.concatenate([table.times for parts in fields.values() for table in parts]))
        times = everything[everything >= self._starts[series.validator]]
        if len(times) < len(everything):
            self.bad["points of an earlier attempt at the cell"] += len(everything) - len(times)
        aligned = {name: _align(times, fields.get(name, []), kind) for name, kind in schema.fields.items()}
        wrong = np.zeros(len(times), dtype=np.bool_)
        for name, (_, absent, mistyped) in aligned.items():
            wrong |= mistyped if name in schema.optional else absent
        if wrong.any():
            self.bad[f"{self._measurement} without its fields"] += int(wrong.sum())
        columns = [_column(values[~wrong], absent[~wrong]) for values, absent, _ in aligned.values()]
        tables.add(Batch(series, times[~wrong], columns))


def _align(
    times: npt.NDArray[np.int64], parts: Sequence[FluxTable], kind: type
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return a field's value at each of ``times``, where it is absent, and where it is there with another type."""
    values: npt.NDArray[Any] = np.full(len(times), "" if kind is str else kind(0), dtype=_DTYPES[kind])
    absent = np.ones(len(times), dtype=np.bool_)
    mistyped = np.zeros(len(times), dtype=np.bool_)
    for part in parts:
        here = part.times >= times[0] if len(times) else np.zeros(len(part.times), dtype=np.bool_)
        places = np.searchsorted(times, part.times[here])
        if part.kind is kind or (kind is float and part.kind is int):
            values[places] = part.values[here]
            absent[places] = False
        else:
            mistyped[places] = True
    if kind is str:
        absent |= values == ""
    return values, absent, mistyped & absent


def _column(values: npt.NDArray[Any], absent: npt.NDArray[np.bool_]) -> Column | None:
    if absent.all():
        return None
    return Column(values, absent if absent.any() else None)


_DTYPES: Mapping[type, Any] = {int: np.int64, float: np.float64, bool: np.bool_, str: object}
