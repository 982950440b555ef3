"""What the workloads report of themselves in ``outcome.json``; the figures proper come from the spools."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["RateSummary", "RoundsSummary"]


class RoundsSummary(Struct, kw_only=True):
    """Rounds that ended, and how often a batch had to be sent again."""

    measured: int = 0
    warmup: int = 0
    transactions: int = 0
    retries: int = 0


class RateSummary(Struct, kw_only=True):
    """What became of an open-loop load. Moments in ns since 1970 on the client's clock.

    Latencies are from the *scheduled* moment to finality on the first and on all validators, in ms, of those that were
    scheduled from ``measured_from_ns`` on; None where nothing was final. ``finalized_per_s`` counts what was final on
    all validators between the measured start and end, and is a lower bound where the load itself was lower.
    """

    started_ns: int
    measured_from_ns: int
    measured_to_ns: int
    submitted: int
    accepted: int
    finalized: int
    finalized_in_window: int
    not_accepted: dict[str, int]
    retries: int
    finalized_per_s: float
    lateness_p99_ms: float | None
    first_p50_ms: float | None
    first_p99_ms: float | None
    all_p50_ms: float | None
    all_p99_ms: float | None
