"""GET /v1/events: a WebSocket of chain events. A subscriber that does not keep up is dropped, never buffered for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from microchain.api.limits import MAX_SUBSCRIBERS
from microchain.api.responses import ApiError, quote
from microchain.api.service import NodeBusy, NodeService, SubscriberDropped

__all__ = ["EVENT_TYPES", "EventRoutes"]

EVENT_TYPES: Final = frozenset({"accepted", "block", "finalized"})

_SEND_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 1.0
_HEARTBEAT_S = 20.0
_MAX_INCOMING = 4096

_encoder = msgspec.json.Encoder()


class EventRoutes:
    """Handler of the event stream, and the set of those who listen."""

    def __init__(self, service: NodeService) -> None:
        self._service = service
        self._sockets: dict[web.WebSocketResponse, asyncio.Transport | None] = {}
        self.dropped = 0

    @property
    def subscribers(self) -> int:
        return len(self._sockets)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/events", self.get_events, allow_head=False)]

    async def close(self, app: web.Application) -> None:
        """Say goodbye to all subscribers (the application is shutting down)."""
        goodbyes = [self._close(socket, WSCloseCode.GOING_AWAY, b"the node is stopping") for socket in self._sockets]
        await asyncio.gather(*goodbyes)

    async def _close(self, socket: web.WebSocketResponse, code: WSCloseCode, message: bytes) -> None:
        """Close; a client that does not even read that loses its connection."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await socket.close(code=code, message=message)
        except TimeoutError:
            self._abort(socket)

    def _abort(self, socket: web.WebSocketResponse) -> None:
        if (transport := self._sockets.get(socket)) is not None:
            transport.abort()

    async def get_events(self, request: web.Request) -> web.StreamResponse:
        types = _parse_types(request.query.get("types"))
        if self.subscribers >= MAX_SUBSCRIBERS:
            raise NodeBusy(f"{self.subscribers} subscribers are listening already; try again later")
        socket = web.WebSocketResponse(heartbeat=_HEARTBEAT_S, max_msg_size=_MAX_INCOMING, compress=False)
        if not socket.can_prepare(request).ok:
            raise ApiError(426, "upgrade_required", "GET /v1/events is a WebSocket; connect with a WebSocket client")
        self._sockets[socket] = request.transport
        try:
            await self._serve(request, socket, types)
        finally:
            del self._sockets[socket]
        return socket

    async def _serve(self, request: web.Request, socket: web.WebSocketResponse, types: frozenset[str]) -> None:
        """Forward until the client leaves, falls behind or the node ends the stream."""
        async with self._service.events() as stream:
            await socket.prepare(request)
            await socket.send_frame(_encoder.encode(self._greeting()), WSMsgType.TEXT)
            forward = asyncio.create_task(self._forward(socket, stream, types))
            listen = asyncio.create_task(_listen(socket))
            try:
                await asyncio.wait({forward, listen}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                forward.cancel()
                listen.cancel()
                results = await asyncio.gather(forward, listen, return_exceptions=True)
        if isinstance(results[0], TimeoutError):
            self.dropped += 1
            self._abort(socket)
        elif isinstance(results[0], SubscriberDropped):
            self.dropped += 1
            await self._close(socket, WSCloseCode.TRY_AGAIN_LATER, b"this subscriber fell behind; subscribe again")
        elif results[0] is None:
            await self._close(socket, WSCloseCode.GOING_AWAY, b"the node is stopping")

    def _greeting(self) -> dict[str, Any]:
        """The first event: where the chain stands at the moment from which events flow."""
        status = self._service.engine.status()
        return {
            "type": "subscribed",
            "name": self._service.name,
            "head": {"height": status.head_height, "id": status.head.hex()},
            "justified": {"height": status.justified_height, "id": status.justified.hex()},
            "finalized": {"height": status.finalized_height, "id": status.finalized.hex()},
        }

    async def _forward(
        self, socket: web.WebSocketResponse, stream: AsyncIterator[dict[str, Any]], types: frozenset[str]
    ) -> None:
        """Send what ``types`` asks for; TimeoutError if the client does not read, SubscriberDropped if it is slow."""
        async for event in stream:
            if event["type"] in types:
                async with asyncio.timeout(_SEND_TIMEOUT_S):
                    await socket.send_frame(_encoder.encode(event), WSMsgType.TEXT)


async def _listen(socket: web.WebSocketResponse) -> None:
    """Read until the client closes (what it says is ignored); reading is what answers its pings."""
    async for _ in socket:
        pass


def _parse_types(wanted: str | None) -> frozenset[str]:
    if wanted is None:
        return EVENT_TYPES
    types = frozenset(wanted.split(","))
    if unknown := sorted(types - EVENT_TYPES):
        raise ApiError(
            400, "bad_query", f"types: there is no event {quote(unknown[0])}; choose from {sorted(EVENT_TYPES)}"
        )
    return types
