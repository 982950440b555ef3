"""The points of a run in InfluxDB: read as columns by Flux, written as the lines of a spool, removed.

Everything that can go wrong with a server is a ServerError. What may pass (no answer, 429, 5xx) is tried again a few
times, with growing pauses.
"""

from __future__ import annotations

import csv
import io
import json
import random
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TypeVar

import numpy as np
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.domain.dialect import Dialect
from influxdb_client.rest import ApiException
from msgspec import Struct
from urllib3.exceptions import HTTPError
from urllib3.response import HTTPResponse

from control.influx.columns import MAX_COLUMNS, Column, ColumnKey, Kind, encode_values, make_series
from control.influx.connection import Connection
from control.influx.transport import Server, ServerError

__all__ = ["Refusal", "Store"]

_TRIES = 5
_FIRST_PAUSE_S = 0.2
_MAX_PAUSE_S = 10.0
_PATIENCE_S = 60.0
"""After so long nothing is tried again."""
_CONNECT_MS, _READ_MS = 5_000, 60_000
_BATCH_LINES, _BATCH_CHARACTERS = 5_000, 1 << 20
_MAX_REFUSALS = 50
"""Lines that are looked for one by one; of a spool that is refused altogether the rest is not tried."""
_ROWS = 1 << 16
_MAX_LINE = 1 << 20
_KINDS: dict[str, Kind] = {"long": "int", "double": "float", "boolean": "bool", "string": "string"}
_ALL_TIME = "start: 1677-09-21T00:12:43.145224194Z, stop: 2262-04-11T23:47:16.854775807Z"
"""All that InfluxDB can hold."""
_FIXED = {"", "result", "table", "_time", "_value", "_field", "_measurement"}
_T = TypeVar("_T")


class Refusal(Struct, frozen=True):
    """A line that the server does not take, and what it says."""

    line: str
    reason: str


class Store:
    """The bucket of a connection. Use as a context manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        # Reading is not compressed: the server would spend more time on that than this network does.
        self._reader = _open_client(connection, connection.read_token, compressed=False)
        self._writer = _open_client(connection, connection.write_token, compressed=True)
        self._writing = self._writer.write_api(write_options=SYNCHRONOUS)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()
        self._writer.close()

    def read(self, run: str, cell: str, validator: str, use: Callable[[Iterator[tuple[ColumnKey, Column]]], _T]) -> _T:
        """Return what ``use`` makes of the columns of one validator; if the stream breaks it begins anew."""
        return self._read(_make_filter(run=run, cell=cell, validator=validator), use)

    def count_strangers(self, run: str, cell: str, validators: Sequence[str]) -> int:
        """Return how many values the server holds of the cell that are of none of these validators."""
        others = [f'r["validator"] != {_quote(name)}' for name in validators]
        where = " and ".join([_make_filter(run=run, cell=cell), *others])
        return self._read(where, lambda columns: sum(len(column.times) for _, column in columns))

    def _read(self, where: str, use: Callable[[Iterator[tuple[ColumnKey, Column]]], _T]) -> _T:
        query = (
            f"from(bucket: {_quote(self._connection.bucket)}) |> range({_ALL_TIME}) |> filter(fn: (r) => {where})"
            ' |> drop(columns: ["_start", "_stop", "run", "cell"])'
        )
        dialect = Dialect(header=True, delimiter=",", comment_prefix="#", annotations=["datatype"])

        def attempt() -> _T:
            response = self._reader.query_api().query_raw(query, dialect=dialect)
            try:
                return use(_parse_columns(response))
            finally:
                response.release_conn()
                response.close()

        return self._try(attempt)

    def write(self, lines: Iterator[str]) -> list[Refusal]:
        """Write lines in batches; return those that the server does not take. The rest of a batch is taken."""
        refusals: list[Refusal] = []
        for batch in _batches(lines):
            self._write(batch, refusals)
            if len(refusals) >= _MAX_REFUSALS:
                break
        return refusals

    def _write(self, batch: Sequence[str], refusals: list[Refusal]) -> None:
        body = "\n".join(batch).encode()
        try:
            self._try(lambda: self._writing.write(self._connection.bucket, record=body))
        except ServerError as error:
            if error.status not in (400, 413, 422):
                raise
            if len(batch) == 1:
                refusals.append(Refusal(batch[0], str(error)))
                return
            half = len(batch) // 2
            for part in (batch[:half], batch[half:]):
                if len(refusals) < _MAX_REFUSALS:
                    self._write(part, refusals)

    def remove(self, run: str, cell: str, validator: str, before: int) -> None:
        """Remove one validator's points of the cell that are older than ``before`` (ns). Who may write may do that."""
        server = Server(url=self._connection.url, token=self._connection.write_token, ca=self._connection.ca)
        tags = {"run": run, "cell": cell, "validator": validator}
        if self._connection.major == 1:
            where = " AND ".join(f"\"{name}\" = '{value}'" for name, value in tags.items())
            database = self._connection.bucket.split("/")[0]
            statement = f"DELETE FROM /.+/ WHERE {where} AND time < {before}"
            server.request("POST", "/query", query={"db": database, "q": statement})
            return
        predicate = " AND ".join(f'{name}="{value}"' for name, value in tags.items())
        self._delete(server, {"stop": _format_time(before - 1), "predicate": predicate})

    def remove_all(self) -> None:
        """Remove every point of the bucket."""
        server = Server(url=self._connection.url, token=self._connection.write_token, ca=self._connection.ca)
        if self._connection.major == 1:
            database = self._connection.bucket.split("/")[0]
            server.request("POST", "/query", query={"db": database, "q": "DELETE FROM /.+/"})
            return
        self._delete(server, {"stop": "2262-04-11T00:00:00Z"})

    def _delete(self, server: Server, span: dict[str, str]) -> None:
        query = {"org": self._connection.org, "bucket": self._connection.bucket}
        server.request("POST", "/api/v2/delete", query=query, body={"start": "1677-09-22T00:00:00Z", **span})

    def _try(self, action: Callable[[], _T]) -> _T:
        pause = _FIRST_PAUSE_S
        end = time.monotonic() + _PATIENCE_S
        for left in reversed(range(_TRIES)):
            try:
                return action()
            except ApiException as error:
                if not left or time.monotonic() > end or not (error.status == 429 or error.status >= 500):
                    raise ServerError(f"{self._connection.url}: {_explain(error)}", error.status or 0) from None
                wait = _retry_after(error)
            except (HTTPError, OSError) as error:
                if not left or time.monotonic() > end:
                    reason = getattr(error, "reason", None) or error
                    raise ServerError(f"{self._connection.url} can't be reached: {reason}") from None
                wait = 0.0
            time.sleep(min(_MAX_PAUSE_S, max(wait, pause * random.uniform(0.5, 1.5))))
            pause *= 2
        raise AssertionError("the last try returns or raises")


def _batches(lines: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if len(batch) >= _BATCH_LINES or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _open_client(connection: Connection, token: str, *, compressed: bool) -> InfluxDBClient:
    return InfluxDBClient(
        url=connection.url,
        token=token,
        org=connection.org,
        timeout=(_CONNECT_MS, _READ_MS),
        enable_gzip=compressed,
        ssl_ca_cert=connection.ca or None,
    )


def _quote(text: str) -> str:
    """Return a string literal of Flux."""
    return '"' + text.replace("\\", r"\\").replace('"', r"\"").replace("${", r"\${") + '"'


def _make_filter(**tags: str) -> str:
    return " and ".join(f'r["{name}"] == {_quote(value)}' for name, value in tags.items())


def _parse_columns(response: HTTPResponse) -> Iterator[tuple[ColumnKey, Column]]:
    """Yield the columns of an answer in annotated CSV, one table after the other; ServerError if it is none.

    https://docs.influxdata.com/influxdb/v2/reference/syntax/annotated-csv/
    """
    seen: set[ColumnKey] = set()
    for key, column in _parse_tables(csv.reader(_read_lines(response), strict=True)):
        if key in seen or len(seen) >= MAX_COLUMNS:
            raise ServerError("InfluxDB answers with a series twice, or with too many")
        seen.add(key)
        yield key, column


def _read_lines(response: HTTPResponse) -> Iterator[str]:
    """Yield the lines; one without end is cut, and then no CSV that we know."""
    response.auto_close = False
    with io.BufferedReader(response, 1 << 20) as stream:
        while line := stream.readline(_MAX_LINE):
            yield line.decode(errors="replace")


def _parse_tables(rows: Iterator[list[str]]) -> Iterator[tuple[ColumnKey, Column]]:
    table: _Table | None = None
    kinds: list[str] = []
    names: list[str] = []
    number = ""
    try:
        for row in rows:
            if table is not None and len(row) == table.width and row[2] == number:
                table.append(row)
                continue
            if table is not None:
                yield table.end()
                table = None
            if not row:
                kinds, names = [], []
            elif row[0] == "#datatype":
                kinds, names = row, []
            elif not names:
                names = row
                if "error" in names:
                    kinds = []
                elif len(kinds) != len(names):
                    raise ValueError("a header without the types of its columns")
            else:
                table = _Table(kinds, names, row)
                number = row[2]
        if table is not None:
            yield table.end()
    except (csv.Error, ValueError, OverflowError, KeyError, IndexError) as error:
        raise ServerError(f"InfluxDB's answer can't be read: {error!r}"[:300]) from None


class _Table:
    """One table of an answer: the values of one field."""

    def __init__(self, kinds: list[str], names: list[str], row: list[str]) -> None:
        if "error" in names and not kinds:
            raise ServerError(f"InfluxDB ended its answer with an error: {' '.join(row)[:300]}")
        if len(row) != len(names):
            raise ValueError("a row that does not fit its header")
        cells = dict(zip(names, row, strict=True))
        tags = {name: value for name, value in cells.items() if name not in _FIXED and value}
        series = make_series(cells["_measurement"], tags)
        self.width = len(names)
        self._time, self._value = names.index("_time"), names.index("_value")
        self._key = ColumnKey(series, cells["_field"], _KINDS[kinds[self._value]])
        self._column = Column()
        self._times: list[str] = []
        self._values: list[str] = []
        self.append(row)

    def append(self, row: list[str]) -> None:
        self._times.append(row[self._time])
        self._values.append(row[self._value])
        if len(self._times) >= _ROWS:
            self._flush()

    def end(self) -> tuple[ColumnKey, Column]:
        self._flush()
        return self._key, self._column

    def _flush(self) -> None:
        self._column.times += _parse_times(self._times)
        self._column.bits += encode_values(self._key.kind, self._values)
        self._times, self._values = [], []


def _parse_times(texts: list[str]) -> array[int]:
    """Return RFC 3339 times of UTC as ns since 1970."""
    if not all(text.endswith("Z") for text in texts):
        raise ValueError("a time that is not UTC")
    moments = np.array([text[:-1] for text in texts], dtype="datetime64[ns]")
    return array("q", moments.astype(np.int64).tobytes())


def _format_time(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _retry_after(error: ApiException) -> float:
    try:
        return float(error.headers["Retry-After"])
    except (TypeError, KeyError, ValueError):
        return 0.0


def _explain(error: ApiException) -> str:
    """What a server said, in one line; it knows neither tokens nor headers."""
    body = error.body if isinstance(error.body, str) else bytes(error.body or b"").decode(errors="replace")
    try:
        said = json.loads(body)
        text = str(said.get("message") or said.get("error") or body)
    except (ValueError, AttributeError):
        text = body
    hint = "; the token lacks the right, or is not of this server" if error.status in (401, 403) else ""
    return f"refused with {error.status} ({' '.join(text.split())[:300] or error.reason}){hint}"
