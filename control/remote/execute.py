"""``./testbed exec``: one command on all hosts of an inventory, or on some."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from control.remote.fanout import Emit, Job, Outcome, connect, run_all
from control.remote.hosts import Host
from control.remote.lines import LineSplitter, PrefixedPrinter
from control.remote.session import Refused, run

__all__ = ["MOST_OUTPUT", "execute", "execute_on", "report"]

MOST_OUTPUT = 16 << 20
"""Bytes of one host's output; a command that has more to say is ended."""

_UNREACHABLE = 3


def execute(
    hosts: Mapping[str, Host], words: Sequence[str], console: Console, *, sudo: bool = False, timeout_s: float
) -> int:
    """Run a line of shell (one word), or a program with its arguments, on all hosts; print what they say.

    The exit code is the greatest of the hosts', or 3 if one gave none.
    """
    line = words[0] if len(words) == 1 else shlex.join(words)
    printer = PrefixedPrinter(console, hosts)
    return report(execute_on(hosts, line, printer.line, sudo=sudo, timeout_s=timeout_s), printer, timeout_s)


def execute_on(
    hosts: Mapping[str, Host], line: str, show: Callable[[str, str], None], *, sudo: bool = False, timeout_s: float
) -> dict[str, Outcome]:
    """Run a line of shell on all hosts; ``show`` gets each line of output with its host."""
    return run_all({name: _make_job(host, line, sudo, timeout_s) for name, host in hosts.items()}, show)


def report(outcomes: Mapping[str, Outcome], printer: PrefixedPrinter, timeout_s: float) -> int:
    """Say which hosts did not succeed, and why; returns the exit code of all together."""
    codes = []
    for name, outcome in outcomes.items():
        if not isinstance(outcome, int):
            printer.note(name, str(outcome))
        elif outcome:
            codes.append(outcome)
            late = f" (it was ended after {timeout_s:g} s)" if outcome == 124 else ""
            printer.note(name, f"exit code {outcome}{late}")
    away = [name for name, outcome in outcomes.items() if not isinstance(outcome, int)]
    if away and len(outcomes) > 1:
        printer.note("", f"without an answer: {', '.join(away)}")
    return _UNREACHABLE if away else max(codes, default=0)


def _make_job(host: Host, line: str, sudo: bool, timeout_s: float) -> Job:
    def job(emit: Emit, cancel: threading.Event) -> int:
        lines = LineSplitter(emit)
        left = MOST_OUTPUT

        def write(data: bytes) -> None:
            nonlocal left
            lines.write(data[:left])
            left -= len(data)
            if left < 0:
                raise Refused(
                    f"the command was ended when its output passed {MOST_OUTPUT >> 20} MiB; write it to a file there"
                )

        session = connect(host)
        try:
            return run(session, line, write, sudo=sudo, timeout_s=timeout_s, cancel=cancel)
        finally:
            lines.close()
            session.close()

    return job
