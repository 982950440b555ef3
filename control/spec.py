"""What an experiment is (docs/experiments.md): its settings with units and limits."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

__all__ = [
    "MAX_BLOCK_BYTES",
    "MAX_COMMITTEE",
    "MIN_BLOCK_BYTES",
    "MIN_COMMITTEE",
    "MIN_TRANSACTION_BYTES",
    "EngineName",
    "Entry",
    "Experiment",
    "HostSelection",
    "Name",
    "RateWorkload",
    "RoundsWorkload",
    "Settings",
    "Size",
    "TelemetrySettings",
    "Workload",
    "parse_size",
    "shown_size",
]

MIN_COMMITTEE = 4
MAX_COMMITTEE = 128
MAX_BLOCK_BYTES = 8 << 20
MIN_BLOCK_BYTES = 1 << 10
MIN_TRANSACTION_BYTES = 640
"""An RSA envelope with an empty payload takes about 350 bytes, a reading of the host's sensors up to 250."""

Entry = Literal["spread", "one"]
EngineName = Literal["microchain", "pbft"]
HostSelection = Literal["boards", "desktops", "all"]
Size = int | str


class Settings(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A mapping of known keys, no others."""


class RoundsWorkload(Settings, tag="rounds", tag_field="kind", frozen=True, kw_only=True):
    """One block at a time, phase by phase. ``transactions`` None: as many as fill a block."""

    rounds: Annotated[int, Meta(ge=1, le=10_000)]
    warmup: Annotated[int, Meta(ge=0, le=1_000)] = 3
    transactions: Annotated[int, Meta(ge=1)] | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    entry: Entry = "one"


class RateWorkload(Settings, tag="rate", tag_field="kind", frozen=True, kw_only=True):
    """Open loop: ``rate`` transactions a second, whatever the validators answer."""

    rate: Annotated[float, Meta(gt=0, le=100_000)]
    duration_s: Annotated[float, Meta(gt=0, le=86_400)]
    warmup_s: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    drain_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    entry: Entry = "spread"


Workload = RoundsWorkload | RateWorkload


class TelemetrySettings(Settings, frozen=True, kw_only=True):
    """``sample``: the share of transactions that is traced; ``interval_s`` between counters."""

    sample: Annotated[float, Meta(gt=0, le=1)] = 1.0
    interval_s: Annotated[float, Meta(ge=0.1, le=60)] = 1.0


Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,47}$")]


class Experiment(Settings, frozen=True, kw_only=True):
    """A checked experiment: sizes in bytes, each swept value a tuple. ``parameters`` are the overrides only.

    ``hosts``: on which hosts the validators run.
    """

    name: Name
    description: str
    engine: tuple[EngineName, ...]
    validators: tuple[int, ...]
    block_bytes: tuple[int, ...]
    transaction_bytes: tuple[int, ...]
    workload: Workload
    repeats: int
    seed: int
    devices: int
    parameters: dict[str, Any]
    telemetry: TelemetrySettings
    hosts: HostSelection = "boards"


_SIZE = re.compile(r"^(\d{1,10})\s*(?:(B)|(K|KB|KiB)|(M|MB|MiB))?$", re.IGNORECASE)


def parse_size(value: Size) -> int | None:
    """Return bytes of ``131072``, ``"128K"`` or ``"2 MiB"`` (K and M are 1024 and 1024²); None if it is no size."""
    if isinstance(value, int):
        return value if value >= 0 else None
    match = _SIZE.match(value.strip())
    if match is None:
        return None
    return int(match[1]) << (10 if match[3] else 20 if match[4] else 0)


def shown_size(size: int) -> str:
    """Return a size the way ids and tables show it: 131072 as ``128K``, 2097152 as ``2M``, 1000 as ``1000``."""
    for shift, suffix in ((20, "M"), (10, "K")):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{suffix}"
    return str(size)
