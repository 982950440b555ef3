"""What the network layer counts: messages and bytes of each phase, and each thing that went wrong."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

__all__ = ["PhaseCounters", "TrafficCounters"]


class PhaseCounters(Struct):
    """Messages and their encoded bytes (without framing and TLS) since the node started."""

    sent_messages: int = 0
    sent_bytes: int = 0
    received_messages: int = 0
    received_bytes: int = 0


class TrafficCounters:
    """Totals over all links. ``incidents`` counts by a short kebab-case name, e.g. ``bad-frame``."""

    def __init__(self) -> None:
        self.phases: dict[str, PhaseCounters] = {
            phase: PhaseCounters() for phase in ("transactions", "proposal", "voting", "anti-entropy", "sync", "link")
        }
        self.incidents: Counter[str] = Counter()

    def sent(self, phase: str, size: int) -> None:
        """Count a message handed to a link."""
        counters = self.phases[phase]
        counters.sent_messages += 1
        counters.sent_bytes += size

    def received(self, phase: str, size: int) -> None:
        """Count a message that came from a peer."""
        counters = self.phases[phase]
        counters.received_messages += 1
        counters.received_bytes += size
