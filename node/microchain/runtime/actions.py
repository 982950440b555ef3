"""Carries out an engine's actions on the node's network, ledger, telemetry and clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from microchain.api.service import NodeBusy
from microchain.consensus.interface import (
    BlockTrace,
    Outcome,
    Persist,
    Reply,
    ServeFinalized,
    TransactionTrace,
    VoteTrace,
)
from microchain.consensus.messages import FinalizedBlocks, FullBlock
from microchain.consensus.types import Height, NodeId
from microchain.ledger.ledger import Ledger, LedgerError
from microchain.ledger.writer import LedgerWriter
from microchain.network.mesh import Mesh
from microchain.runtime.clock import NodeClock
from microchain.runtime.hub import EventHub
from microchain.telemetry.recorder import Recorder

__all__ = ["NodeActions"]

log = logging.getLogger("microchain.runtime")

MAX_REQUESTS = 256
SERVED_BYTES = 1 << 20
_PUBLISHED = frozenset({"proposed", "verified", "adopted", "justified", "finalized", "abandoned"})


class NodeActions:
    """The surroundings of the engine in a running node (`microchain.runtime.driver.Surroundings`)."""

    def __init__(
        self,
        *,
        mesh: Mesh,
        ledger: Ledger,
        writer: LedgerWriter,
        recorder: Recorder,
        hub: EventHub,
        clock: NodeClock,
        names: Mapping[NodeId, str],
        reads: ThreadPoolExecutor,
        failed: Callable[[Exception], None],
    ) -> None:
        self.send = mesh.send
        self.broadcast = mesh.broadcast
        self.failed = failed
        self.accepted = 0
        self.finalized = 0
        self._mesh = mesh
        self._ledger = ledger
        self._writer = writer
        self._recorder = recorder
        self._hub = hub
        self._clock = clock
        self._names = names
        self._reads = reads
        self._loop = asyncio.get_running_loop()
        self._requests: dict[int, asyncio.Future[tuple[Outcome, ...]]] = {}
        self._next_request = 0
        self._serving: set[NodeId] = set()

    def punish(self, peer: NodeId, reason: str) -> None:
        """Disconnect a peer that broke the protocol."""
        log.warning("%s misbehaved: %s", self._names.get(peer, peer.hex()[:16]), reason)
        self._mesh.punish(peer, reason)

    def persist(self, persist: Persist, done: Callable[[int], None]) -> None:
        """Hand records to the ledger's writer."""
        self._writer.submit(persist, done)

    # --- clients' requests ---

    def open_request(self) -> tuple[int, asyncio.Future[tuple[Outcome, ...]]]:
        """Return a new request's number and the future that `reply` resolves; NodeBusy if too many are open."""
        if len(self._requests) >= MAX_REQUESTS:
            raise NodeBusy(f"{len(self._requests)} submissions wait for the engine; send again in a moment")
        self._next_request += 1
        future = self._requests[self._next_request] = self._loop.create_future()
        return self._next_request, future

    def close_request(self, request: int) -> None:
        """Forget a request; a reply that comes later goes nowhere."""
        self._requests.pop(request, None)

    def refuse_requests(self) -> None:
        """Tell all who wait that the node stops."""
        for future in self._requests.values():
            if not future.done():
                future.set_exception(NodeBusy("the node is stopping; send to another validator"))

    def reply(self, reply: Reply) -> None:
        """Answer a client."""
        future = self._requests.get(reply.request)
        if future is not None and not future.done():
            future.set_result(reply.outcomes)

    # --- peers that catch up ---

    def serve_finalized(self, request: ServeFinalized) -> None:
        """Read finalized blocks in a thread and send them; one answer at a time for each peer."""
        if request.peer in self._serving:
            self._mesh.counters.incidents["unserved-sync"] += 1
            return
        self._serving.add(request.peer)
        reading = self._loop.run_in_executor(self._reads, _read_finalized, self._ledger, request.from_height)
        reading.add_done_callback(lambda done: self._serve(request.peer, done))

    def _serve(self, peer: NodeId, reading: asyncio.Future[FinalizedBlocks]) -> None:
        self._serving.discard(peer)
        if reading.cancelled():
            return
        error = reading.exception()
        if isinstance(error, LedgerError):
            self.failed(error)
        elif error is not None:
            self.failed(RuntimeError(f"reading the ledger: {error!r}"))
        else:
            self._mesh.send(peer, reading.result())

    # --- telemetry and subscribers ---

    def trace(self, trace: TransactionTrace | BlockTrace | VoteTrace) -> None:
        """Record what happened and tell subscribers."""
        at = self._clock.now()
        self._recorder.trace(trace, at)
        if isinstance(trace, TransactionTrace):
            if trace.event == "accepted":
                self.accepted += len(trace.ids)
                self._publish_ids({"type": "accepted", "at": at}, trace.ids)
            elif trace.event == "finalized":
                self.finalized += len(trace.ids)
                block = trace.block.hex() if trace.block is not None else None
                self._publish_ids({"type": "finalized", "at": at, "height": trace.height, "id": block}, trace.ids)
        elif isinstance(trace, BlockTrace) and self._hub and trace.event in _PUBLISHED:
            self._hub.publish(
                {
                    "type": "block",
                    "event": trace.event,
                    "at": at,
                    "id": trace.id.hex(),
                    "height": trace.height,
                    "transactions": trace.transactions,
                    "proposer": self._names.get(trace.proposer, trace.proposer.hex()),
                }
            )

    def _publish_ids(self, event: dict[str, object], ids: Sequence[bytes]) -> None:
        if self._hub:
            self._hub.publish({**event, "ids": [id.hex() for id in ids]})


def _read_finalized(ledger: Ledger, from_height: Height) -> FinalizedBlocks:
    records = ledger.blocks_from(from_height, SERVED_BYTES)
    certificate = ledger.certificate_for(records[-1].height) if records else None
    blocks = tuple(FullBlock(record.header, record.transactions, record.votes) for record in records)
    return FinalizedBlocks(blocks, certificate or ())
