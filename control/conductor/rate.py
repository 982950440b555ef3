"""Workload ``rate``: open loop. Transactions go out at their scheduled moments, however slow the validators are."""

from __future__ import annotations

import asyncio

from microchain.client.load import Fate, LoadGenerator, LoadReport, LoadSettings, now_ns
from microchain.client.schedule import make_fixed_schedule

from control.cells import CellRate
from control.conductor.rounds import entry_nodes
from control.conductor.session import Session
from control.conductor.summary import RateSummary
from control.conductor.watch import CellFailed, FinalityLog, short_id

__all__ = ["percentile", "run_rate", "summarize"]

_START_DELAY_NS = 200_000_000
_REPORT_S = 1.0


async def run_rate(session: Session, workload: CellRate) -> None:
    """Offer the load and wait until what was accepted is final on all; CellFailed if that takes over ``drain_s``."""
    count = int(workload.rate * (workload.warmup_s + workload.duration_s))
    session.report("warmup", 0, count, f"signing {count} transactions")
    transactions = await session.prepare(count)
    finality = FinalityLog(list(session.nodes), [short_id(t.id) for t in transactions])
    session.watch.finalized = finality
    schedule = make_fixed_schedule(workload.rate, count)
    generator = LoadGenerator(
        entry_nodes(session, workload.entry, 0),
        transactions,
        schedule,
        settings=LoadSettings(give_up_s=workload.drain_s, seed=session.cell.seed),
        observe=session.recorder.transactions,
    )
    start = now_ns() + _START_DELAY_NS
    running = asyncio.create_task(_report_progress(session, finality, count))
    try:
        report = await generator.run(start)
        session.report("draining", finality.complete, report.count(Fate.ACCEPTED))
        drained = await _drain(finality, report, workload.drain_s)
    finally:
        running.cancel()
    summary = summarize(workload, start, report, finality)
    session.summary = summary
    if not drained:
        raise CellFailed(
            f"not drained {workload.drain_s:g} s after the load ended: {summary.accepted} transactions were accepted, "
            f"{summary.finalized} are final on all validators"
        )


async def _report_progress(session: Session, finality: FinalityLog, count: int) -> None:
    while True:
        session.report("running", finality.complete, count)
        await asyncio.sleep(_REPORT_S)


async def _drain(finality: FinalityLog, report: LoadReport, drain_s: float) -> bool:
    """Wait until every accepted transaction is final on all validators; False if that takes too long."""
    accepted = [i for i, submission in enumerate(report.submissions) if submission.fate is Fate.ACCEPTED]
    try:
        async with asyncio.timeout(drain_s):
            while finality.complete < len(accepted) or not all(map(finality.is_complete, accepted)):
                await finality.wait_more()
    except TimeoutError:
        return False
    return True


def summarize(workload: CellRate, start: int, report: LoadReport, finality: FinalityLog) -> RateSummary:
    """Count what became of the load, and its latencies from the scheduled moments."""
    measured_from = start + round(workload.warmup_s * 1e9)
    measured_to = measured_from + round(workload.duration_s * 1e9)
    first, last = [], []
    in_window = 0
    for index, submission in enumerate(report.submissions):
        if not finality.is_complete(index):
            continue
        in_window += measured_from <= finality.last[index] < measured_to
        if submission.scheduled >= measured_from:
            first.append((finality.first[index] - submission.scheduled) / 1e6)
            last.append((finality.last[index] - submission.scheduled) / 1e6)
    return RateSummary(
        started_ns=start,
        measured_from_ns=measured_from,
        measured_to_ns=measured_to,
        submitted=len(report.lateness_ns),
        accepted=report.count(Fate.ACCEPTED),
        finalized=finality.complete,
        not_accepted=dict(report.reasons()),
        retries=report.retries,
        finalized_per_s=in_window / workload.duration_s,
        lateness_p99_ms=report.lateness(0.99) / 1e6 if report.lateness_ns else 0.0,
        first_p50_ms=percentile(first, 0.50),
        first_p99_ms=percentile(first, 0.99),
        all_p50_ms=percentile(last, 0.50),
        all_p99_ms=percentile(last, 0.99),
    )


def percentile(samples: list[float], share: float) -> float | None:
    """Return the smallest sample that ``share`` (0 to 1) of all do not exceed; None without samples."""
    if not samples:
        return None
    ordered = sorted(samples)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
