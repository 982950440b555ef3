"""One simulated node: it carries out its engine's actions under the world's clock; it can crash, pause and restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, get_args

from msgspec import Struct

from microchain.consensus.interface import (
    Action,
    Broadcast,
    CancelTimer,
    Engine,
    Event,
    Job,
    Misbehaviour,
    Persist,
    Persisted,
    Record,
    Restored,
    Send,
    ServeFinalized,
    SetTimer,
    TimerFired,
    Work,
    WorkDone,
)
from microchain.consensus.messages import FinalizedBlocks, FullBlock
from microchain.consensus.types import Nanoseconds, NodeId
from microchain.consensus.work import perform
from microchain.crypto.suite import Keyring, Suite
from microchain.simulator.crypto import CryptoCosts
from microchain.simulator.narration import to_text
from microchain.simulator.network import Channel, Network
from microchain.simulator.store import Store
from microchain.simulator.world import MILLISECOND, SECOND, World

__all__ = ["DiskModel", "Observer", "SimulatedNode"]

MAX_SERVED = 1 << 20
BANISHMENT = (SECOND, 5 * SECOND)
_EVENT_CODES: dict[type, int] = {kind: code for code, kind in enumerate(get_args(Event))}
START, STOP = len(_EVENT_CODES), len(_EVENT_CODES) + 1


class DiskModel(Struct, frozen=True):
    """How long a transaction takes, in nanoseconds (from, to); a card stalls with probability ``stall``."""

    relaxed: tuple[int, int] = (50_000, 500_000)
    durable: tuple[int, int] = (200_000, 3 * MILLISECOND)
    stall: float = 0.005
    stall_factor: int = 50


class Observer(Protocol):
    """Who watches every step of a node."""

    def on_started(self, node: SimulatedNode) -> None: ...

    def on_stopped(self, node: SimulatedNode) -> None: ...

    def on_actions(self, node: SimulatedNode, actions: list[Action]) -> None: ...

    def on_exception(self, node: SimulatedNode, event: Event | None, error: Exception) -> None: ...


class SimulatedNode:
    """An engine with its store, timers, connections and clock. ``index`` is unique; two faces may share an ``id``."""

    def __init__(
        self,
        world: World,
        network: Network,
        observer: Observer,
        *,
        index: int,
        id: NodeId,
        name: str,
        suite: Suite,
        keyring: Keyring,
        make_store: Callable[[], Store],
        make_engine: Callable[[Restored | None], Engine],
        is_honest: bool = True,
        crypto: CryptoCosts | None = None,
        disk: DiskModel | None = None,
        clock_offset: int = 0,
    ) -> None:
        self.index = index
        self.id = id
        self.name = name
        self.store = make_store()
        self.is_honest = is_honest
        self.peers: dict[NodeId, Channel] = {}
        self.is_running = False
        self.is_paused = False
        self.engine: Engine
        self._world = world
        self._network = network
        self._observer = observer
        self._suite = suite
        self._keyring = keyring
        self._make_engine = make_engine
        self._make_store = make_store
        self._is_new = True
        self._crypto = crypto or CryptoCosts()
        self._disk = disk or DiskModel()
        self._clock_offset = clock_offset
        self._incarnation = 0
        self._timers: dict[str, int] = {}
        self._backlog: list[Event] = []
        self._writes: list[Persist] = []
        self._disk_free = 0
        self._carry_out: dict[type, Callable[[Any], None]] = {
            Send: self._send,
            Broadcast: self._broadcast,
            SetTimer: self._set_timer,
            CancelTimer: self._cancel_timer,
            Work: self._work,
            Persist: self._persist,
            ServeFinalized: self._serve,
            Misbehaviour: self._banish,
        }

    @property
    def is_up(self) -> bool:
        return self.is_running and not self.is_paused

    # --- life cycle -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start on what the store holds, and begin to connect."""
        self.is_running, self.is_paused = True, False
        self._incarnation += 1
        self._world.record(self.index, START)
        self._narrate("starts")
        try:
            self.engine = self._make_engine(None if self._is_new else self.store.restore())
            self._is_new = False
            self._observer.on_started(self)
            self._do(self.engine.start(self._clock()))
        except Exception as error:
            self._observer.on_exception(self, None, error)
        self._network.dial_all(self)

    def crash(self, *, power: bool) -> None:
        """Stop at once. Of the writes under way a prefix is done; with ``power`` the latest relaxed may be lost."""
        if not self.is_running:
            return
        self._world.record(self.index, STOP)
        self._narrate("loses power" if power else "is killed")
        rng = self._world.rng
        for persist in self._writes[: rng.randint(0, len(self._writes))]:
            self.store.write(persist.records, durable=persist.durable)
        if power:
            self.store.lose_power(rng)
        self.is_running = self.is_paused = False
        self._incarnation += 1
        self._timers.clear()
        self._writes.clear()
        self._backlog.clear()
        self._disk_free = 0
        self._network.drop_all(self, (SECOND, 10 * SECOND) if power else (0, 10 * MILLISECOND))
        self._observer.on_stopped(self)

    def wipe(self) -> None:
        """Give a stopped node a new, empty store."""
        self._narrate("is wiped")
        self.store = self._make_store()
        self._is_new = True

    def pause(self) -> None:
        """Stop without losing anything (SIGSTOP, a virtual machine that migrates)."""
        if self.is_running:
            self._narrate("is paused")
            self.is_paused = True

    def resume(self) -> None:
        """Go on after a pause, with all that has arrived meanwhile."""
        if self.is_running and self.is_paused:
            self._narrate("goes on")
            self.is_paused = False
            backlog, self._backlog = self._backlog, []
            for event in backlog:
                self.deliver(event)

    # --- events -----------------------------------------------------------------------------------------------------

    def deliver(self, event: Event) -> None:
        """Let the engine handle an event, and do what it answers."""
        if not self.is_running:
            return
        if self.is_paused:
            self._backlog.append(event)
            return
        self._world.record(self.index, _EVENT_CODES[type(event)])
        if self._world.narrate:
            self._narrate(event)
        try:
            actions = self.engine.handle(event, self._clock())
        except Exception as error:
            self._observer.on_exception(self, event, error)
            return
        if actions:
            self._do(actions)

    def _clock(self) -> Nanoseconds:
        return Nanoseconds(self._world.now + self._clock_offset)

    def _narrate(self, what: object) -> None:
        if self._world.narrate:
            self._world.narrate(f"{self._world.now / SECOND:12.6f} {self.name:>14} < {to_text(what)}")

    def _do(self, actions: list[Action]) -> None:
        self._observer.on_actions(self, actions)
        if self._world.narrate:
            for action in actions:
                self._world.narrate(f"{'':12} {self.name:>14} > {to_text(action)}")
        for action in actions:
            carry_out = self._carry_out.get(type(action))
            if carry_out is not None:
                carry_out(action)

    # --- actions ----------------------------------------------------------------------------------------------------

    def _send(self, action: Send) -> None:
        channel = self.peers.get(action.peer)
        if channel is not None:
            self._network.send(channel, action.message)

    def _broadcast(self, action: Broadcast) -> None:
        for channel in self.peers.values():
            self._network.send(channel, action.message)

    def _set_timer(self, action: SetTimer) -> None:
        if self._timers.get(action.timer) != action.at:
            self._timers[action.timer] = action.at
            self._world.at(action.at - self._clock_offset, self._fire, self._incarnation, action.timer, action.at)

    def _cancel_timer(self, action: CancelTimer) -> None:
        self._timers.pop(action.timer, None)

    def _fire(self, incarnation: int, timer: str, at: int) -> None:
        if incarnation == self._incarnation and self._timers.get(timer) == at:
            del self._timers[timer]
            self.deliver(TimerFired(timer))

    def _work(self, action: Work) -> None:
        duration = int(self._crypto.of(action.jobs) * (1 + self._world.rng.random()))
        self._world.after(duration, self._finish_work, self._incarnation, action.token, action.jobs)

    def _finish_work(self, incarnation: int, token: int, jobs: tuple[Job, ...]) -> None:
        if incarnation == self._incarnation:
            self.deliver(WorkDone(token, perform(jobs, self._suite, self._keyring)))

    def _persist(self, action: Persist) -> None:
        rng, disk = self._world.rng, self._disk
        duration = rng.randint(*(disk.durable if action.durable else disk.relaxed))
        if rng.random() < disk.stall:
            duration *= disk.stall_factor
        self._disk_free = max(self._disk_free, self._world.now) + duration
        self._writes.append(action)
        self._world.at(self._disk_free, self._finish_persist, self._incarnation)

    def _finish_persist(self, incarnation: int) -> None:
        if incarnation != self._incarnation:
            return
        action = self._writes.pop(0)
        records: tuple[Record, ...] = action.records
        self.store.write(records, durable=action.durable)
        self.deliver(Persisted(action.token))

    def _serve(self, action: ServeFinalized) -> None:
        channel = self.peers.get(action.peer)
        if channel is None:
            return
        blocks = self.store.blocks_from(action.from_height, MAX_SERVED)
        certificate = (self.store.certificate_for(blocks[-1].height) if blocks else None) or ()
        full = tuple(FullBlock(block.header, block.transactions, block.votes) for block in blocks)
        self._network.send(channel, FinalizedBlocks(full, certificate))

    def _banish(self, action: Misbehaviour) -> None:
        channel = self.peers.get(action.peer)
        if channel is not None:
            self._world.after(0, self._network.banish, self, channel.destination, self._world.rng.randint(*BANISHMENT))
