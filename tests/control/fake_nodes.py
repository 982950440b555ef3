"""Validators as the conductor sees them: small servers with the API's surface and a chain without consensus.

What is submitted to one is accepted by all; the first release for a height makes a block of what is pooled, which all
finalize at once. Behaviour is changed through the attributes of `FakeNode`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
from aiohttp import WSMsgType, web
from microchain.consensus.objects import decode_transaction


class FakeNode:
    """One validator. ``ready``, ``stall`` (finalizes nothing), ``deaf`` (accepts nothing), ``busy`` (503s to come).

    ``timeless`` does not tell the time, ``ahead_ns`` is how far its clock is ahead. ``jobs`` calculations are under
    way, ``deals`` are pooled.
    """

    def __init__(self, name: str, chain: FakeChain) -> None:
        self.name = name
        self.chain = chain
        self.ready = True
        self.stall = False
        self.deaf = False
        self.busy = 0
        self.refuse = ""
        self.rubbish = False
        self.timeless = False
        self.ahead_ns = 0
        self.times_asked = 0
        self.statuses_asked = 0
        self.jobs = 0
        self.deals = 0
        self.die_at_submission = False
        self.submissions: list[int] = []
        self.leases: list[float] = []
        self.url = ""
        self._sockets: set[web.WebSocketResponse] = set()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get("/v1/time", self._time),
                web.get("/v1/events", self._events),
                web.post("/v1/transactions", self._submit),
                web.post("/v1/release", self._release),
                web.post("/v1/lease", self._lease),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        for socket in list(self._sockets):
            await socket.close(code=1001)
        if runner is not None:
            await runner.cleanup()

    async def tell(self, event: dict[str, Any]) -> None:
        """Send an event to all subscribers."""
        text = msgspec.json.encode({**event, "at": time.time_ns()}).decode()
        if self.rubbish:
            text = '{"type": "accepted", "ids": 5}'
        for socket in list(self._sockets):
            await socket.send_str(text)

    async def _status(self, request: web.Request) -> web.Response:
        peers = [
            {"name": node.name, "connected": node.ready and self.ready} for node in self.chain.nodes if node is not self
        ]
        self.statuses_asked += 1
        own = {"jobs": self.jobs, "pool": {"system": self.deals}}
        return web.json_response({"chain_id": self.chain.id, "ready": self.ready, "peers": peers, **own})

    async def _time(self, request: web.Request) -> web.Response:
        if self.timeless:
            raise web.HTTPNotFound
        self.times_asked += 1
        now = time.time_ns() + self.ahead_ns
        return web.json_response({"received_ns": now, "sent_ns": now})

    async def _events(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "subscribed", "head": {"height": self.chain.height}})
        self._sockets.add(socket)
        try:
            async for message in socket:
                assert message.type is WSMsgType.TEXT
        finally:
            self._sockets.discard(socket)
        return socket

    async def _submit(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"].startswith("Bearer ")
        if self.die_at_submission:
            self.chain.dying.append(asyncio.create_task(self.stop()))
            await asyncio.sleep(5)
        if self.busy:
            self.busy -= 1
            body = {"error": {"code": "busy", "message": "later"}}
            return web.json_response(body, status=503, headers={"Retry-After": "0"})
        raws = msgspec.msgpack.decode(await request.read())
        self.submissions.append(len(raws))
        transactions = [decode_transaction(raw) for raw in raws]
        ids = [transaction.id.hex() for transaction in transactions]
        self.chain.nonces += [msgspec.json.decode(transaction.body.payload)["nonce"] for transaction in transactions]
        status, code = (403, self.refuse) if self.refuse else (202, "accepted")
        if not self.refuse:
            await self.chain.accept(ids)
        results = [{"id": id, "status": status, "code": code, "message": ""} for id in ids]
        return web.json_response({"accepted": len(ids), "results": results})

    async def _release(self, request: web.Request) -> web.Response:
        above = (await request.json())["above"]
        await self.chain.release(above)
        return web.json_response({"released": True}, status=202)

    async def _lease(self, request: web.Request) -> web.Response:
        self.leases.append((await request.json())["seconds"])
        return web.json_response({})


class FakeChain:
    """What the fake validators agree on."""

    def __init__(self, count: int, *, pool_is_proposed: bool = False) -> None:
        self.nodes = [FakeNode(f"validator-{number}", self) for number in range(1, count + 1)]
        self.id = ""
        self.height = 0
        self.pool: list[str] = []
        self.releases: list[int] = []
        self.blocks: list[int] = []
        self.nonces: list[int] = []
        self.dying: list[asyncio.Task[None]] = []
        self._pool_is_proposed = pool_is_proposed

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeChain]:
        async with AsyncExitStack() as stack:
            for node in self.nodes:
                await node.start()
                stack.push_async_callback(node.stop)
            yield self
        await asyncio.gather(*self.dying)

    async def accept(self, ids: list[str]) -> None:
        self.pool += ids
        for node in self.nodes:
            if not node.deaf:
                await node.tell({"type": "accepted", "ids": ids})
        if self._pool_is_proposed:
            await self._make_block()

    async def release(self, above: int) -> None:
        self.releases.append(above)
        if above >= self.height and self.pool:
            await self._make_block()

    async def _make_block(self) -> None:
        self.height += 1
        ids, self.pool = self.pool, []
        self.blocks.append(len(ids))
        block = f"{self.height:064x}"
        for node in self.nodes:
            await node.tell({"type": "block", "event": "adopted", "id": block, "height": self.height})
            if not node.stall:
                await node.tell({"type": "finalized", "height": self.height, "id": block, "ids": ids})
