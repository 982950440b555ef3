"""The node's links to all other validators: one for each pair, dialled by the lower node id."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import web
from msgspec import Struct

from microchain.config import Address
from microchain.consensus.genesis import Genesis, RegistryEntry, node_id
from microchain.consensus.messages import Message, encode_message, phase_of
from microchain.consensus.types import NodeId
from microchain.network.counters import TrafficCounters
from microchain.network.frames import FRAME_BYTES, LinkLimits, lane_of
from microchain.network.hello import CloseReason, LinkError
from microchain.network.limits import Backoff, Penalty, TokenBucket
from microchain.network.link import Link, LinkContext, LinkObserver, WebSocket
from microchain.network.offset import ClockOffset
from microchain.network.tls import TlsContexts, peer_key

__all__ = ["Mesh", "PeerState"]

log = logging.getLogger("microchain.network")

PEER_PATH = "/peer"
CONNECT_TIMEOUT_S = 5.0
FIRST_BACKOFF_S = 0.1
MOST_BACKOFF_S = 5.0
GOOD_LINK_S = 5.0
"""A link that lasted so long makes the next attempt an immediate one."""
MAX_STRANGERS = 64
"""TLS handshakes under way; one more ends the oldest, which no honest peer needs that long."""
MAX_UNGREETED = 4
"""Connections of one peer that have not become a link; one more ends the oldest."""
GREETING_TIMEOUT_S = 10.0
_CONNECTIONS_PER_S = 1.0
_CONNECTION_BURST = 10.0
_CLOSE_TIMEOUT_S = 1.0


class _Peer:
    """What is remembered of a peer from one link to the next."""

    def __init__(self, id: NodeId, entry: RegistryEntry, now: float) -> None:
        self.id = id
        self.entry = entry
        self.link: Link | None = None
        self.connecting = asyncio.Lock()
        self.backoff = Backoff(FIRST_BACKOFF_S, MOST_BACKOFF_S)
        self.penalty = Penalty()
        self.ungreeted: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}
        self.connections = TokenBucket(_CONNECTIONS_PER_S, _CONNECTION_BURST, now)


class PeerState(Struct, frozen=True):
    """A peer as status and telemetry show it; ``offset`` is None until it has been measured."""

    id: NodeId
    name: str
    connected: bool
    offset: ClockOffset | None


class Mesh:
    """Keeps a link to every other validator of the registry and passes messages between them and the observer."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        identity: NodeId,
        listen: Address,
        tls: TlsContexts,
        clock: Callable[[], int],
        observer: LinkObserver,
        limits: LinkLimits | None = None,
    ) -> None:
        self.counters = TrafficCounters()
        self._identity = identity
        self._listen = listen
        self._tls = tls
        self._context = LinkContext(
            chain_id=genesis.chain_id(),
            identity=identity,
            limits=limits or LinkLimits.for_block_size(genesis.parameters.max_block_bytes),
            clock=clock,
            observer=observer,
            counters=self.counters,
        )
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._peers = {
            id: _Peer(id, entry, now)
            for entry in genesis.registry
            if entry.role == "validator" and (id := node_id(entry.signing_key)) != identity
        }
        self._by_key = {peer.entry.tls_key: peer for peer in self._peers.values() if peer.entry.tls_key}
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers: dict[asyncio.Task[None], None] = {}
        self._socket: socket.socket | None = None
        self._session: aiohttp.ClientSession | None = None
        http_log = logging.getLogger("microchain.network.http")
        http_log.setLevel(logging.CRITICAL)
        self._server = web.Server(self._handle, access_log=None, logger=http_log, keepalive_timeout=_CLOSE_TIMEOUT_S)

    # --- what the runtime uses ---

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._socket is None:
            raise RuntimeError("the mesh has not been started")
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Listen and begin to dial; OSError if the address can't be listened on."""
        host, port = self._listen.host, self._listen.port
        self._socket = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=MAX_STRANGERS
        )
        self._socket.setblocking(False)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True), trust_env=False
        )
        self._spawn(self._accept(self._socket))
        for peer in self._peers.values():
            if self._identity < peer.id:
                self._spawn(self._keep_dialling(peer))

    async def close(self) -> None:
        """End all links and stop listening."""
        for task in list(self._tasks):
            task.cancel()
        links = [peer.link for peer in self._peers.values() if peer.link is not None]
        for link in links:
            link.fail(LinkError(CloseReason.STOPPING, "the node stops"))
        await asyncio.gather(*self._tasks, *(link.ended.wait() for link in links), return_exceptions=True)
        for peer in self._peers.values():
            for transport in list(peer.ungreeted):
                _end(peer, transport)
        if self._socket is not None:
            self._socket.close()
        await self._server.shutdown(_CLOSE_TIMEOUT_S)
        if self._session is not None:
            await self._session.close()

    def send(self, peer: NodeId, message: Message) -> None:
        """Send to one peer; nothing happens if it is not connected (it learns what it missed when it returns)."""
        state = self._peers.get(peer)
        if state is not None and state.link is not None:
            state.link.send(message)

    def broadcast(self, message: Message) -> None:
        """Send to every connected peer; the message is encoded once."""
        encoded, lane, phase = encode_message(message), lane_of(message), phase_of(message)
        for peer in self._peers.values():
            if peer.link is not None:
                peer.link.send_encoded(lane, phase, encoded)

    def punish(self, id: NodeId, reason: str) -> None:
        """Disconnect a peer that broke the protocol, and refuse it for a while."""
        peer = self._peers.get(id)
        if peer is None:
            return
        if peer.link is not None:
            peer.link.fail(LinkError(CloseReason.MISBEHAVIOUR, reason))
        else:
            self._blame(peer, LinkError(CloseReason.MISBEHAVIOUR, reason))

    def peers(self) -> Iterator[PeerState]:
        """The other validators in the order of the registry."""
        for peer in self._peers.values():
            link = peer.link
            yield PeerState(peer.id, peer.entry.name, link is not None, link.offset if link is not None else None)

    # --- dialling ---

    async def _keep_dialling(self, peer: _Peer) -> None:
        while True:
            await asyncio.sleep(peer.penalty.remaining(self._loop.time()))
            started = self._loop.time()
            try:
                await self._dial(peer)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                log.debug("%s cannot be reached: %s", peer.entry.name, error)
            if self._loop.time() - started > GOOD_LINK_S + CONNECT_TIMEOUT_S:
                peer.backoff.reset()
            await asyncio.sleep(peer.backoff.next())

    async def _dial(self, peer: _Peer) -> None:
        assert self._session is not None
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            websocket = await self._session.ws_connect(
                f"https://{peer.entry.address}{PEER_PATH}",
                ssl=self._tls.client,
                compress=0,
                autoping=False,
                max_msg_size=FRAME_BYTES + 1,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT_S),
            )
        if peer_key(websocket.get_extra_info("ssl_object")) != peer.entry.tls_key:
            self.counters.incidents[CloseReason.UNKNOWN_CERTIFICATE.label] += 1
            await websocket.close(code=CloseReason.UNKNOWN_CERTIFICATE.value)
            log.warning("%s: the certificate at %s is not the registry's", peer.entry.name, peer.entry.address)
            return
        await self._run_link(peer, websocket)

    # --- being dialled ---

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(listener)
            except OSError as error:
                log.warning("cannot accept connections: %s", error)
                await asyncio.sleep(1.0)
                continue
            if len(self._strangers) >= MAX_STRANGERS:
                self.counters.incidents["too-many-strangers"] += 1
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                oldest.cancel()
            task = self._spawn(self._welcome(connection))
            self._strangers[task] = None
            task.add_done_callback(lambda done: self._strangers.pop(done, None))

    async def _welcome(self, connection: socket.socket) -> None:
        """Do the TLS handshake; who has no registered validator's certificate gets no further."""
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                self._server, connection, ssl=self._tls.server, ssl_handshake_timeout=CONNECT_TIMEOUT_S
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self.counters.incidents["tls-refused"] += 1
            connection.close()
            return
        peer = self._by_key.get(peer_key(transport.get_extra_info("ssl_object")))
        if peer is None:
            self.counters.incidents[CloseReason.UNKNOWN_CERTIFICATE.label] += 1
            _abort(transport)
            return
        if len(peer.ungreeted) >= MAX_UNGREETED:
            self._expel(peer, next(iter(peer.ungreeted)))
        peer.ungreeted[transport] = self._loop.call_later(GREETING_TIMEOUT_S, self._expel, peer, transport)

    def _expel(self, peer: _Peer, transport: asyncio.BaseTransport) -> None:
        if not transport.is_closing():
            self.counters.incidents[CloseReason.HANDSHAKE_TIMEOUT.label] += 1
        _end(peer, transport)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        peer = self._by_key.get(peer_key(transport.get_extra_info("ssl_object"))) if transport is not None else None
        if transport is None or peer is None:
            return web.Response(status=403, text="this certificate is no registered validator's\n")
        if request.path != PEER_PATH:
            return web.Response(status=404, text=f"validators meet at {PEER_PATH}\n")
        refusal = self._refuse(peer)
        if refusal is not None:
            return refusal
        websocket = web.WebSocketResponse(
            compress=False, autoping=False, max_msg_size=FRAME_BYTES + 1, timeout=_CLOSE_TIMEOUT_S
        )
        if not websocket.can_prepare(request):
            return web.Response(status=426, text="validators speak WebSocket here\n", headers={"Upgrade": "websocket"})
        await websocket.prepare(request)
        await self._run_link(peer, websocket, transport)
        return websocket

    def _refuse(self, peer: _Peer) -> web.Response | None:
        now = self._loop.time()
        wait = peer.penalty.remaining(now)
        if wait > 0 or peer.connections.take(1.0, now) > 0:
            self.counters.incidents["refused"] += 1
            return web.Response(status=429, text="refused for a while\n", headers={"Retry-After": str(int(wait) + 1)})
        if self._identity < peer.id:
            self._blame(peer, LinkError(CloseReason.WRONG_DIRECTION, "the lower node id dials"))
            return web.Response(status=403, text="the lower node id dials\n")
        return None

    # --- links ---

    async def _run_link(
        self, peer: _Peer, websocket: WebSocket, transport: asyncio.BaseTransport | None = None
    ) -> None:
        link = Link(websocket, peer.id, self._context)

        async def opened(link: Link) -> None:
            if transport is not None and (deadline := peer.ungreeted.pop(transport, None)) is not None:
                deadline.cancel()
            async with peer.connecting:
                if peer.link is not None:
                    peer.link.fail(LinkError(CloseReason.REPLACED, "the peer has connected again"))
                    await peer.link.ended.wait()
                peer.link = link
            log.info("connected to %s", peer.entry.name)

        try:
            await link.run(opened)
        finally:
            if peer.link is link:
                peer.link = None
                log.info("lost %s (%s)", peer.entry.name, link.error or "the peer or the network closed the link")
            if link.error is not None:
                self._blame(peer, link.error)

    def _blame(self, peer: _Peer, error: LinkError) -> None:
        """Count why a link ended; refuse the peer for a while if it is its fault."""
        if error.reason is CloseReason.STOPPING:
            return
        self.counters.incidents[error.reason.label] += 1
        if error.reason.is_offence:
            delay = peer.penalty.impose(self._loop.time())
            log.warning("%s is refused for %.0f s: %s", peer.entry.name, delay, error)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with suppress(asyncio.CancelledError):
            if (error := task.exception()) is not None:
                log.error("a network task failed", exc_info=error)


def _end(peer: _Peer, transport: asyncio.BaseTransport) -> None:
    """End a connection that has not become a link."""
    peer.ungreeted.pop(transport).cancel()
    _abort(transport)


def _abort(transport: asyncio.BaseTransport) -> None:
    if isinstance(transport, asyncio.Transport):
        transport.abort()
    else:
        transport.close()
