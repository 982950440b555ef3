"""One link: a WebSocket to an authenticated peer, from hello to close."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import aiohttp
from aiohttp import WSMsgType, web
from aiohttp.http_websocket import WSMessageTextBytes

from microchain.consensus.messages import Message, decode_message, encode_message, phase_of
from microchain.consensus.types import Digest, NodeId, ProtocolError
from microchain.network.counters import TrafficCounters
from microchain.network.frames import FrameError, FrameReader, Kind, Lane, LinkLimits, SendQueue, lane_of
from microchain.network.hello import CloseReason, LinkError, check_hello, encode_hello
from microchain.network.limits import TokenBucket
from microchain.network.offset import ClockOffset, OffsetEstimator

__all__ = ["Link", "LinkContext", "LinkObserver", "WebSocket"]

WebSocket = web.WebSocketResponse[bool] | aiohttp.ClientWebSocketResponse[bool]

HELLO_TIMEOUT_S = 5.0
SILENCE_S = 15.0
"""A peer that answers no ping for so long is gone, or does not read."""
PING_INTERVAL_S = 1.0
FIRST_PING_INTERVAL_S = 0.1
FIRST_PINGS = 8
_CLOSE_S = 2.0
_MAX_OUTSTANDING_PINGS = 32
_PING = struct.Struct(">q")
_PONG = struct.Struct(">qqq")
_TCP_NOTSENT_LOWAT = 25
_UNSENT_BYTES = 128 << 10
"""What the kernel may hold unsent: more would delay a vote that has already passed everything in our own queue."""


class LinkObserver(Protocol):
    """Whoever wants the messages. For each link: connected, any number of received, disconnected."""

    def connected(self, peer: NodeId) -> None:
        """The peer can be sent to from now on."""
        ...

    def disconnected(self, peer: NodeId) -> None:
        """Nothing more comes from the peer, and nothing reaches it."""
        ...

    def received(self, peer: NodeId, message: Message, size: int) -> None:
        """Take a decoded message (not yet verified) of ``size`` encoded bytes."""
        ...

    async def room(self) -> None:
        """Wait until more messages can be taken; meanwhile the link reads nothing."""
        ...


class LinkContext:
    """What all links of a node share. ``clock`` returns the node's time in ns."""

    def __init__(
        self,
        *,
        chain_id: Digest,
        identity: NodeId,
        limits: LinkLimits,
        clock: Callable[[], int],
        observer: LinkObserver,
        counters: TrafficCounters,
    ) -> None:
        self.chain_id = chain_id
        self.identity = identity
        self.limits = limits
        self.clock = clock
        self.observer = observer
        self.counters = counters


class Link:
    """One connection to ``peer``, whose certificate has already been found to be the registered one."""

    def __init__(self, websocket: WebSocket, peer: NodeId, context: LinkContext) -> None:
        self.peer = peer
        self.ended = asyncio.Event()
        self.error: LinkError | None = None
        """Why this node ended the link; None while it lives, and if the peer or the network ended it."""
        self._websocket = websocket
        self._socket: socket.socket | None = websocket.get_extra_info("socket")
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._queue = SendQueue(context.limits)
        self._reader = FrameReader(context.limits.message_bytes)
        self._wake: asyncio.Future[None] | None = None
        self._failure: asyncio.Future[LinkError] = self._loop.create_future()
        self._greeted = False
        limits, now = context.limits, self._loop.time()
        self._messages = TokenBucket(limits.messages_per_s, limits.messages_per_s * limits.burst_s, now)
        self._bytes = TokenBucket(limits.bytes_per_s, limits.bytes_per_s * limits.burst_s, now)
        self._offsets = OffsetEstimator()
        self._pings: dict[int, None] = {}
        self._last_pong = now

    @property
    def offset(self) -> ClockOffset | None:
        """What is known of the peer's clock now."""
        return self._offsets.estimate(self._context.clock())

    def send(self, message: Message) -> None:
        """Queue a message."""
        self.send_encoded(lane_of(message), phase_of(message), encode_message(message))

    def send_encoded(self, lane: Lane, phase: str, encoded: bytes) -> None:
        """Queue an encoded message; where the lane is full it is dropped (counted), an urgent one ends the link."""
        if len(encoded) > self._context.limits.message_bytes:
            self._context.counters.incidents["unsent-too-large"] += 1
            return
        if self._queue.put(lane, encoded):
            self._context.counters.sent(phase, len(encoded))
            self._wake_writer()
            return
        self._context.counters.incidents[f"dropped-{lane.name.lower()}"] += 1
        if lane is Lane.URGENT:
            self.fail(LinkError(CloseReason.QUEUE_FULL, "the peer does not read what it is sent"))

    def fail(self, error: LinkError) -> None:
        """End the link with this reason."""
        if not self._failure.done():
            self._failure.set_result(error)

    async def run(self, opened: Callable[[Link], Awaitable[None]]) -> None:
        """Greet, then exchange messages until the link ends; `error` says why.

        ``opened`` is awaited once the peer's hello is right; only then is the observer told.
        """
        if self._socket is not None:
            with suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        tasks = [self._loop.create_task(part) for part in (self._write(), self._watch(), self._read(opened))]
        try:
            ends: list[asyncio.Future[Any]] = [*tasks, self._failure]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self.error = self._failure.result() if self._failure.done() else _first_error(tasks)
        except asyncio.CancelledError:
            self.error = LinkError(CloseReason.STOPPING, "the node stops")
            raise
        finally:
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:  # the node may stop just now, and cancel this task a second time
                if self._greeted:
                    self._context.observer.disconnected(self.peer)
                self.ended.set()
            await self._close(self.error)

    async def _close(self, error: LinkError | None) -> None:
        reason = error.reason if error else CloseReason.STOPPING
        detail = error.detail.encode()[:100] if error else b""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._websocket.close(code=reason.value, message=detail)
        except (OSError, RuntimeError, TimeoutError):
            # A peer that reads nothing would keep a closing connection, with all that is buffered for it, for ever.
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    # --- writing ---

    def _wake_writer(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _write(self) -> None:
        hello = encode_hello(self._context.chain_id, self._context.identity)
        self._queue.put_control(Kind.HELLO, lambda: hello)
        send, next_frame = self._websocket.send_bytes, self._queue.next_frame
        with suppress(ConnectionError):
            while True:
                frame = next_frame()
                if frame is None:
                    self._wake = self._loop.create_future()
                    await self._wake
                else:
                    await send(frame)

    # --- reading ---

    async def _read(self, opened: Callable[[Link], Awaitable[None]]) -> None:
        async with asyncio.timeout(HELLO_TIMEOUT_S) as deadline:
            records = await self._next_records()
            if records and (records[0][0] is not Kind.HELLO):
                raise LinkError(CloseReason.BAD_HELLO, f"the first record is {records[0][0].name}")
            if records:
                check_hello(records[0][1], self._context.chain_id, self.peer)
        if deadline.expired() or not records:
            return
        await opened(self)
        self._greeted = True
        self._context.observer.connected(self.peer)
        records = records[1:]
        while True:
            self._take(records)
            await self._context.observer.room()
            records = await self._next_records()
            if not records:
                return

    async def _next_records(self) -> list[tuple[Kind, bytes]]:
        """Return the records that the next frames complete, within the peer's rates; an empty list at the end."""
        records: list[tuple[Kind, bytes]] = []
        while not records:
            received = await self._websocket.receive()
            if received.type is not WSMsgType.BINARY:
                _check_end(received)
                return []
            frame = received.data
            try:
                records = self._reader.feed(frame)
            except FrameError as error:
                raise LinkError(CloseReason.BAD_FRAME, str(error)) from None
            now = self._loop.time()
            wait = max(self._bytes.take(len(frame), now), self._messages.take(len(records) or 1, now))
            if wait > 0:
                self._context.counters.incidents["throttled"] += 1
                await asyncio.sleep(wait)
        return records

    def _take(self, records: list[tuple[Kind, bytes]]) -> None:
        counters, received = self._context.counters, self._context.observer.received
        for kind, payload in records:
            if kind is Kind.MESSAGE:
                try:
                    message = decode_message(payload)
                except ProtocolError as error:
                    raise LinkError(CloseReason.BAD_MESSAGE, str(error)) from None
                counters.received(phase_of(message), len(payload))
                received(self.peer, message, len(payload))
            else:
                counters.received("link", len(payload))
                self._take_control(kind, payload)

    # --- clock exchange ---

    def _take_control(self, kind: Kind, payload: bytes) -> None:
        now = self._context.clock()
        if kind is Kind.PING and len(payload) == _PING.size:
            (sent_at,) = _PING.unpack(payload)
            self._send_control(Kind.PONG, lambda: _PONG.pack(sent_at, now, self._context.clock()), _PONG.size)
        elif kind is Kind.PONG and len(payload) == _PONG.size:
            t1, t2, t3 = _PONG.unpack(payload)
            if t1 not in self._pings:
                raise LinkError(CloseReason.BAD_FRAME, "an answer to a ping that was not sent")
            del self._pings[t1]
            self._last_pong = self._loop.time()
            self._offsets.add(t1, t2, t3, now)
        else:
            raise LinkError(CloseReason.BAD_FRAME, f"an unexpected {kind.name} record of {len(payload)} bytes")

    def _send_control(self, kind: Kind, build: Callable[[], bytes], size: int) -> None:
        if self._queue.put_control(kind, build):
            self._context.counters.sent("link", size)
            self._wake_writer()

    def _build_ping(self) -> bytes:
        now = self._context.clock()
        while now in self._pings:
            now += 1
        self._pings[now] = None
        return _PING.pack(now)

    async def _watch(self) -> None:
        """Ping, and end the link when no answer comes."""
        sent = 0
        while True:
            await asyncio.sleep(FIRST_PING_INTERVAL_S if sent < FIRST_PINGS else PING_INTERVAL_S)
            if self._loop.time() - self._last_pong > SILENCE_S:
                raise LinkError(CloseReason.SILENT, f"no answer for {SILENCE_S:.0f} s")
            if self._greeted and len(self._pings) < _MAX_OUTSTANDING_PINGS:
                sent += 1
                self._send_control(Kind.PING, self._build_ping, _PING.size)


def _check_end(received: aiohttp.WSMessage | WSMessageTextBytes) -> None:
    """Raise LinkError if what came instead of a frame breaks the rules; return if the link just ended."""
    if received.type is WSMsgType.ERROR and isinstance(received.data, aiohttp.WebSocketError):
        too_big = received.data.code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        reason = CloseReason.OVERSIZED_FRAME if too_big else CloseReason.BAD_FRAME
        raise LinkError(reason, str(received.data))
    if received.type in (WSMsgType.TEXT, WSMsgType.PING, WSMsgType.PONG):
        raise LinkError(CloseReason.BAD_FRAME, f"a WebSocket {received.type.name} message")


def _first_error(tasks: list[asyncio.Task[None]]) -> LinkError | None:
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, LinkError):
                return error
            if isinstance(error, TimeoutError):
                return LinkError(CloseReason.HANDSHAKE_TIMEOUT, f"no hello within {HELLO_TIMEOUT_S:.0f} s")
            if not isinstance(error, (OSError, RuntimeError)):
                raise error
    return None
