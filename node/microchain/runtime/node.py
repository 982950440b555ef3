"""One running validator: its parts, how they start and how they stop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from microchain.api.server import create_app, server_context, start_server
from microchain.api.service import NodeBusy
from microchain.config import NodeConfig
from microchain.consensus.engines import create_engine
from microchain.consensus.genesis import Genesis, node_id
from microchain.consensus.interface import (
    Engine,
    MessageReceived,
    Outcome,
    PeerConnected,
    PeerDisconnected,
    Released,
    Restored,
    TransactionsSubmitted,
)
from microchain.consensus.messages import Message
from microchain.consensus.types import Height, NodeId
from microchain.crypto.suite import RealSuite
from microchain.ledger.ledger import Ledger, LedgerError
from microchain.ledger.writer import LedgerWriter
from microchain.network.mesh import Mesh
from microchain.runtime.actions import NodeActions
from microchain.runtime.clock import NodeClock
from microchain.runtime.driver import EngineDriver
from microchain.runtime.housekeeping import Housekeeping
from microchain.runtime.hub import EventHub
from microchain.runtime.report import build_metrics, build_status
from microchain.runtime.setup import NodeSetupError, load_setup
from microchain.runtime.stopping import StopCode
from microchain.runtime.work import WorkQueue
from microchain.telemetry.recorder import Recorder
from microchain.telemetry.shipper import Shipper
from microchain.telemetry.spool import Spool

__all__ = ["EngineFactory", "ListenError", "Node", "NodeSetupError"]

log = logging.getLogger("microchain.runtime")

EngineFactory = Callable[[Genesis, NodeId, Restored | None], Engine]


class ListenError(OSError):
    """An address that can't be listened on."""


class Node:
    """A validator (implements `microchain.api.service.NodeService` and the network's `LinkObserver`).

    ``Node(config)`` reads everything and raises what is wrong with it (see `load_setup`, and LedgerError); `start`
    needs a running event loop, `stop` ends all that it started. ``wait_stopped()`` tells when the node wants to stop.
    """

    mesh: Mesh
    writer: LedgerWriter
    driver: EngineDriver
    actions: NodeActions
    recorder: Recorder

    def __init__(self, config: NodeConfig, *, engine_factory: EngineFactory = create_engine) -> None:
        self.config = config
        self.name = config.node.name
        self._setup = load_setup(config)
        self.genesis = self._setup.genesis
        self.clock = NodeClock()
        self._committee = self.genesis.committee()
        self._names = {node_id(entry.signing_key): entry.name for entry in self.genesis.registry}
        config.node.data.mkdir(parents=True, exist_ok=True)
        is_new = not config.ledger_path.exists()
        self.ledger = Ledger(config.ledger_path, self.genesis.chain_id(), committee=self._committee)
        try:
            restored = None if is_new else self.ledger.restore()
            self.engine = engine_factory(self.genesis, self._setup.identity, restored)
        except BaseException:
            self.ledger.close()
            raise
        self._hub = EventHub()
        self._started_at = time.monotonic()
        self._connected = {self._setup.identity}
        self._running = False
        self.shipper: Shipper | None = None
        self._runner: web.AppRunner | None = None

    # --- life ---

    async def start(self) -> None:
        """Start all parts; ListenError if an address is taken (then nothing is left running)."""
        loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[StopCode] = loop.create_future()
        self._reads = ThreadPoolExecutor(1, thread_name_prefix="ledger-reader")
        telemetry = self.config.telemetry
        self.recorder = Recorder(
            Spool(self.config.spool_path, max_bytes=telemetry.max_spool_bytes),
            run=telemetry.run or self.genesis.run_id[:12],
            cell=telemetry.cell or "none",
            validator=self.name,
            host=telemetry.host or "localhost",
            sample=telemetry.sample,
            names=self._names,
        )
        self.writer = LedgerWriter(self.ledger, loop, self._storage_failed)
        self.mesh = Mesh(
            genesis=self.genesis,
            identity=self._setup.identity,
            listen=self.config.listen.peer,
            tls=self._setup.tls,
            clock=self.clock.now,
            observer=self,
        )
        self.actions = NodeActions(
            mesh=self.mesh,
            ledger=self.ledger,
            writer=self.writer,
            recorder=self.recorder,
            hub=self._hub,
            clock=self.clock,
            names=self._names,
            reads=self._reads,
            failed=self._failed,
        )
        work = WorkQueue(RealSuite(self.genesis.parameters.signature), self._setup.keyring)
        self.driver = EngineDriver(self.engine, self.clock, work, self.actions)
        self._housekeeping = Housekeeping(self, self._reads)
        try:
            await self._open()
        except BaseException:
            await self.stop()
            raise
        self._running = True

    async def _open(self) -> None:
        """Let the engine run, then open the doors."""
        self.driver.start()
        try:
            await self.mesh.start()
        except OSError as error:
            raise _explain(error, "listen.peer", self.config.listen.peer) from None
        keys, api = self.config.node.keys, self.config.listen.api
        context = server_context(keys / "tls.crt", keys / "tls.key")
        try:
            self._runner, self.api_port = await start_server(
                create_app(self, self._setup.token), api.host, api.port, context
            )
        except OSError as error:
            raise _explain(error, "listen.api", api) from None
        self._housekeeping.start()
        if self.config.influx is not None:
            self.shipper = Shipper(self.config.influx, self.config.node.data)
            self.shipper.start()

    async def stop(self) -> None:
        """Stop all parts in an order in which none misses another; the ledger and the spool are complete after it."""
        self._running = False
        self.driver.stop()
        self.actions.refuse_requests()
        self._hub.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._housekeeping.stop()
        await self.mesh.close()
        self.recorder.messages(self.mesh.counters.phases, self.clock.now())
        await asyncio.to_thread(self.writer.close)
        await asyncio.to_thread(self._reads.shutdown)
        await asyncio.to_thread(self.recorder.close, self.clock.now())
        self.ledger.close()
        if self.shipper is not None:
            await self.shipper.stop()

    async def wait_stopped(self) -> StopCode:
        """Wait until somebody or something wants the node to stop."""
        return await asyncio.shield(self._stopped)

    def request_stop(self, code: StopCode, why: str) -> None:
        """Make `wait_stopped` return; the first reason counts."""
        if not self._stopped.done():
            log.log(logging.INFO if code is StopCode.DONE else logging.ERROR, "stopping: %s", why)
            self._stopped.set_result(code)

    def _storage_failed(self, error: LedgerError) -> None:
        self.driver.stop()
        self.request_stop(StopCode.STORAGE, f"nothing can be stored any more: {error}")

    def _failed(self, error: Exception) -> None:
        if isinstance(error, LedgerError):
            self._storage_failed(error)
            return
        log.error("the engine failed", exc_info=error)
        self.request_stop(StopCode.ENGINE, f"the engine failed: {error!r}")

    # --- what the API asks ---

    async def submit(self, transactions: Sequence[bytes]) -> tuple[Outcome, ...]:
        """Hand transactions to the engine and wait for the outcomes; NodeBusy if it can't take them."""
        if not self._running:
            raise NodeBusy("the node is starting or stopping; send again in a moment, or to another validator")
        if not self.driver.has_room:
            raise NodeBusy("the node has more to do than it can keep up with; send again in a moment")
        request, outcomes = self.actions.open_request()
        try:
            self.driver.post(TransactionsSubmitted(request, tuple(transactions)))
            return await outcomes
        finally:
            self.actions.close_request(request)

    def release(self, above: int | None = None) -> None:
        """Let the engine propose what is pooled once."""
        self.driver.post(Released(None if above is None else Height(above)))

    def extend_lease(self, seconds: float) -> None:
        """Let the node run for so many seconds more, counted from now."""
        self._housekeeping.extend_lease(seconds)

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Subscribe to chain events."""
        with self._hub.subscribe() as subscription:
            yield subscription

    def now(self) -> int:
        """The node's clock, ns since 1970."""
        return self.clock.now()

    def status(self) -> dict[str, Any]:
        """The body of GET /v1/status."""
        return build_status(self)

    def metrics(self) -> dict[str, float]:
        """Counters and gauges by Prometheus name."""
        return build_metrics(self)

    def is_ready(self) -> bool:
        """Whether the node runs and is connected to more than two thirds of the weight, counting itself."""
        members = self._committee.by_id
        mask = sum(1 << members[id].index for id in self._connected if id in members)
        return self._running and self._committee.is_supermajority(mask)

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started_at

    # --- what the links say ---

    def connected(self, peer: NodeId) -> None:
        self._connected.add(peer)
        self.driver.post(PeerConnected(peer))

    def disconnected(self, peer: NodeId) -> None:
        self._connected.discard(peer)
        self.driver.post(PeerDisconnected(peer))

    def received(self, peer: NodeId, message: Message, size: int) -> None:
        self.driver.post(MessageReceived(peer, message), size)

    async def room(self) -> None:
        await self.driver.room()


def _explain(error: OSError, key: str, address: str) -> ListenError:
    why = os.strerror(error.errno) if error.errno else str(error)
    return ListenError(error.errno, f"cannot listen on {address} ({key}): {why}")
