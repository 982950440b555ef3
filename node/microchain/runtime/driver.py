"""Drives one engine: events in, one at a time and in order; actions out, in the order the engine gives them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from microchain.consensus.interface import (
    Action,
    BlockTrace,
    Broadcast,
    CancelTimer,
    Engine,
    Event,
    MessageReceived,
    Misbehaviour,
    Persist,
    Persisted,
    Reply,
    Send,
    ServeFinalized,
    SetTimer,
    TimerFired,
    TransactionTrace,
    VoteTrace,
    Work,
)
from microchain.consensus.messages import Message
from microchain.consensus.types import Nanoseconds, NodeId, ProtocolError
from microchain.runtime.clock import NodeClock
from microchain.runtime.work import WorkQueue

__all__ = ["EngineDriver", "Surroundings"]

log = logging.getLogger("microchain.runtime")

SLICE_S = 0.004
"""The longest that events and work hold the event loop; then sockets and timers have their turn."""
# What may wait before the network stops reading (each peer's link may add one message to it):
EVENTS_FULL = 512
EVENT_BYTES_FULL = 32 << 20
WRITES_FULL = 256
SIGNATURES_FULL = 16384


class Surroundings(Protocol):
    """Where an engine's actions go."""

    def send(self, peer: NodeId, message: Message) -> None: ...

    def broadcast(self, message: Message) -> None: ...

    def punish(self, peer: NodeId, reason: str) -> None: ...

    def persist(self, persist: Persist, done: Callable[[int], None]) -> None: ...

    def reply(self, reply: Reply) -> None: ...

    def serve_finalized(self, request: ServeFinalized) -> None: ...

    def trace(self, trace: TransactionTrace | BlockTrace | VoteTrace) -> None: ...

    def failed(self, error: Exception) -> None:
        """The engine raised what it must not: its state can't be trusted any more."""
        ...


class EngineDriver:
    """Feeds the engine on the event loop, a few milliseconds at a time."""

    def __init__(self, engine: Engine, clock: NodeClock, work: WorkQueue, surroundings: Surroundings) -> None:
        self._engine = engine
        self._clock = clock
        self._work = work
        self._surroundings = surroundings
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[Event, int]] = deque()
        self._inbox_bytes = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._fired: set[str] = set()
        self._room = asyncio.Event()
        self._room.set()
        self._writing = 0
        self._scheduled = False
        self._running = False
        self._ended = False
        self.events = 0
        self._carry_out: dict[type, Callable[[Any], None]] = {
            Send: lambda action: surroundings.send(action.peer, action.message),
            Broadcast: lambda action: surroundings.broadcast(action.message),
            SetTimer: self._set_timer,
            CancelTimer: lambda action: self._cancel_timer(action.timer),
            Work: work.add,
            Persist: self._persist,
            Reply: surroundings.reply,
            ServeFinalized: surroundings.serve_finalized,
            Misbehaviour: lambda action: surroundings.punish(action.peer, action.reason),
            TransactionTrace: surroundings.trace,
            BlockTrace: surroundings.trace,
            VoteTrace: surroundings.trace,
        }

    @property
    def backlog(self) -> int:
        """Events that wait."""
        return len(self._inbox)

    def start(self) -> None:
        """Start the engine; events posted before are handled after."""
        self._running = True
        self._act(self._engine.start(self._clock.now()))
        self._schedule()

    def stop(self) -> None:
        """Handle no more events and fire no more timers."""
        self._running = False
        self._ended = True
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        self._inbox.clear()
        self._room.set()

    def post(self, event: Event, size: int = 0) -> None:
        """Queue an event that holds ``size`` bytes (it is lost if the driver has been stopped)."""
        if self._ended:
            return
        self._inbox.append((event, size))
        self._inbox_bytes += size
        self._gauge()
        self._schedule()

    @property
    def has_room(self) -> bool:
        """Whether little waits for engine, disk and signature checks."""
        return self._room.is_set()

    async def room(self) -> None:
        """Wait until little waits for engine, disk and signature checks."""
        if not self._room.is_set():
            await self._room.wait()

    def _gauge(self) -> None:
        """Close the room when a queue is full, open it when all are at most half full."""
        fullest = max(
            len(self._inbox) / EVENTS_FULL,
            self._inbox_bytes / EVENT_BYTES_FULL,
            self._writing / WRITES_FULL,
            self._work.signatures / SIGNATURES_FULL,
        )
        if fullest >= 1.0:
            self._room.clear()
        elif fullest <= 0.5:
            self._room.set()

    def _schedule(self) -> None:
        if not self._scheduled and self._running:
            self._scheduled = True
            self._loop.call_soon(self._run_slice)

    def _run_slice(self) -> None:
        self._scheduled = False
        deadline = time.monotonic() + SLICE_S
        inbox, work = self._inbox, self._work
        try:
            while self._running and (inbox or work):
                if inbox:
                    event, size = inbox.popleft()
                    self._inbox_bytes -= size
                    self._handle(event)
                else:
                    self._do_work(deadline)
                if time.monotonic() >= deadline:
                    self._do_work(deadline)  # however many events come, work gets on
                    break
        except Exception as error:
            self.stop()
            self._surroundings.failed(error)
            return
        self._gauge()
        if inbox or work:
            self._schedule()

    def _do_work(self, deadline: float) -> None:
        if self._work and (done := self._work.run(deadline)) is not None:
            self._inbox.append((done, 0))

    def _handle(self, event: Event) -> None:
        if isinstance(event, TimerFired):
            if event.timer not in self._fired:
                return  # cancelled or moved after it had fired
            self._fired.discard(event.timer)
        self.events += 1
        try:
            actions = self._engine.handle(event, self._clock.now())
        except ProtocolError as error:
            if not isinstance(event, MessageReceived):
                raise
            self._surroundings.punish(event.peer, str(error))
        else:
            self._act(actions)

    def _act(self, actions: list[Action]) -> None:
        carry_out = self._carry_out
        for action in actions:
            carry_out[type(action)](action)

    def _persist(self, action: Persist) -> None:
        self._writing += 1
        self._surroundings.persist(action, self._persisted)

    def _persisted(self, token: int) -> None:
        self._writing -= 1
        self.post(Persisted(token))

    # --- timers ---

    def _set_timer(self, action: SetTimer) -> None:
        self._cancel_timer(action.timer)
        delay = max(0, action.at - self._clock.now()) / 1e9
        self._timers[action.timer] = self._loop.call_later(delay, self._fire, action.timer, action.at)

    def _cancel_timer(self, timer: str) -> None:
        self._fired.discard(timer)
        if (handle := self._timers.pop(timer, None)) is not None:
            handle.cancel()

    def _fire(self, timer: str, at: Nanoseconds) -> None:
        early = at - self._clock.now()
        if early > 0:  # the loop rounds; the engine must never see its timer early
            self._timers[timer] = self._loop.call_later(early / 1e9, self._fire, timer, at)
            return
        del self._timers[timer]
        self._fired.add(timer)
        self.post(TimerFired(timer))
