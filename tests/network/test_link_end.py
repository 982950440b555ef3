"""How a link ends when the node stops at the same moment."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from microchain.consensus.messages import Message
from microchain.consensus.types import Digest, NodeId
from microchain.network.counters import TrafficCounters
from microchain.network.frames import LinkLimits
from microchain.network.hello import CloseReason, LinkError
from microchain.network.link import Link, LinkContext


class _SlowSocket:
    """A WebSocket whose peer says nothing, and whose reader takes a moment to leave."""

    def __init__(self) -> None:
        self.reading = asyncio.Event()
        self.leaving = asyncio.Event()

    def get_extra_info(self, name: str) -> None:
        return None

    async def receive(self) -> None:
        self.reading.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.leaving.set()
            await asyncio.sleep(0.01)

    async def send_bytes(self, data: bytes) -> None:
        return None

    async def close(self, *, code: int, message: bytes) -> None:
        return None


class _Observer:
    def connected(self, peer: NodeId) -> None: ...

    def disconnected(self, peer: NodeId) -> None: ...

    def received(self, peer: NodeId, message: Message, size: int) -> None: ...

    async def room(self) -> None: ...


async def _ignore(link: Link) -> None:
    return None


async def test_a_link_cancelled_while_it_ends_says_that_it_has_ended() -> None:
    websocket = _SlowSocket()
    context = LinkContext(
        chain_id=Digest(bytes(32)),
        identity=NodeId(bytes(32)),
        limits=LinkLimits(message_bytes=1 << 20),
        clock=time.time_ns,
        observer=_Observer(),
        counters=TrafficCounters(),
    )
    link = Link(cast(Any, websocket), NodeId(b"\1" * 32), context)
    running = asyncio.create_task(link.run(_ignore))
    await websocket.reading.wait()
    link.fail(LinkError(CloseReason.STOPPING, "the node stops"))
    await websocket.leaving.wait()
    running.cancel()
    async with asyncio.timeout(10):
        await link.ended.wait()
    await asyncio.gather(running, return_exceptions=True)
    await asyncio.sleep(0.02)
