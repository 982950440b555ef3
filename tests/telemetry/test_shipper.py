"""The shipper against a stand-in: every answer a server can give, and servers that are none."""

from __future__ import annotations

import asyncio
import json
import ssl
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from microchain.config import InfluxSection, ServerUrl
from microchain.telemetry import shipper as shipper_module
from microchain.telemetry.spool import Spool

from tests.telemetry.streaming import (
    TOKEN,
    StandIn,
    eventually,
    numbered,
    section,
    shipping,
    stand_in,
    write_points,
)


def cursor(data: Path) -> dict[str, object]:
    saved: dict[str, object] = json.loads((data / "shipper.json").read_bytes())
    return saved


async def test_lines_go_out_whole_compressed_and_with_the_token(tmp_path: Path) -> None:
    write_points(tmp_path, 0, 6000)
    async with stand_in() as server:
        async with shipping(section(server.url + "/influx/", tmp_path), tmp_path) as shipper:
            await eventually(lambda: len(server.lines) == 6000)
        assert shipper.state == shipper_module.ShipperState(6000, 0, 0, "")
        assert "\n".join(server.lines) + "\n" == numbered(0, 6000)
        request = server.requests[0]
        assert request.method == "POST" and request.path == "/influx/api/v2/write"
        assert dict(request.query) == {"org": "o", "bucket": "b", "precision": "ns"}
        assert request.headers["Authorization"] == f"Token {TOKEN}"
        assert request.headers["Content-Encoding"] == "gzip"
    saved = cursor(tmp_path)
    assert (saved["shipped"], saved["rejected"], saved["error"]) == (6000, 0, "")


async def test_what_the_spool_gets_later_follows(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", interval_s=0, segment_bytes=3000)
    async with stand_in() as server:
        async with shipping(section(server.url, tmp_path, ""), tmp_path):
            for number in range(200):
                spool.append(numbered(number, 1))
                spool.flush()
                await asyncio.sleep(0.001)
            spool.close(lambda points, dropped: numbered(200, 1))
        assert "\n".join(server.lines) + "\n" == numbered(0, 201)
        assert "Authorization" not in server.requests[0].headers, "an empty token file: the server asks for none"


async def test_one_request_at_a_time_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper_module, "PACE_S", 0.0)
    monkeypatch.setattr(shipper_module, "PACE_BYTES_PER_S", 1 << 40)
    line = f'text,run=test t="{"x" * 1000}" 5\n'
    spool = Spool(tmp_path / "spool", interval_s=0)
    for _ in range(24_000):
        spool.append(line)
    spool.flush()
    for _ in range(3):
        for _ in range(8000):
            spool.append(line)
        spool.flush()
    spool.close()
    taken = 0

    def count(lines: list[str]) -> web.Response:
        nonlocal taken
        assert len(lines) <= 5000 and sum(map(len, lines)) <= 512 << 10
        taken += len(lines)
        return web.Response(status=204)

    async with stand_in() as server:
        server.answer = count
        tracemalloc.start()
        try:
            async with shipping(section(server.url, tmp_path), tmp_path) as shipper:
                await eventually(lambda: taken >= 500)
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                waiting = shipper.state.waiting_bytes
                await eventually(lambda: shipper.state.waiting_bytes == 0)
                peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
    assert waiting > 20_000_000
    assert peak < 6_000_000, "for the batches of both sides"


@pytest.mark.parametrize("status", [400, 422])
async def test_only_the_bad_lines_are_refused(tmp_path: Path, status: int) -> None:
    write_points(tmp_path, 0, 3000)

    def refuse(lines: list[str]) -> web.Response | None:
        bad = [line for line in lines if any(f" n={n}i " in line for n in (7, 2500, 2999))]
        return web.json_response({"message": f"unable to parse '{bad[0]}'"}, status=status) if bad else None

    async with stand_in() as server:
        server.answer = refuse
        async with shipping(section(server.url, tmp_path), tmp_path) as shipper:
            await eventually(lambda: shipper.state.waiting_bytes == 0 and shipper.state.shipped > 0)
        assert (shipper.state.shipped, shipper.state.rejected, shipper.state.error) == (2997, 3, "")
        assert len(server.lines) == 2997 and len(server.requests) < 100
    kept = (tmp_path / "rejected.lp").read_text().splitlines()
    assert kept[1::2] == [numbered(n, 1).strip() for n in (7, 2500, 2999)]
    assert f"answered {status}: unable to parse" in kept[0]
    assert cursor(tmp_path)["rejected"] == 3


async def test_a_server_that_refuses_everything_costs_no_line(tmp_path: Path) -> None:
    write_points(tmp_path, 0, 100)
    async with stand_in() as server:
        server.answer = lambda lines: web.Response(status=400, text="what is this?")
        async with shipping(section(server.url, tmp_path), tmp_path) as shipper:
            await eventually(lambda: len(server.requests) > 30)
            assert (shipper.state.shipped, shipper.state.rejected) == (0, 0)
            assert "answered 400: what is this?" in shipper.state.error
            server.answer = lambda lines: None
            await eventually(lambda: shipper.state.waiting_bytes == 0)
        assert (shipper.state.shipped, shipper.state.rejected) == (100, 0)


async def test_a_line_that_was_refused_by_chance_is_not_set_aside(tmp_path: Path) -> None:
    write_points(tmp_path, 0, 10)
    async with stand_in() as server:

        def recover_at_the_probe(lines: list[str]) -> web.Response | None:
            if lines[0].startswith("#"):
                server.answer = lambda lines: None
                return None
            return web.Response(status=400)

        server.answer = recover_at_the_probe
        async with shipping(section(server.url, tmp_path), tmp_path) as shipper:
            await eventually(lambda: len(server.lines) == 10)
        assert (shipper.state.shipped, shipper.state.rejected) == (10, 0)


@pytest.mark.parametrize("most", [1000, 17, 1])
async def test_a_body_too_large_is_made_smaller(tmp_path: Path, most: int) -> None:
    write_points(tmp_path, 0, 20 * most)
    async with stand_in() as server:
        server.answer = lambda lines: web.Response(status=413) if len(lines) > most else None
        async with shipping(section(server.url, tmp_path), tmp_path) as shipper:
            await eventually(lambda: len(server.lines) == 20 * most)
        assert (shipper.state.shipped, shipper.state.rejected) == (20 * most, 0)


async def test_a_line_too_large_for_a_request_or_for_us_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    content = numbered(0, 5) + "x" * 5000 + "\n" + numbered(5, 5) + "y" * 600_000 + "\n" + numbered(10, 5)
    (tmp_path / "spool" / "1-0.lp").write_text(content)
    async with stand_in() as server:
        server.answer = lambda lines: web.Response(status=413) if any(len(line) > 4999 for line in lines) else None
        async with shipping(section(server.url, tmp_path), tmp_path) as shipper:
            await eventually(lambda: len(server.lines) == 15)
        assert (shipper.state.shipped, shipper.state.rejected) == (15, 2)
    assert (tmp_path / "rejected.lp").stat().st_size < 10_000


@pytest.mark.parametrize("status", [200, 201, 204.5, 302, 307, 401, 403, 404, 405, 429, 500, 503])
async def test_nothing_is_given_up_whatever_the_server_answers(tmp_path: Path, status: float) -> None:
    write_points(tmp_path, 0, 50)
    headers = {"Location": "http://127.0.0.1:1/", "Retry-After": "0"}
    async with stand_in() as server:
        server.answer = lambda lines: web.Response(status=int(status) if status != 204.5 else 206, headers=headers)
        async with shipping(section(server.url, tmp_path), tmp_path) as shipper:
            await eventually(lambda: len(server.requests) >= 3)
            assert (shipper.state.shipped, shipper.state.rejected) == (0, 0)
            await eventually(lambda: "answered" in shipper.state.error)
            server.answer = lambda lines: None
            await eventually(lambda: len(server.lines) == 50)
        assert shipper.state.error == ""


async def test_the_time_that_the_server_asks_for_is_given(tmp_path: Path) -> None:
    write_points(tmp_path, 0, 50)
    async with stand_in() as server:
        server.answer = lambda lines: web.Response(status=429, headers={"Retry-After": "200"})
        async with shipping(section(server.url, tmp_path), tmp_path):
            await eventually(lambda: len(server.requests) == 1)
            await asyncio.sleep(0.5)
            assert len(server.requests) == 1
            server.answer = lambda lines: None
        assert len(server.lines) == 50, "the last try, when the node stops, does not wait"


async def test_a_token_is_read_again_for_each_try(tmp_path: Path) -> None:
    write_points(tmp_path, 0, 50)
    async with stand_in() as server:

        def guard(lines: list[str]) -> web.Response | None:
            right = server.requests[-1].headers.get("Authorization") == "Token second"
            return None if right else web.json_response({"message": "Token first is revoked"}, status=401)

        server.answer = guard
        influx = section(server.url, tmp_path, "first")
        async with shipping(influx, tmp_path) as shipper:
            await eventually(lambda: "answered 401: Token (token) is revoked" in shipper.state.error)
            influx.token_file.unlink()
            await eventually(lambda: "influx.token: No such file" in shipper.state.error)
            influx.token_file.write_bytes(b"\xff")
            await eventually(lambda: "not ASCII" in shipper.state.error)
            influx.token_file.write_text("two\r\nlines: 1")
            await eventually(lambda: "must be one line" in shipper.state.error)
            influx.token_file.write_text("second\n")
            await eventually(lambda: len(server.lines) == 50)
        assert (shipper.state.shipped, shipper.state.error) == (50, "")


async def test_a_connection_that_is_refused_is_tried_again(tmp_path: Path) -> None:
    write_points(tmp_path, 0, 50)
    async with stand_in() as server:
        url = server.url
    async with shipping(section(url, tmp_path), tmp_path, push_s=5) as shipper:
        await eventually(lambda: url in shipper.state.error)
    assert cursor(tmp_path)["shipped"] == 0 and url in str(cursor(tmp_path)["error"])


# --- servers that are none ---

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 204 No Content\r\n")
    await asyncio.sleep(3600)


async def endless_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


async def endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 Oh\r\n")
    while True:
        writer.write(b"X-Header: y\r\n" * 1000)
        await writer.drain()


async def endless_interim_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        await writer.drain()


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(bytes(range(256)) * 100)
    await writer.drain()


async def gzip_bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = b"HTTP/1.1 400 No\r\nContent-Encoding: gzip\r\nContent-Type: \x00\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head + b"ffff\r\n" + b"\x1f\x8b" + b"\x00" * 65533 + b"\r\n")
    await reader.read()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)


async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 204 No Content\r\n" + b"X: y\r\n" * 10_000:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "handler",
    [
        never_answers,
        never_reads,
        endless_body,
        endless_headers,
        endless_interim_answers,
        garbage,
        gzip_bomb,
        hangs_up,
        drips,
    ],
    ids=lambda handler: handler.__name__,
)
async def test_an_absurd_server_costs_neither_points_nor_the_node(tmp_path: Path, handler: Handler) -> None:
    write_points(tmp_path, 0, 5000)
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    tracemalloc.start()
    try:
        influx = section(f"http://127.0.0.1:{port}", tmp_path)
        async with asyncio.timeout(60), shipping(influx, tmp_path, timeout_s=0.3, push_s=0.5) as shipper:
            await eventually(lambda: len(connections) >= 3)
            assert shipper.state.error and shipper.state.error.isprintable() and len(shipper.state.error) < 300
        assert (shipper.state.shipped, shipper.state.rejected) == (0, 0)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_server_that_hangs_does_not_keep_the_node_from_stopping(tmp_path: Path) -> None:
    write_points(tmp_path, 0, 10)
    gone = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        gone.set()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(30):
            async with shipping(section(f"http://127.0.0.1:{port}", tmp_path), tmp_path, timeout_s=3600, push_s=0.1):
                pass
            await gone.wait()
    assert cursor(tmp_path)["error"] == "the node stopped before all was streamed"


# --- TLS ---


async def test_https_with_the_given_authority_and_with_no_other(tmp_path: Path) -> None:
    from tests.cluster import make_keys

    write_points(tmp_path, 0, 10)
    keys, _ = make_keys("validator-1", "ed25519", "validator")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "tls.crt", keys / "tls.key")
    server = StandIn()
    app = web.Application()
    app.router.add_post("/api/v2/write", server.handle)
    runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        plain = section(f"https://127.0.0.1:{runner.addresses[0][1]}", tmp_path)
        authority = tmp_path / "authority.pem"
        influx = InfluxSection(
            url=ServerUrl(plain.url), org="o", bucket="b", token_file=plain.token_file, ca_file=authority
        )
        async with shipping(plain, tmp_path, push_s=0.1) as shipper:
            await eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in shipper.state.error)
        async with shipping(influx, tmp_path) as shipper:
            await eventually(lambda: "authority.pem is no certificate" in shipper.state.error)
            authority.write_text("nonsense")
            await eventually(lambda: "authority.pem is no certificate" in shipper.state.error)
            authority.write_bytes((keys / "ca.crt").read_bytes())
            await eventually(lambda: len(server.lines) == 10)
        assert shipper.state.error == ""
    finally:
        await runner.cleanup()
