"""The wall clock and the monotonic clock, read as one."""

from __future__ import annotations

import time

__all__ = ["read_anchor"]

_READINGS = 64


def read_anchor() -> int:
    """Return wall-clock time (ns since 1970) minus monotonic time (ns).

    The two can't be read at once: a process that is put aside between the readings gets an anchor that is wrong by
    that long, milliseconds on a busy machine. So the wall clock is read between two readings of the monotonic clock,
    many times, and the tightest one counts.
    """
    tightest = anchor = 0
    for reading in range(_READINGS):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        if reading == 0 or after - before < tightest:
            tightest, anchor = after - before, wall - (before + after) // 2
    return anchor
