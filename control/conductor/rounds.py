"""Workload ``rounds``: one block at a time, phase by phase, as the chapter measures it (docs/experiments.md)."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from microchain.client.load import Fate, LoadGenerator, LoadReport, LoadSettings, now_ns
from microchain.client.node_client import NodeClient, NodeError, Unreachable
from microchain.client.transactions import SignedTransaction
from msgspec import Struct

from control.cells import CellRounds
from control.conductor.session import Session
from control.conductor.summary import RoundsSummary
from control.conductor.watch import CellFailed, Expectation, short_id
from control.spec import Entry

__all__ = ["Round", "entry_nodes", "run_rounds"]


class Round(Struct, kw_only=True):
    """One line of ``rounds.jsonl``. Moments in ns since 1970: ``submitted`` and ``released`` by the client's clock,
    ``accepted`` and ``finalized`` the last validator's own; None if it did not come to that. ``status``: ok, timeout,
    failed, or split (the transactions went into several blocks)."""

    round: int
    warmup: bool
    transaction_ids: list[str]
    bytes: int
    submitted_ns: int | None = None
    accepted_ns: int | None = None
    released_ns: int | None = None
    block: str | None = None
    finalized_ns: int | None = None
    status: Literal["ok", "timeout", "failed", "split"] = "failed"


def entry_nodes(session: Session, entry: Entry, turn: int) -> list[NodeClient]:
    """Return the validators that take a load: all of them, or one, another at each turn; the first one moves on."""
    nodes = list(session.nodes.values())
    first = turn % len(nodes)
    rotated = nodes[first:] + nodes[:first]
    return rotated if entry == "spread" else rotated[:1]


async def run_rounds(session: Session, workload: CellRounds) -> None:
    """Run warm-up and measured rounds; CellFailed at the first that does not end within ``timeout_s``."""
    summary = session.summary = RoundsSummary()
    for number in range(1, workload.warmup + workload.rounds + 1):
        warmup = number <= workload.warmup
        transactions = await session.prepare(workload.transactions)
        round_ = Round(
            round=number,
            warmup=warmup,
            transaction_ids=[short_id(t.id) for t in transactions],
            bytes=sum(len(t.raw) for t in transactions),
        )
        try:
            summary.retries += await _run_round(session, workload, round_, transactions)
        finally:
            with (session.directory / "rounds.jsonl").open("ab") as stream:
                stream.write(msgspec.json.encode(round_) + b"\n")
        summary.transactions += len(transactions)
        if warmup:
            summary.warmup += 1
            session.report("warmup", number, workload.warmup)
        else:
            summary.measured += 1
            session.report("round", summary.measured, workload.rounds)


async def _run_round(
    session: Session, workload: CellRounds, round_: Round, transactions: list[SignedTransaction]
) -> int:
    """Submit, wait until accepted by all, release, wait until final on all; return how often a batch was sent again."""
    watch, ids = session.watch, round_.transaction_ids
    watch.accepted = accepted = Expectation(session.nodes, ids)
    watch.finalized = finalized = Expectation(session.nodes, ids)
    waiting_for = "submitting"
    try:
        async with asyncio.timeout(workload.timeout_s):
            report = await _submit(session, workload, round_.round, transactions)
            round_.submitted_ns = min(s.submitted for s in report.submissions if s.submitted is not None)
            waiting_for = "until all had accepted"
            await accepted.wait()
            round_.accepted_ns = accepted.latest
            waiting_for = "for the release"
            round_.released_ns = await _release(session)
            waiting_for = "until all had finalized"
            await finalized.wait()
    except TimeoutError:
        round_.status = "timeout"
        lacking = (accepted if round_.accepted_ns is None else finalized).lacking()
        raise CellFailed(
            f"round {round_.round} timed out after {workload.timeout_s:g} s of waiting {waiting_for}: {lacking}"
        ) from None
    round_.finalized_ns = finalized.latest
    round_.block = min(finalized.blocks)
    round_.status = "ok" if len(finalized.blocks) == 1 else "split"
    return report.retries


async def _submit(
    session: Session, workload: CellRounds, turn: int, transactions: list[SignedTransaction]
) -> LoadReport:
    """Send all at once, one batch to each entry node; CellFailed unless every transaction is accepted."""
    nodes = entry_nodes(session, workload.entry, turn)
    settings = LoadSettings(
        max_batch=-(-len(transactions) // len(nodes)), tick_s=0.0, give_up_s=workload.timeout_s, seed=session.cell.seed
    )
    generator = LoadGenerator(
        nodes, transactions, [0] * len(transactions), settings=settings, observe=session.recorder.transactions
    )
    report = await generator.run()
    if report.count(Fate.ACCEPTED) < len(transactions):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(report.reasons().items()))
        raise CellFailed(f"round {turn}: {len(transactions)} transactions submitted, not accepted were {reasons}")
    return report


async def _release(session: Session) -> int:
    """Let all validators propose; the moment just before."""
    above, at = session.watch.head, now_ns()
    try:
        await asyncio.gather(*(node.release(above) for node in session.nodes.values()))
    except (NodeError, Unreachable) as error:
        raise CellFailed(f"a release failed: {error}") from None
    return at
