"""How a node's process manages memory."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol

import pytest
from microchain.runtime.memory import shrink_tls_buffers


def test_a_tls_connection_receives_into_a_small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SSLProtocol, "max_size", SSLProtocol.max_size)
    shrink_tls_buffers()

    async def receive_size() -> int:
        loop = asyncio.get_running_loop()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        return len(
            SSLProtocol(loop, asyncio.Protocol(), context, loop.create_future(), server_side=True).get_buffer(-1)
        )

    assert asyncio.run(receive_size()) == 64 << 10
