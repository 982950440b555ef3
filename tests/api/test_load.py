"""LoadGenerator: nothing is dropped silently, and time counts from the schedule."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from microchain.api.server import create_app, start_server
from microchain.client.load import Fate, LoadGenerator, LoadReport, LoadSettings, Submission, now_ns
from microchain.client.node_client import NodeClient, NodeError, SubmissionResult, Unreachable
from microchain.client.schedule import make_fixed_schedule
from microchain.client.transactions import SignedTransaction
from microchain.consensus.types import Digest

from tests.api.stand_in import TOKEN, StandInNode, make_genesis, make_signed

FAST = LoadSettings(retry_s=0.002, tick_s=0.001, give_up_s=5)
GENESIS = make_genesis()


def sign(count: int) -> list[SignedTransaction]:
    return [make_signed(GENESIS, nonce=nonce) for nonce in range(count)]


class Recorded:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.at: dict[str, dict[Digest, int]] = {}

    def __call__(self, stage: str, ids: Sequence[Digest], at: int) -> None:
        stages = self.at.setdefault(stage, {})
        assert not stages.keys() & set(ids), f"{stage} was recorded twice"
        stages.update(dict.fromkeys(ids, at))


class Scripted(NodeClient):
    """A node that answers each request by the next of its lines; the last one goes on."""

    def __init__(self, *script: Callable[[Sequence[bytes]], list[SubmissionResult]]) -> None:
        super().__init__("http://scripted")
        self.script = list(script)
        self.sizes: list[int] = []

    async def submit_many(self, transactions: Sequence[bytes]) -> list[SubmissionResult]:
        self.sizes.append(len(transactions))
        line = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return line(transactions)


def answer(status: int, code: str) -> Callable[[Sequence[bytes]], list[SubmissionResult]]:
    return lambda transactions: [SubmissionResult("00" * 32, status, code, "")] * len(transactions)


def fail(error: Exception) -> Callable[[Sequence[bytes]], list[SubmissionResult]]:
    def line(transactions: Sequence[bytes]) -> list[SubmissionResult]:
        raise error

    return line


ACCEPT = answer(202, "accepted")


async def run(nodes: Sequence[NodeClient], count: int = 10, **options: Any) -> LoadReport:
    transactions = sign(count)
    settings = options.pop("settings", FAST)
    return await LoadGenerator(nodes, transactions, [0] * count, settings=settings, **options).run()


async def test_load_reaches_real_nodes_and_each_stage_is_recorded(tmp_path: Path) -> None:
    nodes, runners, clients = [], [], []
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        nodes.append(StandInNode(directory, GENESIS))
        runner, port = await start_server(create_app(nodes[-1], TOKEN), "127.0.0.1", 0, None)
        runners.append(runner)
        clients.append(NodeClient(f"http://127.0.0.1:{port}", token=TOKEN))
    recorded, transactions, schedule = Recorded(), sign(100), make_fixed_schedule(2000, 100)
    start = now_ns()
    report = await LoadGenerator(clients, transactions, schedule, settings=FAST, observe=recorded).run(start)
    for client in clients:
        await client.close()
    for runner, node in zip(runners, nodes, strict=True):
        await runner.cleanup()
        node.ledger.close()

    ids = [transaction.id for transaction in transactions]
    assert report.count(Fate.ACCEPTED) == 100
    assert set(nodes[0].known) | set(nodes[1].known) == set(ids)
    assert nodes[0].known and nodes[1].known
    assert recorded.at["scheduled"] == {id: start + offset for id, offset in zip(ids, schedule, strict=True)}
    assert set(recorded.at["submitted"]) == set(recorded.at["accepted"]) == set(ids)
    for submission in report.submissions:
        assert submission.submitted is not None and submission.accepted is not None
        assert submission.scheduled <= submission.submitted <= submission.accepted
        assert recorded.at["accepted"][submission.id] == submission.accepted
    assert len(report.lateness_ns) == 100 and report.lateness_ns[0] >= 0


async def test_what_is_due_together_goes_out_in_bounded_batches() -> None:
    node = Scripted(ACCEPT)
    await run([node], 300, settings=LoadSettings(max_batch=128))
    assert node.sizes == [128, 128, 44]


async def test_batches_go_to_the_nodes_in_turn() -> None:
    nodes = [Scripted(ACCEPT), Scripted(ACCEPT), Scripted(ACCEPT)]
    await run(nodes, 90, settings=LoadSettings(max_batch=10))
    assert [len(node.sizes) for node in nodes] == [3, 3, 3]


async def test_refused_by_a_full_pool_is_sent_again_until_accepted() -> None:
    def half(transactions: Sequence[bytes]) -> list[SubmissionResult]:
        results = [SubmissionResult("00" * 32, 202, "accepted", "")] * len(transactions)
        results[::2] = [SubmissionResult("00" * 32, 429, "pool_full", "")] * len(results[::2])
        return results

    node, recorded = Scripted(half, answer(429, "pool_full"), ACCEPT), Recorded()
    report = await run([node], 10, observe=recorded)
    assert node.sizes == [10, 5, 5]
    assert report.count(Fate.ACCEPTED) == 10
    assert report.retries == 2
    assert sorted(s.attempts for s in report.submissions) == [1] * 5 + [3] * 5
    assert len(recorded.at["accepted"]) == len(recorded.at["submitted"]) == 10


async def test_busy_or_dead_node_is_left_for_the_next() -> None:
    busy = Scripted(fail(NodeError("u", 503, "busy", "", retry_after=0.001)))
    dead = Scripted(fail(Unreachable("gone")))
    good = Scripted(ACCEPT)
    report = await run([busy, dead, good], 5)
    assert report.count(Fate.ACCEPTED) == 5
    assert (busy.sizes, dead.sizes, good.sizes) == ([5], [5], [5])


async def test_node_that_asks_to_wait_is_not_asked_before() -> None:
    node = Scripted(fail(NodeError("u", 503, "busy", "", retry_after=60)), ACCEPT)
    report = await run([node], 5)
    assert node.sizes == [5]
    assert report.reasons() == Counter({"busy": 5})
    assert report.count(Fate.UNRESOLVED) == 5


async def test_duplicate_is_accepted_only_when_it_may_be_our_own() -> None:
    lost_answer = await run([Scripted(fail(Unreachable("cut")), answer(409, "duplicate"))], 3)
    assert lost_answer.count(Fate.ACCEPTED) == 3
    foreign = await run([Scripted(answer(409, "duplicate"))], 3)
    assert foreign.count(Fate.REJECTED) == 3
    assert foreign.reasons() == Counter({"duplicate": 3})


async def test_refusals_are_final_and_keep_their_reason() -> None:
    recorded = Recorded()
    report = await run([Scripted(answer(410, "expired"))], 4, observe=recorded)
    assert (report.count(Fate.REJECTED), report.reasons()) == (4, Counter({"expired": 4}))
    assert len(recorded.at["rejected"]) == 4
    report = await run([Scripted(fail(NodeError("u", 401, "token_wrong", "")))], 4)
    assert (report.count(Fate.REJECTED), report.reasons()) == (4, Counter({"token_wrong": 4}))
    assert report.retries == 0


async def test_what_never_gets_an_answer_ends_unresolved() -> None:
    settings = LoadSettings(retry_s=0.002, give_up_s=0.03)
    node = Scripted(fail(Unreachable("gone")))
    generator = LoadGenerator([node], sign(6), [0] * 6, settings=settings)
    report = await generator.run()
    assert (report.count(Fate.UNRESOLVED), report.reasons()) == (6, Counter({"unreachable": 6}))
    assert all(s.accepted is None and s.attempts > 1 for s in report.submissions)
    assert generator.fates[Fate.ACCEPTED] == 0


async def test_slow_nodes_make_latency_not_a_gap_in_the_schedule() -> None:
    """A closed loop would send the second only after the first one's answer."""
    gate, started = asyncio.Event(), asyncio.Event()

    class Slow(Scripted):
        async def submit_many(self, transactions: Sequence[bytes]) -> list[SubmissionResult]:
            result = await super().submit_many(transactions)
            if len(self.sizes) == 3:
                started.set()
            await gate.wait()
            return result

    node = Slow(ACCEPT)
    schedule = [0, 5_000_000, 10_000_000]
    settings = LoadSettings(max_batch=1)
    task = asyncio.create_task(LoadGenerator([node], sign(3), schedule, settings=settings).run())
    await asyncio.wait_for(started.wait(), 10)
    gate.set()
    report = await task
    last = max(s.submitted or 0 for s in report.submissions)
    assert all(s.accepted is not None and s.accepted >= last for s in report.submissions)


async def test_generator_held_up_by_its_own_bound_reports_that_it_was_late() -> None:
    class Slow(Scripted):
        async def submit_many(self, transactions: Sequence[bytes]) -> list[SubmissionResult]:
            await asyncio.sleep(0.02)
            return await super().submit_many(transactions)

    report = await run([Slow(ACCEPT)], 4, settings=LoadSettings(max_batch=1, max_in_flight=1))
    assert report.count(Fate.ACCEPTED) == 4
    assert report.lateness(1) >= 60_000_000
    assert report.lateness(0.25) < report.lateness(1)
    submissions = [s.submitted - s.scheduled for s in report.submissions if s.submitted is not None]
    assert max(submissions) == report.lateness(1)


def test_lateness_is_the_nearest_rank() -> None:
    report = LoadReport([Submission(Digest(bytes(32)), 0)], list(range(1, 101)), 0)
    assert [report.lateness(share) for share in (0.0, 0.01, 0.5, 0.99, 1.0)] == [1, 1, 50, 99, 100]
    with pytest.raises(ValueError, match="no transaction was sent"):
        LoadReport([], [], 0).lateness(0.5)


async def test_jitter_follows_the_seed() -> None:
    def intervals(seed: int) -> list[float]:
        generator = LoadGenerator([Scripted(ACCEPT)], [], [], settings=LoadSettings(seed=seed))
        return [generator._jitter.random() for _ in range(3)]

    assert intervals(1) == intervals(1) != intervals(2)


async def test_load_without_nodes_or_with_uneven_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one node"):
        LoadGenerator([], [], [])
    with pytest.raises(ValueError, match="2 transactions, but 1 scheduled"):
        LoadGenerator([Scripted(ACCEPT)], sign(2), [0])


async def test_nothing_to_send_is_done_at_once() -> None:
    report = await LoadGenerator([Scripted(ACCEPT)], [], []).run()
    assert (report.submissions, report.lateness_ns) == ([], [])
