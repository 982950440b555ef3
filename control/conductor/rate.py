"""Workload ``rate``: open loop. Transactions go out at their scheduled moments, however slow the validators are.

All are signed before they are due: up to `SIGNED_AHEAD_S` before the load starts, so that signing costs the measurement
nothing. A longer load is signed in segments, the next while one runs: that bounds memory, and no transaction grows
older than its validity before it is sent (10,000 blocks are under four minutes where 45 are made a second).
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import Iterable

from microchain.client.load import Fate, LoadGenerator, LoadReport, LoadSettings, now_ns
from microchain.client.transactions import SignedTransaction

from control.cells import CellRate
from control.conductor.rounds import entry_nodes
from control.conductor.session import Session
from control.conductor.summary import RateSummary
from control.conductor.watch import CellFailed, FinalityLog, short_id

__all__ = ["percentile", "run_rate"]

SIGNED_AHEAD_S = 120.0
SEGMENT_S = 30.0
_START_DELAY_NS = 200_000_000
_REPORT_S = 1.0


async def run_rate(session: Session, workload: CellRate, *, segment_s: float | None = None) -> None:
    """Offer the load and wait until what was accepted is final on all; CellFailed if that takes over ``drain_s``."""
    load = _Load(session, workload, segment_s)
    session.watch.finalized = load
    try:
        await load.run()
    finally:
        session.summary = load.tally.summarize()


class _Load:
    """One load in segments; passes what the validators report to the segments that are not final yet."""

    def __init__(self, session: Session, workload: CellRate, segment_s: float | None) -> None:
        self._session = session
        self._workload = workload
        self._count = int(workload.rate * (workload.warmup_s + workload.duration_s))
        if segment_s is None:
            seconds = workload.warmup_s + workload.duration_s
            segment_s = seconds if seconds <= SIGNED_AHEAD_S else SEGMENT_S
        self._segment = max(1, min(self._count, round(workload.rate * segment_s)))
        self._open: list[FinalityLog] = []
        self.tally = _Tally(workload)

    def report(self, name: str, ids: Iterable[str], at: int, block: str) -> None:
        known = list(ids)
        for finality in self._open:
            finality.report(name, known, at, block)

    async def run(self) -> None:
        self._session.report("warmup", 0, self._count, f"signing {min(self._count, self._segment)} transactions")
        transactions = await self._session.prepare(self._segment)
        start = now_ns() + _START_DELAY_NS
        self.tally.start(start)
        progress = asyncio.create_task(self._report_progress())
        try:
            async with asyncio.TaskGroup() as group:
                for first in range(0, self._count, self._segment):
                    group.create_task(self._run_segment(start, first, transactions))
                    following = min(self._segment, self._count - first - self._segment)
                    if following <= 0:
                        break
                    transactions = await self._session.prepare(following)
                    await _sleep_until(start + round((first + self._segment) / self._workload.rate * 1e9) - 10**9)
        except* CellFailed as failures:
            raise CellFailed(str(failures.exceptions[0])) from None
        finally:
            progress.cancel()

    async def _run_segment(self, start: int, first: int, transactions: list[SignedTransaction]) -> None:
        session, workload = self._session, self._workload
        finality = FinalityLog(list(session.nodes), [short_id(t.id) for t in transactions])
        self._open.append(finality)
        generator = LoadGenerator(
            entry_nodes(session, workload.entry, first // self._segment),
            transactions,
            [round((first + index) * 1e9 / workload.rate) for index in range(len(transactions))],
            settings=LoadSettings(give_up_s=workload.drain_s, seed=session.cell.seed + first),
            observe=session.recorder.transactions,
        )
        report = await generator.run(start)
        last = first + len(transactions) >= self._count
        if last:
            session.report("draining", self.tally.finalized + finality.complete, self._count)
        drained = await _drain(finality, report, workload.drain_s)
        self._open.remove(finality)
        self.tally.add(report, finality)
        if not drained:
            accepted = report.count(Fate.ACCEPTED)
            raise CellFailed(
                f"not drained {workload.drain_s:g} s after the load ended: of {accepted} accepted transactions "
                f"{finality.complete} are final on all validators"
            )

    async def _report_progress(self) -> None:
        while True:
            done = self.tally.finalized + sum(finality.complete for finality in self._open)
            self._session.report("running", done, self._count)
            await asyncio.sleep(_REPORT_S)


class _Tally:
    """Adds up what became of the segments."""

    def __init__(self, workload: CellRate) -> None:
        self._workload = workload
        self._from = self._to = 0
        self._first_ms, self._all_ms, self._lateness_ms = array("d"), array("d"), array("d")
        self._in_window = self._retries = self._accepted = 0
        self._reasons: Counter[str] = Counter()
        self.finalized = 0

    def start(self, at: int) -> None:
        self._started = at
        self._from = at + round(self._workload.warmup_s * 1e9)
        self._to = self._from + round(self._workload.duration_s * 1e9)

    def add(self, report: LoadReport, finality: FinalityLog) -> None:
        self._accepted += report.count(Fate.ACCEPTED)
        self._retries += report.retries
        self._reasons += report.reasons()
        self._lateness_ms.extend(lateness / 1e6 for lateness in report.lateness_ns)
        self.finalized += finality.complete
        for index, submission in enumerate(report.submissions):
            if not finality.is_complete(index):
                continue
            self._in_window += self._from <= finality.last[index] < self._to
            if submission.scheduled >= self._from:
                self._first_ms.append((finality.first[index] - submission.scheduled) / 1e6)
                self._all_ms.append((finality.last[index] - submission.scheduled) / 1e6)

    def summarize(self) -> RateSummary | None:
        """Return the sums; None if the load never started."""
        if not self._from:
            return None
        return RateSummary(
            started_ns=self._started,
            measured_from_ns=self._from,
            measured_to_ns=self._to,
            submitted=len(self._lateness_ms),
            accepted=self._accepted,
            finalized=self.finalized,
            finalized_in_window=self._in_window,
            not_accepted=dict(self._reasons),
            retries=self._retries,
            finalized_per_s=self._in_window / self._workload.duration_s,
            lateness_p99_ms=percentile(self._lateness_ms, 0.99),
            first_p50_ms=percentile(self._first_ms, 0.50),
            first_p99_ms=percentile(self._first_ms, 0.99),
            all_p50_ms=percentile(self._all_ms, 0.50),
            all_p99_ms=percentile(self._all_ms, 0.99),
        )


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


async def _sleep_until(moment_ns: int) -> None:
    await asyncio.sleep(max(0, moment_ns - now_ns()) / 1e9)


def percentile(samples: Iterable[float], share: float) -> float | None:
    """Return the smallest sample that ``share`` (0 to 1) of all do not exceed; None without samples."""
    ordered = sorted(samples)
    if not ordered:
        return None
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
