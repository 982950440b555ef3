"""Events and actions as short text, for a person who replays a schedule."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["to_text"]

SHOWN_BYTES = 4
SHOWN_ITEMS = 4


def to_text(value: object) -> str:
    """Return a value with its byte strings cut to eight hexadecimal digits and its sequences to four items."""
    match value:
        case bytes():
            return value[:SHOWN_BYTES].hex() if value else "-"
        case tuple():
            more = f", … {len(value)}" if len(value) > SHOWN_ITEMS else ""
            return f"({', '.join(map(to_text, value[:SHOWN_ITEMS]))}{more})"
        case Struct():
            fields = (f"{name}={to_text(getattr(value, name))}" for name in value.__struct_fields__)
            return f"{type(value).__name__}({', '.join(fields)})"
    return str(value)
