"""When does a frame arrive? Delay, jitter, loss and rate of every host's link, and a medium that some share. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from msgspec import Struct

from emulator.state import Link

__all__ = ["LinkModel", "Plan", "WaitingFrames"]

_BUFFER_S = 0.2  # what a link's sender holds back at most, as a WLAN access point does; more is lost
_FRAME_OVERHEAD = 38  # bytes of Ethernet: preamble, header, check sequence, gap
_MOST_WAITING = 20_000


class Plan(Struct, frozen=True):
    """What the daemon does, ``links.json``: links by number of their interface on the bridge; ``serial`` grows."""

    serial: int
    links: dict[int, Link]
    shared_rate: float


class LinkModel:
    """Decides for each frame between two ports, in the order in which they come.

    A frame goes up its sender's link and down its receiver's; each delays it, may lose it, and is busy while it sends.
    Links that are ``shared`` also occupy the common medium, twice for a frame between two of them, as over an access
    point. Frames between the same two ports never overtake one another. ``now`` and results are seconds of any clock.
    """

    def __init__(self, plan: Plan, random: Callable[[], float], exponential: Callable[[float], float]) -> None:
        """``random`` returns 0…1; ``exponential`` a value whose mean is the inverse of what it is given."""
        self._links: Mapping[int, Link] = plan.links
        self._shared_rate = plan.shared_rate
        self._random, self._exponential = random, exponential
        self._busy_until: dict[tuple[int, str], float] = {}
        self._last: dict[tuple[int, int], float] = {}

    def arrival(self, now: float, source: int, target: int, payload_bytes: int) -> float | None:
        """Return when the frame arrives, None if it is lost."""
        bits = (payload_bytes + _FRAME_OVERHEAD) * 8
        time: float | None = now
        for port, way in ((source, "up"), (target, "down")):
            link = self._links.get(port)
            if link is None or time is None:
                continue
            if link.loss and self._random() < link.loss:
                return None
            if link.rate:
                time = self._send(time, (port, way), bits / link.rate)
            if time is not None and link.shared and self._shared_rate:
                time = self._send(time, (0, "medium"), bits / self._shared_rate)
            if time is not None:
                time += link.delay_s + (self._exponential(1 / link.jitter_s) if link.jitter_s else 0.0)
        if time is not None:
            time = self._last[source, target] = max(time, self._last.get((source, target), 0.0))
        return time

    def _send(self, time: float, wire: tuple[int, str], duration_s: float) -> float | None:
        free = max(self._busy_until.get(wire, 0.0), time)
        if free - time > _BUFFER_S:
            return None
        self._busy_until[wire] = free + duration_s
        return free + duration_s


class WaitingFrames:
    """Frames on their way, by time of arrival; bounded."""

    def __init__(self, most: int = _MOST_WAITING) -> None:
        self._heap: list[tuple[float, int, int]] = []
        self._order = 0
        self._most = most

    def add(self, time: float, packet: int) -> bool:
        """Keep a packet's number until then; False if there are too many."""
        if len(self._heap) >= self._most:
            return False
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, packet))
        return True

    def due(self, now: float) -> list[int]:
        """Take out those whose time has come, in order."""
        packets = []
        while self._heap and self._heap[0][0] <= now:
            packets.append(heapq.heappop(self._heap)[2])
        return packets

    def next_time(self) -> float | None:
        return self._heap[0][0] if self._heap else None
