"""The offset of a peer's clock, from the four timestamps of an exchange as in NTP (RFC 5905, section 8)."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

__all__ = ["DRIFT_PPM", "ClockOffset", "OffsetEstimator"]

DRIFT_PPM = 100
"""How far two clocks may drift apart, in millionths: two quartz crystals of ±50 ppm (a Raspberry Pi's are better)."""
_WINDOW = 64


class ClockOffset(Struct, frozen=True):
    """A peer's clock minus ours is ``offset_ns`` ± ``bound_ns``; ``rtt_ns`` is the sample's round trip."""

    offset_ns: int
    rtt_ns: int
    bound_ns: int


class _Sample(Struct, frozen=True):
    at: int
    offset: int
    rtt: int


class OffsetEstimator:
    """Keeps the last exchanges and answers with the one that bounds the offset best *now*.

    Half of a sample's round trip bounds its error, whatever the asymmetry of the path; as it ages, the clocks may
    drift by DRIFT_PPM of its age, which counts from its beginning (t1): they drift during the exchange too. The least
    sum of both is the bound.
    """

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=_WINDOW)

    def add(self, t1: int, t2: int, t3: int, t4: int) -> None:
        """Add an exchange: sent at t1 and answered at t4 on our clock; received at t2, answered at t3 on the peer's."""
        rtt = (t4 - t1) - (t3 - t2)
        if rtt >= 0 and t3 >= t2:
            self._samples.append(_Sample(t1, ((t2 - t1) + (t3 - t4)) // 2, rtt))

    def estimate(self, now: int) -> ClockOffset | None:
        """Return the best estimate at ``now`` on our clock, None before the first exchange."""
        best: ClockOffset | None = None
        for sample in self._samples:
            drift = max(0, now - sample.at) * DRIFT_PPM // 1_000_000 + 1
            bound = (sample.rtt + 1) // 2 + drift
            if best is None or bound < best.bound_ns:
                best = ClockOffset(sample.offset, sample.rtt, bound)
        return best
