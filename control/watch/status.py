"""What a validator says of itself (``GET /v1/status``, docs/api.md), as far as it is shown; hostile until it fits."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["Away", "Board", "Peer", "Place", "Sample", "Status"]

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Percent = Annotated[float, Meta(ge=0, le=100)]
_Id = Annotated[str, Meta(max_length=64)]


class Place(Struct, frozen=True):
    """A block by its height."""

    height: _Count


class Peer(Struct, frozen=True):
    """Another validator; ``bound_ns`` is how far off the measured offset between the clocks may be."""

    connected: bool
    bound_ns: _Count | None = None


class Board(Struct, frozen=True):
    """The host's sensors; None where it has none."""

    cpu_percent: _Percent | None = None
    temperature_c: Annotated[float, Meta(ge=-100, le=1000)] | None = None
    under_voltage_now: bool = False
    frequency_capped_now: bool = False
    throttled_now: bool = False
    temperature_limit_now: bool = False


class Status(Struct, frozen=True):
    """One answer; ``cpu_s`` and ``finalized_transactions_total`` count from the node's start."""

    chain_id: _Id
    ready: bool
    syncing: bool
    observing: bool
    head: Place
    finalized: Place
    rss_bytes: _Count
    cpu_s: Annotated[float, Meta(ge=0, le=1e12)]
    finalized_transactions_total: _Count
    peers: Annotated[tuple[Peer, ...], Meta(max_length=10_000)]
    board: Board


class Sample(Struct, frozen=True):
    """A status and the moment it came, in seconds of a clock that never goes back."""

    at: float
    status: Status


class Away(Struct, frozen=True):
    """Why a validator gave no status."""

    reason: str
