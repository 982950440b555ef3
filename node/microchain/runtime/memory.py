"""How the process manages memory: a board has little, and a validator allocates and frees all the time."""

from __future__ import annotations

import ctypes
import gc
from asyncio.sslproto import SSLProtocol

__all__ = ["give_back", "settle", "shrink_tls_buffers", "tune_allocator"]

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_TRIM_THRESHOLD_BYTES = 256 << 10
_MMAP_THRESHOLD_BYTES = 1 << 20
_TLS_BUFFER_BYTES = 64 << 10


def tune_allocator() -> None:
    """Keep one heap for all threads, and give freed memory back: saves 3 MB of 65. Elsewhere than on glibc, nothing.

    By default glibc makes a heap for each thread, and raises the threshold to give memory back with each large block
    that was freed, so a node would keep what its busiest moment needed. Fixing one threshold fixes the other at
    128 KiB, and then each frame of that size would map memory and unmap it again: so it is set too.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)


def shrink_tls_buffers() -> None:
    """Give each TLS connection opened from now on 64 KiB to receive into, not 256: saves 2 MB with ten of them.

    As large is what each read allocates for one record of at most 16 KiB; 256 KiB are beyond glibc's threshold, so each
    read would map memory and unmap it again.
    """
    SSLProtocol.max_size = _TLS_BUFFER_BYTES


def give_back() -> None:
    """Give the system the free pages between blocks that are in use. Elsewhere than on glibc, nothing.

    Freed memory is given back by itself only from the heap's end. A node's messages come and go in all sizes, so holes
    gather below: 6 MB an hour with blocks of 128 KB, while what is in use stays the same.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def settle() -> None:
    """Call when all that lives as long as the process exists.

    The collector need not look at it again. And what the node makes hardly ever has cycles: at the default threshold
    collections took 1 % of the time, in pauses of up to 9 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
