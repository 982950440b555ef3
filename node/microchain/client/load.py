"""Open-loop load: transactions go out when the schedule says, however slow the nodes are.

Latency counts from the scheduled moment, so a node (or this generator) that falls behind shows as latency and is never
left out. How late the generator itself was is in the report.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

import msgspec

from microchain.client.node_client import NodeClient, NodeError, SubmissionResult, Unreachable
from microchain.client.transactions import SignedTransaction
from microchain.consensus.types import Digest
from microchain.telemetry.wall_clock import read_anchor

__all__ = ["Fate", "LoadGenerator", "LoadReport", "LoadSettings", "Observer", "Submission", "now_ns"]

Observer = Callable[[str, Sequence[Digest], int], None]
"""Called as (stage, ids, at): scheduled, submitted, accepted or rejected; ns since 1970. Recorder.transactions fits."""

_ACCEPTED: Final = 202
_DUPLICATE: Final = 409
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
_MAX_BACKOFF_S: Final = 5.0

_ANCHOR: Final = read_anchor()


def now_ns() -> int:
    """Nanoseconds since 1970 on a clock that never goes back: the wall clock at import plus monotonic time."""
    return _ANCHOR + time.monotonic_ns()


class Fate(Enum):
    """How a transaction ended. Unresolved: no node gave a final answer in time; it may still be in the chain."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNRESOLVED = "unresolved"


class Submission(msgspec.Struct, gc=False):
    """One transaction's way to a node; times in ns since 1970. ``submitted`` is the first attempt."""

    id: Digest
    scheduled: int
    submitted: int | None = None
    accepted: int | None = None
    fate: Fate = Fate.UNRESOLVED
    reason: str = "not sent"
    attempts: int = 0


class LoadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the load is sent. All bounds hold together."""

    max_batch: int = 128
    """Transactions in one request."""
    tick_s: float = 0.005
    """Least time between two sendings: what falls due meanwhile goes out together."""
    max_in_flight: int = 64
    """Requests without an answer; beyond, the generator waits, and is late."""
    retry_s: float = 0.1
    """First back-off after 429, 503 or no answer; it doubles up to 5 s, with jitter, or is what the node says."""
    give_up_s: float = 30.0
    """After this time from its first attempt a batch is given up: unresolved."""
    seed: int = 0
    """Of the jitter."""


class LoadReport(msgspec.Struct, frozen=True):
    """What became of each transaction, in the order of the schedule, and how late the generator was."""

    submissions: list[Submission]
    lateness_ns: list[int]
    """First attempt minus scheduled moment, ascending, of those that were sent. Waiting for the tick is in it."""
    retries: int

    def count(self, fate: Fate) -> int:
        return sum(1 for submission in self.submissions if submission.fate is fate)

    def reasons(self) -> Counter[str]:
        """How many were not accepted, for each reason."""
        return Counter(s.reason for s in self.submissions if s.fate is not Fate.ACCEPTED)

    def lateness(self, share: float) -> int:
        """The lateness in ns that ``share`` (0 to 1) of those sent did not exceed; ValueError if none was sent."""
        if not self.lateness_ns:
            raise ValueError("no transaction was sent, so there is no lateness")
        return self.lateness_ns[max(0, -int(-share * len(self.lateness_ns) // 1) - 1)]


class _Pending(msgspec.Struct, gc=False):
    raw: bytes
    submission: Submission


class LoadGenerator:
    """Sends ``transactions`` at ``schedule`` (ns from the start, ascending), batch by batch to the nodes in turn."""

    def __init__(
        self,
        nodes: Sequence[NodeClient],
        transactions: Sequence[SignedTransaction],
        schedule: Sequence[int],
        *,
        settings: LoadSettings | None = None,
        observe: Observer | None = None,
    ) -> None:
        if not nodes:
            raise ValueError("the load generator needs at least one node to send to")
        if len(transactions) != len(schedule):
            raise ValueError(
                f"{len(transactions)} transactions, but {len(schedule)} scheduled moments; make them equal"
            )
        self._nodes = nodes
        self._transactions = transactions
        self._schedule = schedule
        self._settings = settings or LoadSettings()
        self._observe: Observer = observe or (lambda stage, ids, at: None)
        self._jitter = random.Random(self._settings.seed)
        self._slots = asyncio.Semaphore(self._settings.max_in_flight)
        self._turn = 0
        self._retries = 0
        self.fates: Counter[Fate] = Counter()
        """How many have which fate so far: progress while the load runs."""

    async def run(self, start: int | None = None) -> LoadReport:
        """Send all and wait for every answer (or for giving up). ``start`` is the schedule's zero, default now."""
        zero = now_ns() if start is None else start
        submissions = [
            Submission(t.id, zero + offset) for t, offset in zip(self._transactions, self._schedule, strict=True)
        ]
        async with asyncio.TaskGroup() as group:
            await self._send_all(zero, submissions, group)
        lateness = sorted(s.submitted - s.scheduled for s in submissions if s.submitted is not None)
        return LoadReport(submissions, lateness, self._retries)

    async def _send_all(self, zero: int, submissions: list[Submission], group: asyncio.TaskGroup) -> None:
        sent = 0
        tick_ns = round(self._settings.tick_s * 1e9)
        earliest = 0
        while sent < len(submissions):
            await _sleep_until(max(zero + self._schedule[sent], earliest))
            now = now_ns()
            earliest = now + tick_ns
            due = bisect_right(self._schedule, now - zero, lo=sent)
            while sent < due:
                end = min(due, sent + self._settings.max_batch)
                batch = [
                    _Pending(t.raw, s) for t, s in zip(self._transactions[sent:end], submissions[sent:end], strict=True)
                ]
                for pending in batch:
                    self._observe("scheduled", (pending.submission.id,), pending.submission.scheduled)
                await self._slots.acquire()
                group.create_task(self._deliver(batch))
                sent = end

    async def _deliver(self, batch: list[_Pending]) -> None:
        """Send until each has its fate; the slot is held meanwhile, so retries count as load."""
        try:
            first = now_ns()
            for pending in batch:
                pending.submission.submitted = first
            self._observe("submitted", [pending.submission.id for pending in batch], first)
            deadline = first + round(self._settings.give_up_s * 1e9)
            backoff = self._settings.retry_s
            while True:
                batch, wait_s = await self._attempt(batch)
                delay = max(wait_s, backoff * self._jitter.uniform(0.5, 1.5))
                if not batch or now_ns() + delay * 1e9 > deadline:
                    return
                self._retries += 1
                backoff = min(2 * backoff, _MAX_BACKOFF_S)
                await asyncio.sleep(delay)
        finally:
            self._slots.release()

    async def _attempt(self, batch: list[_Pending]) -> tuple[list[_Pending], float]:
        """Send to the next node; return those to send again and how long the node asks to wait."""
        node = self._nodes[self._turn % len(self._nodes)]
        self._turn += 1
        try:
            results = await node.submit_many([pending.raw for pending in batch])
        except Unreachable:
            self._mark(batch, "unreachable")
            return batch, 0.0
        except NodeError as error:
            if error.status in _RETRIED:
                self._mark(batch, error.code)
                return batch, error.retry_after or 0.0
            return self._settle(batch, [SubmissionResult(None, error.status, error.code, "")] * len(batch)), 0.0
        return self._settle(batch, results), 0.0

    def _mark(self, batch: list[_Pending], reason: str) -> None:
        for pending in batch:
            pending.submission.attempts += 1
            pending.submission.reason = reason

    def _settle(self, batch: list[_Pending], results: Sequence[SubmissionResult]) -> list[_Pending]:
        """Write down what became of each; return those that a later attempt may bring in."""
        at = now_ns()
        accepted: list[Digest] = []
        rejected: list[Digest] = []
        again: list[_Pending] = []
        for pending, result in zip(batch, results, strict=True):
            submission = pending.submission
            submission.attempts += 1
            submission.reason = result.code
            # On a later attempt a duplicate is our own: an earlier answer was lost on the way.
            if result.status == _ACCEPTED or (result.status == _DUPLICATE and submission.attempts > 1):
                submission.fate, submission.accepted = Fate.ACCEPTED, at
                accepted.append(submission.id)
            elif result.status in _RETRIED:
                again.append(pending)
            else:
                submission.fate = Fate.REJECTED
                rejected.append(submission.id)
        for fate, ids in ((Fate.ACCEPTED, accepted), (Fate.REJECTED, rejected)):
            self.fates[fate] += len(ids)
            if ids:
                self._observe(fate.value, ids, at)
        return again


async def _sleep_until(moment: int) -> None:
    if (wait := moment - now_ns()) > 0:
        await asyncio.sleep(wait / 1e9)
