"""Heavy cryptography in slices on the event loop's thread.

Not in worker threads: the signature library holds the interpreter's lock while it works, so two threads check no more
signatures a second than one (measured), and they would only make votes wait for the lock. A slice is a few signatures;
between slices the driver handles what has arrived.
"""

from __future__ import annotations

import time
from collections import deque
from typing import cast

from microchain.consensus.interface import Job, JobResult, VerifySignatures, Work, WorkDone
from microchain.consensus.work import perform
from microchain.crypto.suite import Keyring, Suite

__all__ = ["WorkQueue"]

SHORT_SIGNATURES = 32
"""Work with at most so many signatures goes before longer work: votes before a block's transactions."""
STEP_S = 0.0005
"""Signatures are checked in steps of about so long, on any board: between two steps the clock is read."""


class _Progress:
    """A Work half done: results of its first jobs, and of the first signatures of the job it is at."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.results: list[JobResult] = []
        self.checked: list[bool] = []


class WorkQueue:
    """Works that wait, shortest kind first."""

    def __init__(self, suite: Suite, keyring: Keyring) -> None:
        self._suite, self._keyring = suite, keyring
        self._short: deque[_Progress] = deque()
        self._long: deque[_Progress] = deque()
        self._step = 4
        self.signatures = 0
        """Signatures that wait to be checked."""

    def __bool__(self) -> bool:
        return bool(self._short or self._long)

    def add(self, work: Work) -> None:
        """Queue a work."""
        signatures = sum(len(job.items) for job in work.jobs if isinstance(job, VerifySignatures))
        self.signatures += signatures
        (self._short if signatures <= SHORT_SIGNATURES else self._long).append(_Progress(work))

    def run(self, deadline: float) -> WorkDone | None:
        """Work until one is done or ``time.monotonic()`` passes ``deadline``; None if none is done yet."""
        queue = self._short or self._long
        progress = queue[0]
        while len(progress.results) < len(progress.work.jobs):
            self._advance(progress)
            if time.monotonic() >= deadline:
                break
        if len(progress.results) < len(progress.work.jobs):
            return None
        queue.popleft()
        return WorkDone(progress.work.token, tuple(progress.results))

    def _advance(self, progress: _Progress) -> None:
        job = progress.work.jobs[len(progress.results)]
        if not isinstance(job, VerifySignatures):
            progress.results.append(self._perform(job))
            return
        done, started = len(progress.checked), time.monotonic()
        checked = cast(tuple[bool, ...], self._perform(VerifySignatures(job.items[done : done + self._step])))
        progress.checked += checked
        self.signatures -= len(checked)
        self._adapt(time.monotonic() - started)
        if len(progress.checked) == len(job.items):
            progress.results.append(tuple(progress.checked))
            progress.checked = []

    def _adapt(self, taken: float) -> None:
        if taken > STEP_S:
            self._step = max(1, self._step // 2)
        elif taken < STEP_S / 2:
            self._step = min(SHORT_SIGNATURES, 2 * self._step)

    def _perform(self, job: Job) -> JobResult:
        return perform((job,), self._suite, self._keyring)[0]
