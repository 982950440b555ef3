"""How a node's process manages memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from asyncio.sslproto import SSLProtocol

import pytest
from microchain.runtime.memory import shrink_tls_buffers


def test_tls_connections_receive_into_a_small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SSLProtocol.max_size > 64 << 10, "asyncio asks for less by itself now: the adjustment is needless"
    monkeypatch.setattr(SSLProtocol, "max_size", SSLProtocol.max_size)
    shrink_tls_buffers()
    assert SSLProtocol.max_size == 64 << 10


_HOLES = """
import ctypes, os
from microchain.runtime.memory import give_back, tune_allocator

def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

tune_allocator()
blocks = [bytearray(40_000) for _ in range(1000)]
for index in range(len(blocks) - 1):  # the last one keeps the heap's end where it is
    if index % 4:
        blocks[index] = None
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc: there is no malloc_trim")
def test_freed_memory_between_blocks_in_use_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 20_000_000  # of 30 MB
