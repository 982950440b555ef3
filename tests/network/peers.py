"""Meshes and hostile peers for the network tests: real TLS, real sockets on 127.0.0.1."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from microchain.consensus.genesis import node_id
from microchain.consensus.messages import Message
from microchain.consensus.types import NodeId
from microchain.network.frames import Kind, LinkLimits, encode_record
from microchain.network.mesh import Mesh
from microchain.network.tls import load_tls_contexts

from tests.cluster import Cluster


class Observer:
    """Remembers what the links say."""

    def __init__(self) -> None:
        self.log: list[tuple[str, NodeId]] = []
        self.received_messages: list[tuple[NodeId, Message]] = []
        self.open = asyncio.Event()
        self.open.set()

    def connected(self, peer: NodeId) -> None:
        self.log.append(("connected", peer))

    def disconnected(self, peer: NodeId) -> None:
        self.log.append(("disconnected", peer))

    def received(self, peer: NodeId, message: Message, size: int) -> None:
        self.received_messages.append((peer, message))

    async def room(self) -> None:
        await self.open.wait()

    def messages(self) -> list[Message]:
        return [message for _, message in self.received_messages]


def sorted_indexes(cluster: Cluster) -> list[int]:
    """The cluster's validators from the lowest node id (which dials all) to the highest (which is dialled by all)."""
    return sorted(range(len(cluster.names)), key=lambda index: id_of(cluster, index))


def id_of(cluster: Cluster, index: int) -> NodeId:
    return node_id(cluster.genesis.registry[index].signing_key)


@asynccontextmanager
async def mesh_of(
    cluster: Cluster, index: int, *, limits: LinkLimits | None = None, shift_ns: int = 0
) -> AsyncIterator[tuple[Mesh, Observer]]:
    """A started mesh; ``shift_ns`` puts its clock ahead."""
    observer, config = Observer(), cluster.config(index)
    mesh = Mesh(
        genesis=cluster.genesis,
        identity=id_of(cluster, index),
        listen=config.listen.peer,
        tls=load_tls_contexts(config.node.keys),
        clock=lambda: time.monotonic_ns() + shift_ns,
        observer=observer,
        limits=limits,
    )
    await mesh.start()
    try:
        yield mesh, observer
    finally:
        await mesh.close()
        await _finish_accepting()


async def _finish_accepting() -> None:
    """Let asyncio end the handshakes that it had accepted: what a closing loop cuts short is a socket left open."""
    accepting = [task for task in asyncio.all_tasks() if "_accept_connection" in repr(task.get_coro())]
    if accepting:
        await asyncio.wait(accepting, timeout=5)
    for _ in range(3):
        await asyncio.sleep(0)


class Hostile:
    """A connection that may say anything, with the keys of ``keys``."""

    def __init__(self, cluster: Cluster, target: int, keys: Path) -> None:
        self.cluster = cluster
        self.url = f"https://{cluster.config(target).listen.peer}/peer"
        self.context = load_tls_contexts(keys).client
        self.socket: aiohttp.ClientWebSocketResponse[bool]

    @asynccontextmanager
    async def connect(self, hello: bytes | None = None) -> AsyncIterator[Hostile]:
        """Open the WebSocket and, if given, send a hello record."""
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self.url, ssl=self.context, autoping=False, max_msg_size=0) as socket,
        ):
            self.socket = socket
            if hello is not None:
                await self.socket.send_bytes(hello)
            yield self

    async def close_code(self) -> int | None:
        """Read until the other side closes; returns its code (None: it just cut the connection)."""
        async with asyncio.timeout(20):
            while True:
                message = await self.socket.receive()
                if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING):
                    return self.socket.close_code
                if message.type is aiohttp.WSMsgType.ERROR:
                    return None

    async def status(self, path: str = "/peer", **options: Any) -> int:
        """The HTTP status of a plain request."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.url.replace("/peer", path), ssl=self.context, **options) as response,
        ):
            return response.status


def hello_record(
    cluster: Cluster, index: int, *, version: int = 1, chain_id: bytes | None = None, node: bytes | None = None
) -> bytes:
    """A hello of validator ``index``, wrong where asked."""
    fields = (version, chain_id or cluster.genesis.chain_id(), node or id_of(cluster, index))
    return encode_record(Kind.HELLO, msgspec.msgpack.encode(fields))


def client_context(ca: Path) -> ssl.SSLContext:
    """TLS without a certificate of one's own."""
    context = ssl.create_default_context(cafile=str(ca))
    context.check_hostname = False
    return context
