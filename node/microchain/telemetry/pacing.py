"""When a shipper sends, and how much: back-off after failures, batches that shrink to what a server takes. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from email.utils import parsedate_to_datetime

__all__ = ["MAX_LINES", "Backoff", "BatchLimit", "parse_retry_after"]

MAX_LINES = 5000
"""Lines in one request, as InfluxDB's documentation recommends."""
MAX_RETRY_AFTER_S = 300.0
"""A server's Retry-After counts up to this."""
_MOST_DOUBLINGS = 16


class Backoff:
    """Exponential back-off with full jitter: after the n-th failure in a row 0 to ``base_s`` · 2^n seconds.

    ``base_s`` comes on top, so that a server is never asked at once again; the drawn part is at most ``most_s``.
    ``draw`` returns 0 to 1, ``clock`` monotonic seconds.
    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        base_s: float = 1.0,
        most_s: float = 30.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._base_s, self._most_s = base_s, most_s
        self._draw = draw
        self._failures = 0
        self._ready_at = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether the next attempt may be made."""
        return self._failures == 0 or self._clock() >= self._ready_at

    def succeeded(self) -> None:
        """Forget all failures."""
        self._failures = 0

    def failed(self, retry_after_s: float | None = None) -> float:
        """Count a failure; return the seconds until the next attempt, at least those that the server asked for."""
        self._failures = min(self._failures + 1, _MOST_DOUBLINGS)
        drawn = self._draw() * min(self._most_s, self._base_s * 2.0**self._failures)
        asked = min(max(retry_after_s or 0.0, 0.0), MAX_RETRY_AFTER_S)
        delay = max(self._base_s, asked) + drawn
        self._ready_at = self._clock() + delay
        return delay


class BatchLimit:
    """How many lines the next batch may have.

    A batch that was too large or too slow halves the limit, which grows back step by step. A refused batch holds a bad
    line: it is looked for by bisection from the cursor on, so that every line but the bad one is delivered, with at
    most 2 · log2(lines) + 2 requests for each.
    """

    def __init__(self, most: int = MAX_LINES) -> None:
        self._most = self._limit = most
        self._suspect = 0
        """So many lines from the cursor on hold a bad one; 0: none is known."""

    @property
    def lines(self) -> int:
        """The limit, at least 1."""
        return max(1, min(self._limit, self._suspect // 2)) if self._suspect else self._limit

    def passed(self, lines: int) -> None:
        """The cursor has moved behind ``lines``: they were delivered, or the bad one was set aside."""
        self._suspect = max(0, self._suspect - lines)
        if not self._suspect:
            self._limit = min(self._most, self._limit + max(1, self._limit // 8))

    def refused(self, lines: int) -> None:
        """A batch holds a bad line; if it has one line only, that is it."""
        self._suspect = lines

    def too_much(self, lines: int) -> None:
        """A batch was too large for the server, or too slow on its way."""
        self._limit = max(1, lines // 2)


def parse_retry_after(text: str, now: float) -> float | None:
    """Return the seconds that a Retry-After header (seconds, or a date) asks for; None if it makes no sense.

    ``now`` is the time in seconds since 1970. Source: RFC 9110, 10.2.3.
    """
    text = text.strip()[:64]
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
