"""The node's clock: wall-clock nanoseconds that never go back and never jump."""

from __future__ import annotations

import time

from microchain.consensus.types import Nanoseconds
from microchain.telemetry.wall_clock import read_anchor

__all__ = ["NodeClock"]


class NodeClock:
    """The wall clock when the node started plus the monotonic time since: a time daemon's step does not touch it.

    The engine's ``now`` and all telemetry stamps come from it. How far two nodes' clocks differ is measured on their
    link, not assumed.
    """

    def __init__(self) -> None:
        self._anchor = read_anchor()

    def now(self) -> Nanoseconds:
        """Nanoseconds since 1970."""
        return Nanoseconds(self._anchor + time.monotonic_ns())
