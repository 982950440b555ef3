"""NodeClient: typed errors, waiting for readiness, large bodies, and that nothing leaks."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from microchain.api.server import create_app, server_context, start_server
from microchain.client.node_client import NodeClient, NodeError, Unreachable

from tests.api.stand_in import TOKEN, StandInNode, make_signed


async def test_every_call_answers_typed(client: NodeClient, node: StandInNode) -> None:
    signed = [make_signed(node.genesis, nonce=nonce) for nonce in range(3)]
    assert (await client.submit(signed[0].raw)).accepted
    results = await client.submit_many([t.raw for t in signed])
    assert [(r.accepted, r.code, r.id) for r in results] == [
        (False, "duplicate", signed[0].id.hex()),
        (True, "accepted", signed[1].id.hex()),
        (True, "accepted", signed[2].id.hex()),
    ]
    block = node.make_block()
    node.finalize()
    assert (await client.transaction(signed[2].id))["state"] == "finalized"
    assert (await client.block(1))["id"] == block.id.hex()
    assert "bodies" in await client.block("finalized", bodies=True)
    assert [b["height"] for b in (await client.blocks(1, 5))["blocks"]] == [1]
    assert (await client.committee())["total_weight"] == 400
    assert (await client.genesis()) == node.genesis
    assert (await client.status())["name"] == "validator-1"
    assert await client.is_ready()
    await client.release(above=4)
    await client.release()
    await client.extend_lease(30)
    assert (node.releases, node.leases) == ([4, None], [30])


async def test_error_answer_becomes_a_node_error(client: NodeClient, node: StandInNode) -> None:
    with pytest.raises(NodeError, match="no block 9") as missing:
        await client.block(9)
    assert (missing.value.status, missing.value.code) == (404, "unknown_block")
    node.busy = True
    with pytest.raises(NodeError) as busy:
        await client.submit(b"x")
    assert (busy.value.status, busy.value.retry_after) == (503, 1.0)


async def test_wrong_token_is_a_node_error(url: str, tls: Path) -> None:
    async with NodeClient(url, ca_file=tls / "ca.crt", token="wrong") as client:
        with pytest.raises(NodeError, match="token file") as refused:
            await client.release()
    assert refused.value.code == "token_wrong"


async def test_node_that_is_not_there_is_unreachable(unused_tcp_port: int) -> None:
    async with NodeClient(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(Unreachable, match="is the node running") as refused:
            await client.status()
        assert refused.value.reason == "Connection refused"
        with pytest.raises(Unreachable):
            async with client.events():
                pass


async def test_foreign_certificate_is_refused(url: str, node: StandInNode) -> None:
    async with NodeClient(url, token=TOKEN) as client:
        with pytest.raises(Unreachable, match="check ca_file"):
            await client.submit(make_signed(node.genesis).raw)
    assert node.submissions == 0


async def test_certificate_for_another_host_is_refused(url: str, tls: Path) -> None:
    async with NodeClient(url.replace("127.0.0.1", "localhost"), ca_file=tls / "ca.crt") as client:
        with pytest.raises(Unreachable, match="not valid for 'localhost'"):
            await client.status()


async def test_slow_answer_is_unreachable_after_the_timeout(url: str, tls: Path, node: StandInNode) -> None:
    node.hold = asyncio.Event()
    async with NodeClient(url, ca_file=tls / "ca.crt", token=TOKEN, timeout_s=0.05) as client:
        with pytest.raises(Unreachable) as late:
            await client.submit(b"x")
        assert late.value.reason == "Connection timed out"
    node.hold.set()


async def test_wait_ready_waits_for_the_node_to_come_up(node: StandInNode, tls: Path, unused_tcp_port: int) -> None:
    node.ready = False
    async with NodeClient(f"https://127.0.0.1:{unused_tcp_port}", ca_file=tls / "ca.crt") as client:
        waiting = asyncio.create_task(client.wait_ready(20))
        await asyncio.sleep(0.05)
        context = server_context(tls / "tls.crt", tls / "tls.key")
        runner, _ = await start_server(create_app(node, TOKEN), "127.0.0.1", unused_tcp_port, context)
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert not await client.is_ready()
        node.ready = True
        await waiting
        await runner.cleanup()


async def test_wait_ready_says_what_it_waited_for(client: NodeClient, node: StandInNode) -> None:
    node.ready = False
    with pytest.raises(TimeoutError, match="0 of 3 peers"):
        await client.wait_ready(0.05)


async def test_body_of_several_megabytes_goes_through(client: NodeClient) -> None:
    results = await client.submit_many([bytes(1 << 20)] * 3)
    assert [result.code for result in results] == ["too_large"] * 3


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v1/transactions", b"not json"),
        ("/v1/transactions", b'{"accepted": 0, "results": []}'),
        ("/v1/status", b"[]"),
        ("/v1/status", b"\xff"),
    ],
)
async def test_answers_that_are_not_the_apis_are_typed_errors(path: str, answer: bytes) -> None:
    async with serve(path, 200, answer) as url, NodeClient(url) as client:
        with pytest.raises(NodeError) as error:
            await (client.submit(b"x") if path == "/v1/transactions" else client.status())
    assert error.value.code == "not_the_api"


async def test_an_answer_without_an_end_is_a_typed_error_and_not_read_on(unused_tcp_port: int) -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"[" * 65536)
                await writer.drain()

    server = await asyncio.start_server(pour, "127.0.0.1", unused_tcp_port)
    async with server, NodeClient(f"http://127.0.0.1:{unused_tcp_port}", max_answer=1 << 20) as client:
        with pytest.raises(NodeError, match="larger than 1048576 bytes") as error:
            await client.status()
    assert error.value.code == "not_the_api"


async def test_an_answer_of_just_the_largest_size_is_taken() -> None:
    answer = b'{"name": "%s"}' % (b"x" * 1000)
    async with serve("/v1/status", 200, answer) as url, NodeClient(url, max_answer=len(answer)) as client:
        assert len((await client.status())["name"]) == 1000


async def test_a_compressed_answer_that_nobody_asked_for_is_not_unpacked() -> None:
    answer, headers = gzip.compress(b'{"name": "validator-1"}'), {"Content-Encoding": "gzip"}
    async with serve("/v1/status", 200, answer, headers) as url, NodeClient(url) as client:
        with pytest.raises(NodeError) as error:
            await client.status()
    assert error.value.code == "not_the_api"


async def test_error_page_of_something_else_is_quoted() -> None:
    async with serve("/v1/status", 502, b"<h1>Bad gateway</h1>") as url, NodeClient(url) as client:
        with pytest.raises(NodeError, match="<h1>Bad gateway</h1>") as error:
            await client.status()
    assert (error.value.status, error.value.code) == (502, "not_the_api")


async def test_connections_are_kept_and_closed(client: NodeClient, node: StandInNode) -> None:
    for _ in range(20):
        await client.status()
    session = client._session
    assert session.connector is not None
    assert len(session.connector._conns) == 1
    await client.close()
    assert session.closed
    await client.status()


def serve(path: str, status: int, body: bytes, headers: dict[str, str] | None = None) -> Any:
    @contextlib.asynccontextmanager
    async def run() -> AsyncIterator[str]:
        async def answer(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(status=status, body=body, headers=headers)

        app = web.Application()
        app.router.add_route("*", path, answer)
        runner, port = await start_server(app, "127.0.0.1", 0, None)
        yield f"http://127.0.0.1:{port}"
        await runner.cleanup()

    return run()
