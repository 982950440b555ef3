"""One request to a server that is not what it should be: each ends with one kind of error, and soon."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from control.influx import transport
from control.influx.transport import Server, ServerError, probe_health

HEALTHY = b'{"name": "influxdb", "status": "pass", "version": "v2.7.12", "checks": []}'


class Stranger(BaseHTTPRequestHandler):
    """Answers everything with what the test says."""

    status: ClassVar[int] = 200
    headers_sent: ClassVar[dict[str, str]] = {}
    content: ClassVar[bytes] = b""
    seen: ClassVar[list[str | None]]

    def do_GET(self) -> None:
        type(self).seen.append(self.headers.get("Authorization"))
        self.send_response(self.status)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[tuple[type[Stranger], Server]]:
    handler = type("Handler", (Stranger,), {"seen": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield handler, Server(url=f"http://127.0.0.1:{server.server_port}", token="secret")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "content", "sentence"),
    [
        (200, b"<html>hello</html>", "does not answer like InfluxDB"),
        (200, b'{"name": "grafana", "status": "pass"}', "it calls itself 'grafana'"),
        (200, b'{"name": "influxdb", "status": "fail"}', "is not ready: fail"),
        (200, b"\xff\xfe", "does not answer like InfluxDB"),
        (
            401,
            b'{"code": "unauthorized", "message": "unauthorized access"}',
            r"refused with 401 \(unauthorized access\)",
        ),
        (503, b"", r"refused with 503 \(Service Unavailable\)"),
        (500, b"[" * 100_000, r"refused with 500 \(Internal Server Error\)"),
    ],
)
def test_answers_that_cant_be_used(
    stranger: tuple[type[Stranger], Server], status: int, content: bytes, sentence: str
) -> None:
    handler, server = stranger
    handler.status, handler.content = status, content
    with pytest.raises(ServerError, match=sentence):
        probe_health(server)


def test_a_healthy_server_says_its_version(stranger: tuple[type[Stranger], Server]) -> None:
    handler, server = stranger
    handler.content = HEALTHY
    assert probe_health(server) == "2.7.12"


def test_an_endless_answer_is_cut(stranger: tuple[type[Stranger], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    handler, server = stranger
    monkeypatch.setattr(transport, "_MAX_ANSWER", 1 << 20)
    handler.content = bytes(2 << 20)
    with pytest.raises(ServerError, match="larger than 1 MiB"):
        probe_health(server)


def test_a_redirect_does_not_take_the_token_along(stranger: tuple[type[Stranger], Server]) -> None:
    handler, server = stranger
    handler.status, handler.headers_sent = 302, {"Location": f"{server.url}/elsewhere"}
    with pytest.raises(ServerError, match="refused with 302"):
        probe_health(server)
    assert handler.seen == ["Token secret"]


def test_a_proxy_of_the_environment_is_not_asked(
    stranger: tuple[type[Stranger], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, server = stranger
    handler.content = HEALTHY
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert probe_health(server) == "2.7.12"
