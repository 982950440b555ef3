"""What the API needs of a running node; the runtime implements it, tests use a small stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import Engine, Outcome
from microchain.ledger.ledger import Ledger

__all__ = ["NodeBusy", "NodeService", "SubscriberDropped"]


class NodeBusy(RuntimeError):
    """The node can take nothing now (starting, stopping or overloaded); the client should retry later."""


class SubscriberDropped(RuntimeError):
    """The subscriber has too many unread events; it gets none any more."""


class NodeService(Protocol):
    """One running node as its API sees it."""

    name: str
    genesis: Genesis
    engine: Engine
    ledger: Ledger

    async def submit(self, transactions: Sequence[bytes]) -> tuple[Outcome, ...]:
        """Hand transactions to the engine and wait for the outcomes; NodeBusy if it can't take them."""
        ...

    def release(self, above: int | None = None) -> None:
        """Let the engine propose what is pooled once (workload ``rounds``); void if a block above ``above`` has any.

        POST /v1/release {"above": height}; without it, the head's height of now. See interface.Released.
        """
        ...

    def extend_lease(self, seconds: float) -> None:
        """Put off the moment at which the node stops itself."""
        ...

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[dict[str, Any]]]:
        """Subscribe to chain events (docs/api.md). The iteration ends when the node stops.

        SubscriberDropped for a subscriber that fell behind by 10,000 events.
        """
        ...

    def now(self) -> int:
        """The node's clock, which all its times are from: ns since 1970."""
        ...

    def status(self) -> dict[str, Any]:
        """The body of GET /v1/status."""
        ...

    def metrics(self) -> dict[str, float]:
        """Counters and gauges by Prometheus name (without the ``microchain_`` prefix)."""
        ...
