"""What the validators report while a cell runs: event streams, and what the conductor waits for in them."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Protocol

from microchain.client.node_client import NodeClient, NodeError, Unreachable

from control.errors import CheckFailed

__all__ = ["CellFailed", "Expectation", "FinalityLog", "Listener", "Watch", "short_id"]

_ID_DIGITS = 16


class CellFailed(CheckFailed):
    """The cell can't be completed; the message is the reason in ``outcome.json``."""


class Listener(Protocol):
    """Told of each event with transaction ids: by which validator, the short ids, when (its clock, ns), the block."""

    def report(self, name: str, ids: Iterable[str], at: int, block: str) -> None: ...


def short_id(id: str | bytes) -> str:
    """Return the first 16 hex digits of an id: enough to tell the transactions of a run apart."""
    return (id.hex() if isinstance(id, bytes) else id)[:_ID_DIGITS]


class Expectation:
    """Waits until every validator has reported every id. ``latest`` is the newest report (the validators' clocks)."""

    def __init__(self, names: Iterable[str], ids: Iterable[str]) -> None:
        expected = frozenset(ids)
        self._missing = {name: set(expected) for name in names}
        self._done = asyncio.Event()
        self.latest = 0
        self.blocks: set[str] = set()

    def report(self, name: str, ids: Iterable[str], at: int, block: str) -> None:
        missing = self._missing.get(name)
        if not missing:
            return
        before = len(missing)
        missing.difference_update(ids)
        if len(missing) == before:
            return
        self.latest = max(self.latest, at)
        if block:
            self.blocks.add(block)
        if not missing and not any(self._missing.values()):
            self._done.set()

    async def wait(self) -> None:
        await self._done.wait()

    def lacking(self) -> str:
        """Say which validators lack how many."""
        return ", ".join(f"{name} lacks {len(ids)}" for name, ids in sorted(self._missing.items()) if ids)


class FinalityLog:
    """When each of many transactions was final: on the first and on the last of the validators (ns, their clocks)."""

    def __init__(self, names: Sequence[str], ids: Sequence[str]) -> None:
        self._index = {id: index for index, id in enumerate(ids)}
        self._names = {name: 1 << bit for bit, name in enumerate(names)}
        self._everyone = (1 << len(names)) - 1
        self._seen = [0] * len(ids)
        self.first = array("q", bytes(8 * len(ids)))
        self.last = array("q", bytes(8 * len(ids)))
        self.complete = 0
        self._more = asyncio.Event()

    def report(self, name: str, ids: Iterable[str], at: int, block: str) -> None:
        bit = self._names[name]
        for id in ids:
            index = self._index.get(id)
            if index is None or self._seen[index] & bit:
                continue
            seen = self._seen[index]
            self._seen[index] = seen | bit
            self.first[index] = min(self.first[index] or at, at)
            self.last[index] = max(self.last[index], at)
            if seen | bit == self._everyone:
                self.complete += 1
                self._more.set()

    async def wait_more(self) -> None:
        """Return when another transaction is final on all validators."""
        self._more.clear()
        await self._more.wait()

    def is_complete(self, index: int) -> bool:
        """Whether all validators reported the transaction final."""
        return self._seen[index] == self._everyone


class Watch:
    """Follows all validators' event streams. ``head`` is the greatest height that any of them adopted."""

    def __init__(self, nodes: dict[str, NodeClient]) -> None:
        self._nodes = nodes
        self._subscribed = 0
        self._all_subscribed = asyncio.Event()
        self._stopping = False
        self.head = 0
        self.accepted: Listener | None = None
        self.finalized: Listener | None = None

    async def follow(self, name: str) -> None:
        """Read one validator's events until cancelled; CellFailed when the stream ends."""
        try:
            async with self._nodes[name].events(("accepted", "block", "finalized")) as events:
                await self._read(name, events)
        except (NodeError, Unreachable) as error:
            if not self._stopping:
                raise CellFailed(f"{name} is lost: {error}") from None

    async def wait_subscribed(self) -> None:
        await self._all_subscribed.wait()

    def stop(self) -> None:
        """From now on streams may end: what was to be seen was seen."""
        self._stopping = True

    async def _read(self, name: str, events: AsyncIterator[dict[str, Any]]) -> None:
        handlers: dict[str, Callable[[str, dict[str, Any]], None]] = {
            "subscribed": self._on_subscribed,
            "accepted": self._on_accepted,
            "block": self._on_block,
            "finalized": self._on_finalized,
        }
        try:
            async for event in events:
                handler = handlers.get(event["type"])
                if handler is not None:
                    handler(name, event)
        except (KeyError, TypeError, ValueError) as error:
            raise CellFailed(f"{name} sent an event that makes no sense: {type(error).__name__}: {error}") from None

    def _on_subscribed(self, name: str, event: dict[str, Any]) -> None:
        self.head = max(self.head, event["head"]["height"])
        self._subscribed += 1
        if self._subscribed == len(self._nodes):
            self._all_subscribed.set()

    def _on_accepted(self, name: str, event: dict[str, Any]) -> None:
        if self.accepted is not None:
            self.accepted.report(name, map(short_id, event["ids"]), event["at"], "")

    def _on_block(self, name: str, event: dict[str, Any]) -> None:
        if event["event"] == "adopted":
            self.head = max(self.head, event["height"])

    def _on_finalized(self, name: str, event: dict[str, Any]) -> None:
        if self.finalized is not None and event["ids"]:
            self.finalized.report(name, map(short_id, event["ids"]), event["at"], event["id"])
