"""The driver: events in order, actions in order, timers neither early nor after they were cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from microchain.consensus.interface import (
    Action,
    CancelTimer,
    Event,
    MessageReceived,
    Persist,
    Persisted,
    Released,
    Reply,
    Send,
    ServeFinalized,
    SetTimer,
    TimerFired,
    VerifySignatures,
    Work,
    WorkDone,
)
from microchain.consensus.messages import Message, Votes
from microchain.consensus.types import Height, Nanoseconds, NodeId, ProtocolError
from microchain.crypto.pvss import PvssKey
from microchain.crypto.signatures import get_scheme
from microchain.crypto.suite import RealKeyring, RealSuite
from microchain.crypto.vrf import VrfKey
from microchain.runtime import driver as driver_module
from microchain.runtime.clock import NodeClock
from microchain.runtime.driver import EngineDriver
from microchain.runtime.work import WorkQueue

from tests.cluster import until

PEER = NodeId(bytes(32))
KEY = get_scheme("ed25519").generate()


class Scripted:
    """An engine whose answers a test gives."""

    def __init__(self) -> None:
        self.log: list[tuple[Event, int]] = []
        self.answer: Callable[[Event], list[Action]] = lambda event: []
        self.at_start: list[Action] = []

    def start(self, now: Nanoseconds) -> list[Action]:
        return self.at_start

    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        self.log.append((event, now))
        return self.answer(event)

    @property
    def events(self) -> list[Event]:
        return [event for event, _ in self.log]

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the driver asked for {name}")


class Recorded:
    """Surroundings that write down what they are told."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.done: list[tuple[int, Callable[[int], None]]] = []

    def send(self, peer: NodeId, message: Message) -> None:
        self.log.append(("send", peer, message))

    def broadcast(self, message: Message) -> None:
        self.log.append(("broadcast", message))

    def punish(self, peer: NodeId, reason: str) -> None:
        self.log.append(("punish", peer, reason))

    def persist(self, persist: Persist, done: Callable[[int], None]) -> None:
        self.log.append(persist)
        self.done.append((persist.token, done))

    def reply(self, reply: Reply) -> None:
        self.log.append(reply)

    def serve_finalized(self, request: ServeFinalized) -> None:
        self.log.append(request)

    def trace(self, trace: object) -> None:
        self.log.append(trace)

    def failed(self, error: Exception) -> None:
        self.log.append(("failed", error))


class Bench:
    """A driver between both."""

    def __init__(self) -> None:
        self.engine, self.world, self.clock = Scripted(), Recorded(), NodeClock()
        self.work = WorkQueue(RealSuite("ed25519"), RealKeyring(KEY, VrfKey(bytes(32)), PvssKey(bytes(32))))
        self.driver = EngineDriver(self.engine, self.clock, self.work, self.world)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


def signatures(count: int, wrong: int = -1) -> VerifySignatures:
    message = bytes(32)
    good = KEY.sign(message)
    return VerifySignatures(
        tuple((KEY.public_key, message, bytes(64) if number == wrong else good) for number in range(count))
    )


async def test_events_are_handled_in_order_and_actions_carried_out_in_order(bench: Bench) -> None:
    bench.engine.answer = lambda event: [
        Send(PEER, Votes((bytes([event.above or 0]),))) if isinstance(event, Released) else CancelTimer("none"),
        ServeFinalized(PEER, Height(1)),
    ]
    bench.driver.post(Released(Height(0)))
    await asyncio.sleep(0)
    assert bench.engine.events == [], "nothing is handled before the engine has started"
    bench.driver.start()
    for number in range(1, 100):
        bench.driver.post(Released(Height(number)))
    await until(lambda: len(bench.engine.log) == 100)
    assert bench.engine.events == [Released(Height(number)) for number in range(100)]
    assert [entry[2] for entry in bench.world.log[::2]] == [Votes((bytes([number]),)) for number in range(100)]


async def test_timers_are_never_early_and_can_be_moved_and_cancelled(bench: Bench) -> None:
    now = bench.clock.now()
    wanted = {f"timer-{number}": now + number * 3_000_000 for number in range(1, 10)}
    bench.engine.at_start = [SetTimer(timer, Nanoseconds(at)) for timer, at in wanted.items()]
    bench.engine.at_start += [
        SetTimer("moved", Nanoseconds(now + 10**12)),
        SetTimer("moved", Nanoseconds(now + 1_000_000)),
        SetTimer("past", Nanoseconds(now - 1)),
        SetTimer("cancelled", Nanoseconds(now + 1_000_000)),
        CancelTimer("cancelled"),
        CancelTimer("never set"),
    ]
    bench.driver.start()
    await until(lambda: TimerFired("timer-9") in bench.engine.events)
    for event, at in bench.engine.log:
        assert isinstance(event, TimerFired)
        assert at >= wanted.get(event.timer, 0)
    fired = [event.timer for event in bench.engine.events if isinstance(event, TimerFired)]
    assert sorted(fired) == sorted([*wanted, "moved", "past"])


async def test_a_timer_cancelled_after_it_fired_is_not_seen(bench: Bench) -> None:
    """It may be in the queue behind the event whose handling cancels it."""
    bench.engine.at_start = [SetTimer("late", bench.clock.now())]
    bench.engine.answer = lambda event: [CancelTimer("late")] if isinstance(event, Released) else []
    bench.driver.post(Released())
    bench.driver.start()
    bench.driver._fire("late", bench.clock.now())  # the loop calls it while the release still waits
    await until(lambda: len(bench.engine.log) == 1)
    await asyncio.sleep(0.01)
    assert bench.engine.events == [Released()]


async def test_work_is_done_in_slices_and_votes_pass_a_block(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "SLICE_S", 0.0)
    block = Work(1, (signatures(100, wrong=70), signatures(3)))
    vote = Work(2, (signatures(1),))
    bench.engine.answer = lambda event: [vote] if isinstance(event, MessageReceived) else []
    bench.engine.at_start = [block]
    bench.driver.start()
    bench.driver.post(MessageReceived(PEER, Votes(())))
    await until(lambda: len(bench.engine.log) == 3)
    arrived, small, large = bench.engine.events
    assert isinstance(arrived, MessageReceived)
    assert small == WorkDone(2, ((True,),))
    expected = tuple(number != 70 for number in range(100))
    assert large == WorkDone(1, (expected, (True, True, True)))


async def test_persisted_comes_when_the_ledger_says_so(bench: Bench) -> None:
    bench.engine.at_start = [Persist(7, (), durable=True)]
    bench.driver.start()
    await asyncio.sleep(0.01)
    assert bench.engine.events == []
    ((token, done),) = bench.world.done
    done(token)
    await until(lambda: bench.engine.events == [Persisted(7)])


async def test_there_is_no_room_while_much_waits_for_engine_or_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "EVENTS_FULL", 10)
    monkeypatch.setattr(driver_module, "WRITES_FULL", 10)
    for number in range(10):
        bench.driver.post(Released(Height(number)))
    waiting = asyncio.create_task(bench.driver.room())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    bench.driver.start()
    await waiting
    bench.engine.answer = lambda event: [Persist(event.above or 0, (), False)] if isinstance(event, Released) else []
    for number in range(10):
        bench.driver.post(Released(Height(number)))
    await until(lambda: len(bench.world.done) == 10)
    bench.driver.post(MessageReceived(PEER, Votes(())))
    waiting = asyncio.create_task(bench.driver.room())
    await asyncio.sleep(0.01)
    assert not waiting.done(), "10 writes wait"
    for token, done in bench.world.done:
        done(token)
    await waiting


async def test_large_messages_and_many_signatures_leave_no_room_either(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "SIGNATURES_FULL", 64)
    monkeypatch.setattr(driver_module, "SLICE_S", 0.0)
    bench.driver.post(MessageReceived(PEER, Votes(())), size=driver_module.EVENT_BYTES_FULL)
    assert not bench.driver.has_room
    bench.driver.start()
    await bench.driver.room()
    one = (KEY.public_key, bytes(32), bytes(64))
    much = Work(1, (VerifySignatures((one,) * 1000),))
    rooms: list[bool] = []

    def answer(event: Event) -> list[Action]:
        rooms.append(bench.driver.has_room)
        return [much, SetTimer("soon", bench.clock.now())] if isinstance(event, Released) else []

    bench.engine.answer = answer
    bench.driver.post(Released())
    await until(lambda: len(bench.engine.log) >= 3)
    assert rooms[:2] == [True, False], "the timer fired while the signatures waited"
    await bench.driver.room()
    assert bench.work.signatures < driver_module.SIGNATURES_FULL


async def test_work_gets_on_however_many_events_come(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "SLICE_S", 0.0)
    bench.engine.at_start = [Work(1, (signatures(40),))]

    def answer(event: Event) -> list[Action]:
        bench.driver.post(Released())
        return []

    bench.engine.answer = answer
    bench.driver.post(Released())
    bench.driver.start()
    await until(lambda: WorkDone(1, ((True,) * 40,)) in bench.engine.events)
    bench.driver.stop()


async def test_a_protocol_error_is_the_peers_any_other_error_stops_the_engine(bench: Bench) -> None:
    def fail(event: Event) -> list[Action]:
        raise ProtocolError("nonsense") if isinstance(event, MessageReceived) else KeyError("a bug")

    bench.engine.answer = fail
    bench.driver.start()
    bench.driver.post(MessageReceived(PEER, Votes(())))
    bench.driver.post(Released())
    bench.driver.post(Released())
    await until(lambda: len(bench.world.log) == 2)
    punished, failed = bench.world.log
    assert punished == ("punish", PEER, "nonsense")
    assert failed[0] == "failed" and isinstance(failed[1], KeyError)
    bench.driver.post(Released())
    await asyncio.sleep(0.01)
    assert len(bench.engine.log) == 2, "a broken engine gets no more events"
