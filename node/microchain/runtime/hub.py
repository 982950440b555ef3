"""Chain events for those who subscribe through the API (docs/api.md)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from microchain.api.service import SubscriberDropped

__all__ = ["EventHub", "Subscription"]

MOST_BEHIND = 10_000


class Subscription(AsyncIterator[dict[str, Any]]):
    """The events since the subscription; ends when the node stops. SubscriberDropped: it has fallen behind."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self._dropped = False

    def put(self, event: dict[str, Any]) -> None:
        """Queue an event; a subscriber with too many unread loses all of them and its subscription."""
        if len(self._events) >= MOST_BEHIND:
            self._dropped = True
            self._events.clear()
            self.end()
        if not self._ended:
            self._events.append(event)
            self._arrived.set()

    def end(self) -> None:
        """Let the iteration end after what is queued."""
        self._ended = True
        self._arrived.set()

    async def __anext__(self) -> dict[str, Any]:
        while not self._events:
            if self._dropped:
                raise SubscriberDropped(f"{MOST_BEHIND} events were unread")
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()


class EventHub:
    """Hands each event to every subscriber; costs nothing while there is none."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return bool(self._subscriptions)

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Subscribe for the duration of the context."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def publish(self, event: dict[str, Any]) -> None:
        """Hand an event to all."""
        for subscription in self._subscriptions:
            subscription.put(event)

    def close(self) -> None:
        """End all subscriptions."""
        for subscription in self._subscriptions:
            subscription.end()
