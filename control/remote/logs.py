"""``./testbed logs``: what the validators write, from all hosts on one screen, also while they write it."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

from msgspec import Struct
from rich.console import Console

from control.errors import UsageError
from control.inventory import Deployment
from control.remote.fanout import Emit, Job, connect, run_all
from control.remote.hosts import Host
from control.remote.lines import LineSplitter, PrefixedPrinter
from control.remote.session import Away, Session, run

__all__ = ["LogSource", "choose_sources", "show_logs"]

_ONCE_S = 120.0
_FOR_EVER_S = float("inf")
_AGAIN_LINES = 200
"""After a lost connection so many lines are asked for again; those that were shown are left out."""

_HOLD_S = 1.0
_LONGEST_PAUSE_S = 10.0
_NO_LOG = "has no log: it has not run since deploy or reset"
_UNREACHABLE = 3


class LogSource(Struct, frozen=True):
    """One validator's log; ``label`` is what its lines are shown behind."""

    label: str
    host: Host
    validator: str

    def command(self, lines: int, *, follow: bool) -> str:
        """Return a line of shell that prints the last ``lines`` lines, and goes on with those that come if asked to.

        With systemd its word on the unit (starts, ends, watchdog) is in the journal; the validator writes a file.
        """
        file = shlex.quote(f"{self.host.state}/validators/{self.validator}/node.log")
        journal = (
            f"journalctl --quiet --no-pager -o short-iso -n {lines} -u {shlex.quote(f'microchain@{self.validator}')}"
        )
        systemd = self.host.backend == "systemd"
        if follow:
            parts = [f"{journal} -f &"] if systemd else []
            return " ".join([*parts, f"exec tail -n {lines} -F {file} 2>/dev/null"])
        parts = [f"{journal};"] if systemd else []
        return " ".join(
            [*parts, f"if [ -e {file} ]; then exec tail -n {lines} {file}; fi; echo {shlex.quote(_NO_LOG)}"]
        )


def choose_sources(hosts: Mapping[str, Host], deployment: Deployment, validators: Sequence[str]) -> list[LogSource]:
    """Return the logs of the validators named (none: of all) on these hosts; UsageError for one that there is not."""
    known = {endpoint.name: endpoint.host for endpoint in deployment.endpoints}
    for name in validators:
        if name not in known:
            raise UsageError(f"there is no validator '{name}'; deployed are: {', '.join(known)}")
    chosen = {name: known[name] for name in validators or known if known[name] in hosts}
    if not chosen:
        raise UsageError("none of the validators is on these hosts; './testbed status' shows what is deployed where")
    return [LogSource(_label(name, host, len(set(known.values()))), hosts[host], name) for name, host in chosen.items()]


def show_logs(
    sources: Sequence[LogSource], console: Console, *, lines: int, follow: bool, cancel: threading.Event | None = None
) -> int:
    """Print the logs until their end, until interrupted or ``cancel`` is set; 3 if a host can't be reached, else 0.

    While following, a host that is lost is tried again and again.
    """
    printer = PrefixedPrinter(console, [source.label for source in sources])

    def show(label: str, text: str) -> None:
        (printer.note if isinstance(text, _Note) else printer.line)(label, text)

    jobs = {s.label: _follow_job(s, lines) if follow else _once_job(s, lines) for s in sources}
    outcomes = run_all(jobs, show, at_once=len(jobs) if follow else 16, cancel=cancel)
    failed = {label: outcome for label, outcome in outcomes.items() if not isinstance(outcome, int)}
    for label, reason in failed.items():
        printer.note(label, str(reason))
    return _UNREACHABLE if failed else 0


class _Note(str):
    """A line that is ours, not the validator's."""


def _once_job(source: LogSource, lines: int) -> Job:
    def job(emit: Emit, cancel: threading.Event) -> int:
        session = connect(source.host)
        try:
            return _read(session, source.command(lines, follow=False), emit, _ONCE_S, cancel)
        finally:
            session.close()

    return job


def _follow_job(source: LogSource, lines: int) -> Job:
    def job(emit: Emit, cancel: threading.Event) -> int:
        recent = _Recent(emit)
        lost, pause = "", 1.0
        while not cancel.is_set():
            began = time.monotonic()
            try:
                session = connect(source.host)
                try:
                    if lost:
                        emit(_Note("is there again"))
                        lost = ""
                    command = source.command(_AGAIN_LINES if recent.begun else lines, follow=True)
                    _read(session, command, recent.renew(), _FOR_EVER_S, cancel)
                finally:
                    session.close()
            except Away as away:
                if not lost:
                    emit(_Note(f"{away}; trying again"))
                lost = str(away)
            pause = 1.0 if time.monotonic() - began > _LONGEST_PAUSE_S else min(2 * pause, _LONGEST_PAUSE_S)
            cancel.wait(pause)
        return 0

    return job


def _read(session: Session, command: str, emit: Emit, timeout_s: float, cancel: threading.Event) -> int:
    lines = LineSplitter(emit)
    try:
        return run(
            session, command, lines.write, sudo=session.host.backend == "systemd", timeout_s=timeout_s, cancel=cancel
        )
    finally:
        if not cancel.is_set():
            lines.close()


class _Recent:
    """Knows the last lines shown. When they come again behind a lost connection, only what is newer goes on.

    The first lines are held back: they are old if one that was shown is behind them. If none is (the log was begun
    anew, or much was written meanwhile), they go on a moment later.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._lock = threading.Lock()
        self._shown: deque[str] = deque(maxlen=2 * _AGAIN_LINES)
        self._before: frozenset[str] = frozenset()
        self._held: list[str] | None = None
        self._is_first = True
        self.begun = False

    def renew(self) -> Emit:
        """Return what takes the lines of the next connection."""
        with self._lock:
            self._before = frozenset(self._shown)
            self._held = [] if self.begun else None
            self.begun = True
            self._is_first = True
        return self._take

    def _take(self, line: str) -> None:
        with self._lock:
            if self._held is not None and self._is_first:
                timer = threading.Timer(_HOLD_S, self._release)
                timer.daemon = True
                timer.start()
            self._is_first = False
            if self._held is None:
                self._show(line)
            elif line in self._before:
                self._held.clear()
            else:
                self._held.append(line)

    def _release(self) -> None:
        with self._lock, contextlib.suppress(KeyboardInterrupt):
            held, self._held = self._held, None
            for line in held or ():
                self._show(line)

    def _show(self, line: str) -> None:
        self._shown.append(line)
        self._emit(line)


def _label(validator: str, host: str, hosts: int) -> str:
    """Return the host's and the validator's name, or one of them where that says it all."""
    return validator if hosts == 1 or validator.startswith(host) else f"{host}/{validator}"
