"""Answers of a server that is no InfluxDB, or a hostile one: a reason, never a crash, and nothing unbounded."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import SourceError, flux, load
from analysis.connection import Connection, ConnectionFileError, read_connection
from analysis.flux import FluxTable, UnreadableAnswer, quote, read_tables
from tests.analysis.synthetic import make_run, write

HEAD = "#datatype,string,long,dateTime:RFC3339,{kind},string,string\r\n,result,table,_time,_value,_field,host\r\n"
ROW = ",_result,0,{time},{value},f,bench\r\n"
TIME = "2026-01-02T03:04:05.000000006Z"
TIME_NS = 1_767_323_045_000_000_006


def tables_of(answer: str | bytes) -> list[FluxTable]:
    data = answer if isinstance(answer, bytes) else answer.encode()
    return list(read_tables(io.BytesIO(data), list))


def one(kind: str, value: str, time: str = TIME) -> FluxTable:
    (table,) = tables_of(HEAD.format(kind=kind) + ROW.format(time=time, value=value))
    return table


def test_times_and_values_are_exact() -> None:
    table = one("long", "-9223372036854775808")
    assert (table.tags, table.field, table.kind) == ({"host": "bench"}, "f", int)
    assert table.times.tolist() == [TIME_NS] and table.times.dtype == np.int64
    assert table.values.tolist() == [-(2**63)] and table.values.dtype == np.int64
    assert one("double", "1e-07").values.tolist() == [1e-7]
    assert one("boolean", "true").values.tolist() == [True]
    assert one("string", '"a ""b"", c"').values.tolist() == ['a "b", c']
    assert one("long", "1", "2026-01-02T03:04:05Z").times.tolist() == [TIME_NS - 6]
    assert one("long", "1", "2026-01-02T03:04:05.1Z").times.tolist() == [TIME_NS - 6 + 10**8]


def test_tables_follow_each_other_with_and_without_a_new_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flux, "_CHUNK_ROWS", 2)
    rows = "".join(ROW.format(time=TIME, value=value) for value in range(5))
    other = rows.replace("_result,0", "_result,1").replace("bench", "pi")
    third = HEAD.format(kind="double") + ROW.format(time=TIME, value="0.5")
    first, second, last = tables_of(f"{HEAD.format(kind='long')}{rows}{other}\r\n{third}\r\n")
    assert first.values.tolist() == second.values.tolist() == [0, 1, 2, 3, 4]
    assert (first.tags["host"], second.tags["host"], last.values.tolist()) == ("bench", "pi", [0.5])


def test_nothing_at_all_is_no_table() -> None:
    assert tables_of("") == tables_of("\r\n\r\n") == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("error,reference\r\nthe engine is closed,897\r\n", "the server says: the engine is closed"),
        ("#datatype,string,string\r\n,error,reference\r\n,no,1\r\n", "the server says: no 1"),
        ("<html>\nnot found</html>\n", "can't be read"),
        (HEAD.format(kind="long") + ROW.format(time=TIME, value="9223372036854775808"), "OverflowError"),
        (HEAD.format(kind="long") + ROW.format(time=TIME, value=""), "can't be read"),
        (HEAD.format(kind="long") + ROW.format(time=TIME, value="1" * 5000), "can't be read"),
        (HEAD.format(kind="boolean") + ROW.format(time=TIME, value="maybe"), "can't be read"),
        (HEAD.format(kind="duration") + ROW.format(time=TIME, value="1"), "can't be read"),
        (HEAD.format(kind="long") + ROW.format(time="yesterday", value="1"), "can't be read"),
        (HEAD.format(kind="long") + ROW.format(time="2026-01-02T03:04:05+01:00", value="1"), "can't be read"),
        (HEAD.format(kind="long") + ROW.format(time="99999999999Z", value="1"), "can't be read"),
        (HEAD.format(kind="long") + ROW.format(time=TIME, value="1").replace(",bench", ""), "can't be read"),
        (HEAD.format(kind="long").replace("_field", "field") + ROW.format(time=TIME, value="1"), "can't be read"),
        (HEAD.format(kind="string") + ROW.format(time=TIME, value="x" * 200_000), "field larger than"),
        (HEAD.format(kind="string") + ROW.format(time=TIME, value='"open'), "can't be read"),
        (b"x" * (3 << 20), "can't be read"),
        (b"\xff\x00\n" * 10, "can't be read"),
    ],
)
def test_what_is_no_answer_is_a_reason(answer: str | bytes, reason: str) -> None:
    with pytest.raises(UnreadableAnswer, match=reason) as caught:
        tables_of(answer)
    assert len(str(caught.value)) < 400


def test_an_answer_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flux, "_MAX_VALUES", 100)
    monkeypatch.setattr(flux, "_CHUNK_ROWS", 10)
    row = ROW.format(time=TIME, value="1")
    with pytest.raises(UnreadableAnswer, match="more than 100 values"):
        tables_of(HEAD.format(kind="long") + row * 200)
    with pytest.raises(UnreadableAnswer, match="more than 100 values"):
        tables_of(HEAD.format(kind="long") + "".join(row.replace(",0,", f",{n},") for n in range(200)))


@given(st.data())
def test_damage_is_never_a_crash(data: st.DataObject) -> None:
    whole = (HEAD.format(kind="string") + ROW.format(time=TIME, value="ab") * 3).encode()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    try:
        tables_of(whole[:start] + data.draw(st.binary(max_size=20)) + whole[end:])
    except UnreadableAnswer:
        return


def test_names_can_not_leave_their_quotes() -> None:
    assert quote('a") |> drop() //') == r'"a\") |> drop() //"'
    assert quote("\\") == r'"\\"'
    assert quote("${1 + 1}") == r'"\${1 + 1}"'


# --- servers ----------------------------------------------------------------------------------------------------------


@contextmanager
def serving(status: int, body: bytes, *, announced: int | None = None) -> Iterator[str]:
    """A server that gives one answer to everything; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if announced is None else announced))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"hello", "gives no usable answer"),
        (200, b"error,reference\r\nboom,1\r\n", "gives no usable answer: the server says: boom"),
        (307, b"", "refuses the query: HTTP 307"),
        (401, b"no", "its read_token is not accepted"),
        (404, b"no", "does not exist"),
        (503, b"\xff" * 3000, "HTTP 503"),
    ],
)
def test_a_server_that_answers_nonsense_is_one_sentence(tmp_path: Path, status: int, body: bytes, reason: str) -> None:
    path = make_run(tmp_path)
    with serving(status, body) as url:
        write(tmp_path / "c.json", {"url": url, "org": "o", "bucket": "b", "read_token": "secret"})
        with pytest.raises(SourceError, match=reason) as caught:
            load(path, source="influxdb", connection=tmp_path / "c.json")
    assert "secret" not in str(caught.value) and len(str(caught.value)) < 700


def test_an_answer_that_breaks_off_is_no_shorter_run(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    answer = (HEAD.format(kind="long") + ROW.format(time=TIME, value="1")).encode()
    with serving(200, answer, announced=len(answer) + 10) as url:
        write(tmp_path / "c.json", {"url": url, "org": "o", "bucket": "b"})
        with pytest.raises(SourceError):
            load(path, source="influxdb", connection=tmp_path / "c.json")


def test_a_run_whose_names_are_no_names_is_not_asked_for(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    cell = json.loads((path / "cells/k4-b128k/cell.json").read_text())
    write(path / "cells/k4-b128k/cell.json", cell | {"run": "a\nb"})
    write(tmp_path / "c.json", {"url": "http://127.0.0.1:1", "org": "o", "bucket": "b"})
    with pytest.raises(SourceError, match="can't be asked for"):
        load(path, source="influxdb", connection=tmp_path / "c.json")


# --- connection files -------------------------------------------------------------------------------------------------


def test_a_connection_file_is_read_without_showing_its_token(tmp_path: Path) -> None:
    document = {"url": "https://h:1", "org": "o", "bucket": "b", "read_token": "secret", "version": "2.7.12"}
    write(tmp_path / "c.json", document)
    connection = read_connection(tmp_path / "c.json")
    assert connection == Connection(url="https://h:1", org="o", bucket="b", read_token="secret")
    assert "secret" not in repr(connection)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is no connection file"),
        ("[]", "is no connection file"),
        ("\xff", "is no connection file"),
        ('{"url": "ftp://h", "org": "o", "bucket": "b"}', "url must look like"),
        ('{"url": "http://h", "org": "", "bucket": "b"}', "org and bucket"),
        ('{"url": "http://h", "org": "o", "bucket": "b\\n"}', "org and bucket"),
        ('{"url": "http://h", "org": "o", "bucket": "b", "read_token": "a\\r\\n"}', "read_token must be"),
        ('{"url": "http://h", "org": "o", "bucket": "b", "ca": "/nowhere"}', "ca '/nowhere' does not exist"),
        ('{"url": "http://h"' + " " * 70_000, "is larger than"),
    ],
)
def test_a_connection_file_that_can_not_be_used_is_one_sentence(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(ConnectionFileError, match=reason):
        read_connection(file)


def test_a_missing_connection_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"`\./testbed influx up` writes one"):
        load(make_run(tmp_path), source="influxdb", connection=tmp_path / "none.json")


def test_a_source_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there are: spools, influxdb"):
        load(make_run(tmp_path), source="files")  # type: ignore[arg-type]
