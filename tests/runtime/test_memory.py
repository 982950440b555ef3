"""How a node's process manages memory."""

from __future__ import annotations

from asyncio.sslproto import SSLProtocol

import pytest
from microchain.runtime.memory import shrink_tls_buffers


def test_tls_connections_receive_into_a_small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SSLProtocol.max_size > 64 << 10, "asyncio asks for less by itself now: the adjustment is needless"
    monkeypatch.setattr(SSLProtocol, "max_size", SSLProtocol.max_size)
    shrink_tls_buffers()
    assert SSLProtocol.max_size == 64 << 10
