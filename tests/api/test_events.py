"""GET /v1/events: what subscribers get, and that a slow one is dropped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from microchain.api import events
from microchain.api.server import create_app, start_server
from microchain.client.node_client import EventStreamClosed, NodeClient, NodeError

from tests.api.contract import Api, check_schema
from tests.api.stand_in import TOKEN, StandInNode, make_signed, until

BLOCK = {"type": "block", "event": "adopted", "at": 5, "id": "ab" * 32, "height": 4, "transactions": 3, "proposer": "a"}
FINALIZED = {"type": "finalized", "at": 6, "height": 4, "id": "ab" * 32, "ids": ["cd" * 32]}


async def test_first_event_says_where_the_chain_stands(client: NodeClient, node: StandInNode) -> None:
    node.make_block()
    async with client.events() as stream:
        first = await anext(stream)
    assert (first["type"], first["head"]["height"], first["finalized"]["height"]) == ("subscribed", 1, 0)
    check_schema("/components/schemas/Event", first)


async def test_events_arrive_in_order_and_fit_the_document(client: NodeClient, node: StandInNode) -> None:
    signed = make_signed(node.genesis)
    async with client.events() as stream:
        await anext(stream)
        await client.submit(signed.raw)
        node.publish(BLOCK)
        node.publish(FINALIZED)
        received = [await anext(stream) for _ in range(3)]
    assert [event["type"] for event in received] == ["accepted", "block", "finalized"]
    assert received[0]["ids"] == [signed.id.hex()]
    assert received[1:] == [BLOCK, FINALIZED]
    for event in received:
        check_schema("/components/schemas/Event", event)


async def test_subscriber_gets_only_the_types_it_asked_for(client: NodeClient, node: StandInNode) -> None:
    async with client.events(["finalized"]) as stream:
        await anext(stream)
        node.publish(BLOCK)
        node.publish(FINALIZED)
        assert await anext(stream) == FINALIZED


async def test_unknown_type_and_plain_request_are_refused(api: Api, client: NodeClient) -> None:
    answer = await api.get("/v1/events", "?types=block,votes")
    assert (answer.status, answer.code) == (400, "bad_query")
    answer = await api.get("/v1/events")
    assert (answer.status, answer.code) == (426, "upgrade_required")
    with pytest.raises(NodeError, match="400"):
        async with client.events(["votes"]):
            pass


async def test_subscribers_are_bounded(client: NodeClient, node: StandInNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_SUBSCRIBERS", 1)
    async with client.events() as stream:
        await anext(stream)
        with pytest.raises(NodeError) as refused:
            async with client.events():
                pass
        assert refused.value.status == 503
    await until(lambda: node.subscribers == 0)
    async with client.events() as stream:
        await anext(stream)


async def test_leaving_ends_the_subscription(client: NodeClient, node: StandInNode) -> None:
    async with client.events() as stream:
        await anext(stream)
        assert node.subscribers == 1
    await until(lambda: node.subscribers == 0)


async def test_broken_connection_ends_the_subscription(
    url: str, http: aiohttp.ClientSession, node: StandInNode
) -> None:
    socket = await http.ws_connect("/v1/events")
    await socket.receive_json()
    transport = socket.get_extra_info("ssl_object") and socket._response.connection.transport  # type: ignore[union-attr]
    assert transport is not None
    transport.abort()
    await until(lambda: node.subscribers == 0)


async def test_subscriber_that_fell_behind_is_told_so(client: NodeClient, node: StandInNode) -> None:
    node.max_lag = 3
    async with client.events() as stream:
        await anext(stream)
        for _ in range(5):
            node.publish(BLOCK)
        for _ in range(3):
            assert await anext(stream) == BLOCK
        with pytest.raises(EventStreamClosed, match="fell behind"):
            await anext(stream)
    assert "microchain_api_subscribers_dropped_total 1.0" in await client.metrics()


async def test_subscriber_that_does_not_read_is_dropped(node: StandInNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket fills, then the node's timeout passes: nothing is buffered beyond the socket and the queue."""
    monkeypatch.setattr(events, "_SEND_TIMEOUT_S", 0.05)
    async with serve_plain(node) as (host, port):
        writer = await subscribe_without_reading(host, port)
        await fill_socket(node)
        await until(lambda: node.subscribers == 0)
        writer.transport.abort()


async def test_stream_that_ends_with_the_node_delivers_what_was_queued(client: NodeClient, node: StandInNode) -> None:
    async with client.events() as stream:
        await anext(stream)
        node.publish(BLOCK)
        node.end_events()
        assert await anext(stream) == BLOCK
        with pytest.raises(EventStreamClosed, match="stopping"):
            await anext(stream)
    assert "microchain_api_subscribers_dropped_total 0.0" in await client.metrics()


async def test_stopping_node_says_goodbye(node: StandInNode) -> None:
    runner, port = await start_server(create_app(node, TOKEN), "127.0.0.1", 0, None)
    async with NodeClient(f"http://127.0.0.1:{port}") as client, client.events() as stream:
        await anext(stream)
        stopping = asyncio.create_task(runner.cleanup())
        with pytest.raises(EventStreamClosed, match="stopping"):
            await anext(stream)
    await stopping
    assert node.subscribers == 0


async def test_stopping_node_does_not_wait_for_a_subscriber_that_does_not_read(
    node: StandInNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_CLOSE_TIMEOUT_S", 0.05)
    async with serve_plain(node) as address:
        writer = await subscribe_without_reading(*address)
        await fill_socket(node)
    assert node.subscribers == 0
    writer.transport.abort()


async def test_what_a_subscriber_says_is_ignored_but_bounded(http: aiohttp.ClientSession, node: StandInNode) -> None:
    async with http.ws_connect("/v1/events") as socket:
        await socket.receive_json()
        await socket.send_str("hello")
        node.publish(BLOCK)
        assert await socket.receive_json() == BLOCK
        await socket.send_bytes(bytes(10_000))
        closed = await socket.receive()
    assert closed.type is aiohttp.WSMsgType.CLOSE
    assert closed.data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
    await until(lambda: node.subscribers == 0)


@contextlib.asynccontextmanager
async def serve_plain(node: StandInNode) -> AsyncIterator[tuple[str, int]]:
    runner: web.AppRunner
    runner, port = await start_server(create_app(node, TOKEN), "127.0.0.1", 0, None)
    try:
        yield "127.0.0.1", port
    finally:
        await runner.cleanup()


async def subscribe_without_reading(host: str, port: int) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection(host, port, limit=1024)
    writer.write(
        b"GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    return writer


async def fill_socket(node: StandInNode) -> None:
    """Publish more than the kernel buffers for a connection."""
    for _ in range(100):
        node.publish({**FINALIZED, "ids": ["cd" * 32] * 4000})
        await asyncio.sleep(0)
