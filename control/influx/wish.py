"""What a server is to have, and the one place where names and durations are checked."""

from __future__ import annotations

import re

from msgspec import Struct

from control.errors import UsageError

__all__ = ["Wish", "check_wish"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_SHORTEST_S = 3600


class Wish(Struct, frozen=True, kw_only=True):
    """A bucket of an organisation on a server. 1.8 knows no organisation, and calls the bucket a database."""

    url: str
    org: str = "testbed"
    bucket: str = "microchain"
    retention_s: int | None = None
    """How long points are kept; 0 for ever, None as it is (a new bucket: for ever)."""
    ca: str = ""
    """Path of the authority's certificate, for https."""


def check_wish(wish: Wish) -> None:
    """UsageError for a name that InfluxDB or its query languages would stumble over, or a retention it refuses."""
    for what, name in (("an organisation", wish.org), ("a bucket", wish.bucket)):
        if not _NAME.fullmatch(name):
            raise UsageError(f"'{name}' is no name for {what}: take letters, digits, '.', '_' and '-', at most 63")
    if wish.retention_s and wish.retention_s < _SHORTEST_S:
        raise UsageError(
            f"a retention of {wish.retention_s} s is too short: InfluxDB takes an hour or more, or 0 for ever"
        )
