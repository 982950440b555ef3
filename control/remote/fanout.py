"""The same for many hosts at once: threads, a bounded number of them, whose lines one screen takes in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from queue import Empty, Full, Queue

from control.remote.hosts import Host
from control.remote.local import LocalSession
from control.remote.session import Away, Refused, Session
from control.remote.ssh import SshSession

__all__ = ["Emit", "Job", "Outcome", "connect", "run_all"]

_WAITING_LINES = 1000
_POLL_S = 0.2
_FAREWELL_S = 6.0
_INTERRUPTED = 130

Emit = Callable[[str], None]
"""Shows one line."""

Job = Callable[[Emit, threading.Event], int]
"""What is done for one name; returns an exit code, raises Away or Refused. Ends soon after the event is set."""

Outcome = int | Away | Refused


def connect(host: Host) -> Session:
    """Open a connection; Away if there can't be one."""
    return LocalSession(host) if host.local else SshSession(host)


def run_all(
    jobs: Mapping[str, Job],
    show: Callable[[str, str], None],
    *,
    at_once: int = 16,
    cancel: threading.Event | None = None,
) -> dict[str, Outcome]:
    """Do all jobs, ``at_once`` of them at a time; ``show`` gets each line with its job's name, in this thread.

    Setting ``cancel`` ends them all; so does an interruption, which then goes on to the caller.
    """
    lines: Queue[tuple[str, str]] = Queue(_WAITING_LINES)
    waiting, outcomes = deque(jobs), dict[str, Outcome]()
    cancel = cancel or threading.Event()

    def emit(name: str, text: str) -> None:
        while not cancel.is_set():
            try:
                return lines.put((name, text), timeout=_POLL_S)
            except Full:
                continue
        raise KeyboardInterrupt

    def work() -> None:
        while not cancel.is_set():
            try:
                name = waiting.popleft()
            except IndexError:
                return
            outcomes[name] = _attempt(jobs[name], lambda text, name=name: emit(name, text), cancel)  # type: ignore[misc]

    # Daemons: one that hangs in a connection does not keep an interrupted command from ending.
    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(jobs)))]
    try:
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers) or not lines.empty():
            try:
                show(*lines.get(timeout=_POLL_S))
            except Empty:
                continue
    finally:
        cancel.set()
        deadline = time.monotonic() + _FAREWELL_S
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
    return {name: outcomes.get(name, _INTERRUPTED) for name in jobs}


def _attempt(job: Job, emit: Emit, cancel: threading.Event) -> Outcome:
    try:
        return job(emit, cancel)
    except (Away, Refused) as error:
        return error
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:  # of one host; the others go on
        return Refused(f"{type(error).__name__}: {error}")
