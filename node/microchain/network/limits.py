"""Limits in time: how fast a peer may send, and how long to wait before a link is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff", "Penalty", "TokenBucket"]


class TokenBucket:
    """Allows ``rate`` units a second and bursts of ``burst``; who takes more has to wait, not to fail."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at = burst, now

    def take(self, amount: float, now: float) -> float:
        """Take ``amount`` and return the seconds to wait until it is paid for (0.0 within the allowance)."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - amount
        self._at = now
        return 0.0 if self._tokens >= 0 else -self._tokens / self._rate


class Backoff:
    """Exponential delays between attempts, with jitter so that nodes that failed together do not retry together."""

    def __init__(self, first: float, most: float, jitter: Callable[[], float] = random.random) -> None:
        self._first, self._most, self._jitter = first, most, jitter
        self._delay = first

    def next(self) -> float:
        """Seconds to wait now: between half and all of a delay that doubles each time."""
        delay, self._delay = self._delay, min(self._most, 2 * self._delay)
        return delay * (0.5 + self._jitter() / 2)

    def reset(self) -> None:
        """Start again from the first delay, after a success."""
        self._delay = self._first


class Penalty:
    """How long a peer that broke the protocol is refused: doubled each time, forgotten after good behaviour."""

    def __init__(self, first: float = 5.0, most: float = 300.0, forget_after: float = 600.0) -> None:
        self._first, self._most, self._forget_after = first, most, forget_after
        self._delay = first
        self._until = 0.0

    def impose(self, now: float) -> float:
        """Refuse the peer from ``now`` on; returns for how many seconds."""
        if now > self._until + self._forget_after:
            self._delay = self._first
        delay, self._delay = self._delay, min(self._most, 2 * self._delay)
        self._until = now + delay
        return delay

    def remaining(self, now: float) -> float:
        """Seconds for which the peer is still refused, 0.0 if it is not."""
        return max(0.0, self._until - now)
