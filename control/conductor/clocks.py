"""The load generator's clock against the validators': exchanges over the API, as validators make them on their links.

On a host of its own the load generator has a clock of its own. Its times are put on the common clock by the ``peer``
points that are written here (docs/telemetry.md, *Several hosts*).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from microchain.client.load import now_ns
from microchain.client.node_client import NodeClient, NodeError, Unreachable
from microchain.network.offset import OffsetEstimator
from microchain.telemetry.recorder import Recorder

__all__ = ["FIRST_EXCHANGES", "ClockExchange"]

FIRST_EXCHANGES = 8
"""One after the other when the cell begins: the best of them counts."""
EXCHANGE_S = 1.0
"""Between the later ones; points are written as often as validators write theirs."""

_log = logging.getLogger(__name__)


class ClockExchange:
    """Measures the clocks of ``nodes``. Those of ``same_clock`` run on this host, and are measured once.

    Once is enough, for no process's clock steps while it runs, and it tells of a clock that was set between the starts.
    """

    def __init__(
        self,
        nodes: Mapping[str, NodeClient],
        recorder: Recorder,
        interval_s: float,
        same_clock: Collection[str] = (),
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self._nodes = nodes
        self._recorder = recorder
        self._interval_s = interval_s
        self._clock = clock
        self._estimators = {name: OffsetEstimator() for name in nodes}
        self._others = [name for name in nodes if name not in same_clock]
        self._silent: set[str] = set()

    async def begin(self) -> None:
        """Measure every validator's clock and write what came of it."""
        await asyncio.gather(*(self._begin(name) for name in self._nodes))
        self._report(self._nodes)

    async def keep(self) -> None:
        """Measure the clocks of other hosts again and again and write points, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name in self._others:
                group.create_task(self._exchange_regularly(name))
            group.create_task(self._report_regularly())

    def end(self) -> None:
        """Write what is known at last: it bounds the clocks until the end of the load."""
        self._report(self._others)

    async def _begin(self, name: str) -> None:
        for _ in range(FIRST_EXCHANGES):
            if not await self._exchange(name):
                return

    async def _exchange_regularly(self, name: str) -> None:
        while True:
            await asyncio.sleep(EXCHANGE_S)
            await self._exchange(name)

    async def _exchange(self, name: str) -> bool:
        """Make one exchange, if there is an answer; the analysis says so where a clock is not known well enough."""
        try:
            times = await self._nodes[name].exchange_time(self._clock)
        except (NodeError, Unreachable) as error:
            if name not in self._silent:
                self._silent.add(name)
                _log.warning("the clock of %s was not measured: %s", name, error)
            return False
        self._estimators[name].add(*times)
        return True

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            self._report(self._others)

    def _report(self, names: Collection[str]) -> None:
        now = self._clock()
        for name in names:
            offset = self._estimators[name].estimate(now)
            if offset is not None:
                self._recorder.peer(name, offset.rtt_ns, offset.offset_ns, offset.bound_ns, now)
