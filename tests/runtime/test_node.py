"""Whole nodes on one event loop: real TLS, real ledgers, real engines."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from microchain.api.service import NodeBusy
from microchain.consensus.interface import AdmissionCode, Event, MessageReceived
from microchain.consensus.objects import decode_transaction
from microchain.consensus.types import Digest, Height, Nanoseconds, TransactionKind
from microchain.ledger.ledger import Ledger, LedgerFull
from microchain.runtime import actions as actions_module
from microchain.runtime.node import ListenError, Node
from microchain.runtime.stopping import StopCode
from microchain.telemetry.spool import spool_segments

from tests.cluster import Cluster, linked, make_cluster, until
from tests.runtime.echo_engine import EchoEngine


def heights(nodes: list[Node]) -> list[int]:
    return [node.engine.status().finalized_height for node in nodes]


def finalized_ids(cluster: Cluster, index: int) -> list[Digest]:
    """All of the clients' finalized transactions of a stopped node, in the order of the chain."""
    config = cluster.config(index)
    ledger = Ledger(config.ledger_path, cluster.genesis.chain_id(), read_only=True)
    try:
        blocks = [ledger.block_at(Height(height)) for height in range(1, ledger.finalized()[0] + 1)]
        found = [decode_transaction(raw) for block in blocks if block is not None for raw in block.transactions]
        return [transaction.id for transaction in found if transaction.body.kind == TransactionKind.DATA]
    finally:
        ledger.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    yield make_cluster(tmp_path, 4, parameters={"slot_timeout_ms": 200})


async def test_transactions_of_all_entry_nodes_are_finalized_on_all(cluster: Cluster) -> None:
    async with cluster.nodes() as nodes:
        assert all(node.is_ready() for node in nodes)
        for number, node in enumerate(nodes):
            outcomes = await node.submit([cluster.transaction(b"%d-%d" % (number, n)) for n in range(10)])
            assert {outcome.code for outcome in outcomes} == {AdmissionCode.ACCEPTED}
        await until(lambda: all(node.actions.finalized == 40 for node in nodes))
        assert all(node.metrics()["transactions_finalized_total"] == 40.0 for node in nodes)
        assert all(node.mesh.counters.incidents.total() == 0 for node in nodes)
    chains = [finalized_ids(cluster, index) for index in range(4)]
    assert len(set(chains[0])) == 40
    assert all(chain[:40] == chains[0][:40] for chain in chains)


async def test_a_validator_that_was_away_catches_up(cluster: Cluster) -> None:
    async with cluster.nodes([0, 1, 2]) as three:
        for number in range(8):
            await three[number % 3].submit([cluster.transaction(b"early-%d" % number)])
            await until(lambda number=number: all(n.actions.finalized == number + 1 for n in three))  # type: ignore[misc]
        async with cluster.nodes([3], connected=False) as (late,):
            await until(lambda: linked(late) == 3)
            await until(lambda: late.actions.finalized == 8)
            await late.submit([cluster.transaction(b"through the late one")])
            await until(lambda: all(node.actions.finalized == 9 for node in (*three, late)))
    assert finalized_ids(cluster, 3)[:9] == finalized_ids(cluster, 0)[:9]


async def test_a_restarted_cluster_goes_on_where_it_was(cluster: Cluster) -> None:
    async with cluster.nodes() as nodes:
        await nodes[0].submit([cluster.transaction(b"before")])
        await until(lambda: all(node.actions.finalized == 1 for node in nodes))
        before = min(heights(nodes))
    async with cluster.nodes() as nodes:
        assert min(heights(nodes)) >= before
        outcome, *_ = await nodes[1].submit([cluster.transaction(b"before")])
        assert outcome.code is AdmissionCode.DUPLICATE
        await nodes[2].submit([cluster.transaction(b"after")])
        await until(lambda: all(node.actions.finalized == 1 for node in nodes))
    assert len(finalized_ids(cluster, 3)) == 2


async def test_subscribers_see_a_transaction_from_acceptance_to_finality(cluster: Cluster) -> None:
    async with cluster.nodes() as nodes, nodes[0].events() as events:
        outcome, *_ = await nodes[0].submit([cluster.transaction(b"watched")])
        assert outcome.id is not None
        seen: list[dict[str, Any]] = []
        async with asyncio.timeout(20):
            while not seen or seen[-1]["type"] != "finalized":
                seen.append(await anext(events))
    assert seen[0]["type"] == "accepted" and seen[0]["ids"] == [outcome.id.hex()]
    assert seen[-1]["ids"] == [outcome.id.hex()]
    stages = [event["event"] for event in seen if event["type"] == "block" and event["id"] == seen[-1]["id"]]
    order = [stage for stage in ("verified", "adopted", "justified", "finalized") if stage in stages]
    assert [stage for stage in stages if stage in order] == order
    assert {"adopted", "justified"} <= set(stages)
    assert [event["at"] for event in seen] == sorted(event["at"] for event in seen)


async def test_status_tells_when_the_node_is_ready_and_telemetry_is_complete(cluster: Cluster) -> None:
    async with cluster.nodes([0, 1], connected=False) as (first, _):
        await until(lambda: linked(first) == 1)
        status = first.status()
        assert not status["ready"], "two of four are not more than two thirds"
        assert {peer["name"]: peer["connected"] for peer in status["peers"]} == {
            "validator-2": True,
            "validator-3": False,
            "validator-4": False,
        }
        await until(lambda: first.status()["peers"][0]["bound_ns"] is not None)
        await until(lambda: first.recorder.points > 0)
        code, body = await cluster.request(0, "GET", "/v1/status")
        assert (code, body["name"]) == (200, "validator-1")
        assert (await cluster.request(0, "GET", "/v1/health"))[0] == 503
    (segment,) = spool_segments(cluster.config(0).spool_path)
    text = segment.read_text()
    for measurement in ("peer,", "messages,", "board,", "process,", "spool,"):
        assert measurement in text
    assert "closed=true" in text


# --- with a small engine: what the runtime itself must hold ---


async def test_an_event_goes_through_work_ledger_reply_and_network(cluster: Cluster) -> None:
    async with cluster.nodes(engine_factory=EchoEngine) as nodes:
        raws = [cluster.transaction(b"%d" % number, size=1024) for number in range(200)]
        outcomes = await nodes[0].submit(raws)
        assert len(outcomes) == 200
        engines = [node.engine for node in nodes]
        assert all(isinstance(engine, EchoEngine) for engine in engines)
        await until(lambda: all(engine.received == raws for engine in engines[1:]))  # type: ignore[attr-defined]
        assert len(nodes[0].ledger.evidence()) == 1, "stored before the answer"
        for engine in engines:
            assert engine.times == sorted(engine.times)  # type: ignore[attr-defined]


async def test_a_full_disk_stops_the_node_and_nothing_unstored_is_answered(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Ledger, records: object, *, durable: bool) -> None:
        raise LedgerFull("the disk is full")

    async with cluster.nodes([0], engine_factory=EchoEngine) as (node,):
        monkeypatch.setattr(Ledger, "write", full)
        submission = asyncio.create_task(node.submit([cluster.transaction(b"lost")]))
        assert await node.wait_stopped() is StopCode.STORAGE
        assert not submission.done()
    with pytest.raises(NodeBusy, match="stopping"):
        await submission


async def test_an_engine_that_fails_stops_the_node(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(EchoEngine):
        def handle(self, event: Event, now: Nanoseconds) -> list[Any]:
            raise IndexError("a bug")

    async with cluster.nodes([0], engine_factory=Broken) as (node,):
        assert await node.wait_stopped() is StopCode.ENGINE
    assert "IndexError: a bug" in caplog.text


async def test_the_lease_ends_the_node_unless_it_is_extended(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microchain.runtime.housekeeping._LEASE_CHECK_S", 0.01)
    leased = make_cluster(tmp_path / "leased", 1, lease_s=0.05)
    async with leased.nodes(engine_factory=EchoEngine) as (node,):
        assert await node.wait_stopped() is StopCode.DONE
    extended = make_cluster(tmp_path / "extended", 1, lease_s=0.05)
    node = Node(extended.config(0), engine_factory=EchoEngine)
    await node.start()
    node.extend_lease(1000.0)
    await asyncio.sleep(0.2)
    assert not node._stopped.done()
    await node.stop()


async def test_an_address_in_use_leaves_nothing_behind(cluster: Cluster) -> None:
    async with cluster.nodes([0], engine_factory=EchoEngine):
        for key in ("peer", "api"):
            config = (cluster.root / "validator-2" / "config.toml").read_text()
            taken, free = getattr(cluster.config(0).listen, key), getattr(cluster.config(1).listen, key)
            cluster.config_path(1).write_text(config.replace(str(free), str(taken)))
            blocked = Node(cluster.config(1), engine_factory=EchoEngine)
            with pytest.raises(ListenError, match=rf"cannot listen on {taken} \(listen\.{key}\)") as error:
                await blocked.start()
            assert error.value.errno == errno.EADDRINUSE
            cluster.config_path(1).write_text(config)
        async with cluster.nodes([1], engine_factory=EchoEngine):
            pass
    names = {thread.name.split("_")[0] for thread in threading.enumerate()}
    assert not names & {"ledger-writer", "ledger-reader", "spool"}


async def test_nothing_is_left_after_stopping(cluster: Cluster) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    counts = []
    for _ in range(3):
        async with cluster.nodes() as nodes:
            await nodes[0].submit([cluster.transaction(b"x")])
        await until(lambda: len(asyncio.all_tasks()) == 1)
        counts.append(descriptors())
    assert counts[2] <= counts[1]


async def test_a_node_that_does_not_run_or_is_overloaded_takes_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mute(EchoEngine):
        def handle(self, event: Event, now: Nanoseconds) -> list[Any]:
            return [] if not isinstance(event, MessageReceived) else super().handle(event, now)

    monkeypatch.setattr(actions_module, "MAX_REQUESTS", 5)
    async with cluster.nodes([0], engine_factory=Mute) as (node,):
        waiting = [asyncio.create_task(node.submit([b"x"])) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(NodeBusy, match="5 submissions wait"):
            await node.submit([b"x"])
        waiting[0].cancel()
        await asyncio.sleep(0)
        waiting[0] = asyncio.create_task(node.submit([b"x"]))
        await asyncio.sleep(0)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, NodeBusy) for result in results)
    with pytest.raises(NodeBusy, match="starting or stopping"):
        await node.submit([b"x"])


async def test_a_committee_hands_over_to_the_next_dynasty(tmp_path: Path) -> None:
    """Real keys: the members deal, reveal and begin dynasties two and three; one that was away follows them."""
    parameters = {"slot_timeout_ms": 200, "dynasty_epochs": 8, "idle_interval_ms": 100}
    cluster = make_cluster(tmp_path, 4, parameters=parameters)
    async with cluster.nodes([0, 1, 2]) as three:
        await three[0].submit([cluster.transaction(b"in the first dynasty")])
        await until(lambda: all(node.engine.status().dynasty >= 2 for node in three), 120)
        async with cluster.nodes([3], connected=False) as (late,):
            await until(lambda: late.engine.status().dynasty >= 3, 120)
            await late.submit([cluster.transaction(b"in a later one")])
            await until(lambda: all(node.actions.finalized >= 2 for node in (*three, late)), 60)
            assert all(node.mesh.counters.incidents.total() == 0 for node in (*three, late))
    assert finalized_ids(cluster, 3) == finalized_ids(cluster, 0)
    for index in range(4):
        ledger = Ledger(cluster.config(index).ledger_path, cluster.genesis.chain_id(), read_only=True)
        with contextlib.closing(ledger):
            assert not ledger.verify()
