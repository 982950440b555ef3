"""What is asked of a server, and answers that no server of ours gives: all are one kind of error, none is believed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from control.influx import store
from control.influx.columns import Column, ColumnKey, make_series
from control.influx.connection import Connection
from control.influx.store import Store
from control.influx.transport import ServerError

_HEADER = ",result,table,_time,_value,_field,_measurement,event\r\n"
_KINDS = "#datatype,string,long,dateTime:RFC3339,long,string,string,string\r\n"
_ROW = ",_result,0,2026-11-23T18:00:00.5Z,7,height,block,proposed\r\n"


class _Stand(ThreadingHTTPServer):
    """Gives the answers in ``answers``, the last one again and again; ``bodies`` is what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, bytes]] = []
        self.bodies: list[bytes] = []

    @property
    def connection(self) -> Connection:
        return Connection(url=f"http://127.0.0.1:{self.server_port}", version="2.7.12", org="o", bucket="b")


class _Handler(BaseHTTPRequestHandler):
    server: _Stand

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        answers = self.server.answers
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Stand]:
    monkeypatch.setattr(store, "_FIRST_PAUSE_S", 0.001)
    with _Stand() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _read(stand: _Stand, *answers: str | tuple[int, str]) -> dict[ColumnKey, Column]:
    stand.answers = [(200, one.encode()) if isinstance(one, str) else (one[0], one[1].encode()) for one in answers]
    with Store(stand.connection) as opened:
        return opened.read("run", "cell", "validator-1", dict)


def test_tables_are_read_as_columns(stand: _Stand) -> None:
    other = _ROW.replace(",0,", ",1,").replace("proposed", '"with ""quotes"", comma"')
    text = _KINDS.replace("RFC3339,long", "RFC3339,string") + _HEADER + _ROW.replace(",0,", ",2,")
    columns = _read(stand, f"{_KINDS}{_HEADER}{_ROW}{_ROW.replace('.5Z', '.500000001Z')}{other}\r\n{text}\r\n\r\n")
    at = 1795456800_500000000
    assert {(str(key.series), key.field, key.kind): column.times.tolist() for key, column in columns.items()} == {
        ("block,event=proposed", "height", "int"): [at, at + 1],
        ('block,event=with "quotes", comma', "height", "int"): [at],
        ("block,event=proposed", "height", "string"): [at],
    }
    assert columns[ColumnKey(make_series("block", {"event": "proposed"}), "height", "int")].bits.tolist() == [7, 7]


def test_an_empty_answer_has_no_columns(stand: _Stand) -> None:
    assert _read(stand, "\r\n") == {}
    assert _read(stand, "") == {}


@pytest.mark.parametrize(
    "answer",
    [
        "<html>welcome</html>",
        _HEADER + _ROW,
        _KINDS + _HEADER + ",_result,0\r\n",
        _KINDS + _HEADER + _ROW.replace("18:00", "late"),
        _KINDS + _HEADER + _ROW.replace("Z", "+01:00"),
        _KINDS + _HEADER + _ROW.replace(",7,", ",seven,"),
        _KINDS + _HEADER + _ROW.replace(",7,", ",99999999999999999999,"),
        _KINDS.replace("RFC3339,long", "RFC3339,duration") + _HEADER + _ROW,
        _KINDS + _HEADER.replace("_value", "value") + _ROW,
        _KINDS + _HEADER + _ROW.replace("proposed", '"endless'),
        _KINDS + _HEADER + _ROW + "\r\n" + _KINDS + _HEADER + _ROW,
        _KINDS + _HEADER + _ROW.replace("proposed", "x" * (2 << 20)),
        "\0" * 100,
    ],
)
def test_an_answer_that_is_none_is_an_error(stand: _Stand, answer: str) -> None:
    with pytest.raises(ServerError, match="InfluxDB"):
        _read(stand, answer)


@pytest.mark.parametrize(
    "broken", ["#datatype,string,string\r\n,error,reference\r\n,out of memory,897", "error,reference\r\nout of memory,"]
)
def test_an_error_in_the_midst_of_an_answer_is_one(stand: _Stand, broken: str) -> None:
    with pytest.raises(ServerError, match="out of memory"):
        _read(stand, f"{_KINDS}{_HEADER}{_ROW}\r\n{broken}\r\n")


def test_a_server_that_fails_now_and_then_is_asked_again(stand: _Stand) -> None:
    assert len(_read(stand, (503, "busy"), (429, "slower"), (500, "{}"), _KINDS + _HEADER + _ROW)) == 1
    assert len(stand.bodies) == 4


def test_a_server_that_goes_on_failing_is_an_error(stand: _Stand) -> None:
    with pytest.raises(ServerError, match=r"refused with 503 \(no room\)"):
        _read(stand, (503, '{"message": "no\\n room"}'))
    assert len(stand.bodies) == 5


def test_a_refusal_is_not_tried_again(stand: _Stand) -> None:
    with pytest.raises(ServerError, match=r"refused with 401 .*token"):
        _read(stand, (401, "no"))
    with pytest.raises(ServerError, match="refused with 302"):
        _read(stand, (302, ""))
    assert len(stand.bodies) == 2


def test_lines_are_written_in_batches_and_compressed(stand: _Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BATCH_LINES", 3)
    monkeypatch.setattr(store, "_BATCH_CHARACTERS", 100)
    stand.answers = [(204, b"")]
    with Store(stand.connection) as opened:
        assert opened.write(iter([*(f"m f={n}" for n in range(7)), "x" * 100, "y"])) == []
    batches = [gzip.decompress(body).decode().split("\n") for body in stand.bodies]
    assert batches == [["m f=0", "m f=1", "m f=2"], ["m f=3", "m f=4", "m f=5"], ["m f=6", "x" * 100], ["y"]]


def test_the_run_is_quoted_in_the_question(stand: _Stand) -> None:
    stand.answers = [(200, b"")]
    with Store(stand.connection) as opened:
        opened.read('a"b\\c${d}', "cell", "validator-1", dict)
    assert rb"r[\"run\"] == \"a\\\"b\\\\c\\${d}\"" in stand.bodies[0]
