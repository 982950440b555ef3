"""Subscriptions to chain events."""

from __future__ import annotations

import pytest
from microchain.api.service import SubscriberDropped
from microchain.runtime.hub import MOST_BEHIND, EventHub


async def test_every_subscriber_gets_every_event_since_it_subscribed() -> None:
    hub = EventHub()
    assert not hub
    hub.publish({"n": 0})
    with hub.subscribe() as first:
        hub.publish({"n": 1})
        with hub.subscribe() as second:
            hub.publish({"n": 2})
            assert await anext(second) == {"n": 2}
        hub.publish({"n": 3})
        hub.close()
        assert [event async for event in first] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert not hub


async def test_a_subscriber_that_falls_behind_is_dropped() -> None:
    hub = EventHub()
    with hub.subscribe() as slow:
        for number in range(MOST_BEHIND + 1):
            hub.publish({"n": number})
        hub.publish({"n": -1})
        with pytest.raises(SubscriberDropped):
            await anext(slow)
