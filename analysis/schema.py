"""The measurements of docs/telemetry.md as the analysis reads them: tags, fields and their types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType

__all__ = ["SCHEMAS", "Schema", "find_series_problem"]


@dataclass(frozen=True)
class Schema:
    """One measurement: its own tag (besides run, cell, validator, host), required and optional fields by type."""

    tag: str | None
    required: dict[str, type]
    optional: dict[str, type] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, type]:
        """All fields by type, in the order in which nodes write them."""
        return self.required | self.optional

    @property
    def columns(self) -> list[str]:
        """Columns of the DataFrame, in order."""
        own = [self.tag] if self.tag else []
        return ["cell", "validator", "host", "time", *own, *self.fields]

    def allows(self, name: str, kind: type) -> bool:
        """Whether a field may have a value of this type (NoneType: be absent)."""
        wanted = self.required.get(name) or self.optional[name]
        if kind is NoneType:
            return name in self.optional
        return kind is wanted or (wanted is float and kind is int)


SCHEMAS: dict[str, Schema] = {
    "transaction": Schema("event", {"id": str}, {"local": bool, "height": int, "block": str}),
    "block": Schema(
        "event",
        {"id": str, "height": int, "slot": int, "epoch": int, "proposer": str, "size": int, "transactions": int},
        {"detail": str},
    ),
    "vote": Schema("event", {"voter": str, "target": str, "target_epoch": int, "source_epoch": int}),
    "messages": Schema(
        "phase", {"sent_messages": int, "sent_bytes": int, "received_messages": int, "received_bytes": int}
    ),
    "peer": Schema("peer", {"rtt_ns": int, "offset_ns": int, "bound_ns": int}),
    "board": Schema(
        None,
        {"cpu_percent": float, "load1": float, "memory_total_bytes": int, "memory_available_bytes": int},
        {
            "temperature_c": float,
            "frequency_hz": int,
            "throttled": int,
            "under_voltage_now": bool,
            "frequency_capped_now": bool,
            "throttled_now": bool,
            "temperature_limit_now": bool,
        },
    ),
    "process": Schema(None, {"cpu_user_s": float, "cpu_system_s": float, "rss_bytes": int, "threads": int}),
    "spool": Schema(None, {"points": int, "dropped": int, "shift_ns": int, "closed": bool}),
}
"""What docs/telemetry.md says; points of any other form are counted as bad. An empty text counts as absent."""


def find_series_problem(measurement: str, tags: Mapping[str, str]) -> str:
    """Say which tag a series of this (known) measurement lacks, or nothing."""
    own = SCHEMAS[measurement].tag
    return f"{measurement} without its tags" if not tags.get("host") or (own and not tags.get(own)) else ""
