"""One command at a time on one host: over SSH by Fabric, or by a process of this machine; bounded and interruptible.

A command never outlives its caller: it is watched over on the host by a shell that ends it when its time is over, and
when our end of the connection is gone.
"""

from __future__ import annotations

import logging
import secrets
import shlex
import time
from collections.abc import Callable
from threading import Event
from typing import Protocol

from control.remote.hosts import Host

__all__ = ["Away", "Channel", "Refused", "Session", "run"]

_LONGEST_S = 24 * 3600.0
_POLL_S = 0.25
_GRACE_S = 10.0
_MOST_BEFORE_START = 1 << 16

# What paramiko has to say of a broken connection is in the exceptions that it raises.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class Away(Exception):
    """The host can't be reached or was lost; the message says why and what to do."""


class Refused(Exception):
    """The host was reached but does not let the command run; the message says why and what to do."""


class Channel(Protocol):
    """A running command; its two outputs are one."""

    def receive(self, timeout_s: float) -> bytes | None:
        """Return what came, b"" at the end, None if nothing came in time; Away if the connection broke."""
        ...

    def send(self, data: bytes) -> None: ...

    def has_ended(self) -> bool:
        """Whether the command ended; what it left in the background may still hold the output open."""
        ...

    def exit_code(self, timeout_s: float) -> int:
        """Return the code after the end of the output; Away if the connection broke before it came."""
        ...

    def close(self) -> None:
        """End the command, if it still runs."""
        ...


class Session(Protocol):
    """A connection to one host."""

    host: Host

    def start(self, line: str) -> Channel:
        """Start a line of shell."""
        ...

    def close(self) -> None: ...


def run(
    session: Session,
    line: str,
    write: Callable[[bytes], None],
    *,
    sudo: bool = False,
    timeout_s: float,
    cancel: Event,
) -> int:
    """Run a line of shell, hand its output to ``write`` as it comes, and return its exit code (124: out of time).

    Away if the host was lost, Refused if sudo or the account does not let it run. When ``cancel`` is set, or ``write``
    raises, the command is ended.
    """
    mark, prompt = secrets.token_hex(8), secrets.token_hex(8)
    guarded = _guarded(line, mark, timeout_s)
    channel = session.start(_as_root(session.host, guarded, prompt) if sudo else guarded)
    try:
        deadline = time.monotonic() + timeout_s + _GRACE_S
        rest = _await_start(session.host, channel, mark.encode() + b"\n", prompt.encode(), sudo, deadline, cancel)
        if rest:
            write(rest)
        while True:
            data = _next(session.host, channel, deadline, cancel)
            if not data:
                return channel.exit_code(_GRACE_S)
            write(data)
    finally:
        channel.close()


def _guarded(line: str, mark: str, timeout_s: float) -> str:
    """Return a line that prints ``mark``, runs ``line``, and ends it when it takes too long or our end is gone.

    Standard input is held open by us and ends with the connection; the guard that waits for that holds no output open.
    """
    inner = f"timeout -k 2 {min(timeout_s, _LONGEST_S):g} sh -c {shlex.quote(line)}"
    script = (
        f"exec 2>&1; echo {mark}; exec 3<&0; {inner} </dev/null 3<&- & child=$!; "
        "{ cat <&3; kill $child; } >/dev/null 2>&1 & guard=$!; "
        "wait $child; code=$?; kill $guard 2>/dev/null; exit $code"
    )
    return f"exec sh -c {shlex.quote(script)}"


def _as_root(host: Host, line: str, prompt: str) -> str:
    how = f"-S -p {prompt}" if host.become_password else "-n"
    return f"sudo {how} -- sh -c {shlex.quote(line)}"


def _await_start(
    host: Host, channel: Channel, mark: bytes, prompt: bytes, sudo: bool, deadline: float, cancel: Event
) -> bytes:
    """Return what came behind the mark; what came before (a greeting, sudo's lecture) is no output of the command.

    sudo is told the password only here, so nothing that the command prints can ask for it.
    """
    before = b""
    asked = 0
    while mark not in before:
        data = _next(host, channel, deadline, cancel)
        if not data or len(before) > _MOST_BEFORE_START:
            raise Refused(_why_not(host, before, sudo))
        before += data
        if sudo and host.become_password and before.count(prompt) > asked:
            asked += 1
            if asked > 1:
                raise Refused("sudo does not take the password: check ansible_become_password")
            channel.send(host.become_password.encode() + b"\n")
    return before.partition(mark)[2]


def _why_not(host: Host, said: bytes, sudo: bool) -> str:
    text = said.decode(errors="replace").strip()[-500:] or "no reason given"
    if sudo and "password is required" in text:
        return "sudo asks for a password: set ansible_become_password, or allow the user to use sudo without one"
    what = "sudo" if sudo else f"the shell of user {host.user or 'here'}"
    return f"{what} did not start the command: {text}"


def _next(host: Host, channel: Channel, deadline: float, cancel: Event) -> bytes:
    while True:
        if cancel.is_set():
            raise KeyboardInterrupt
        data = channel.receive(_POLL_S)
        if data is not None:
            return data
        if channel.has_ended():
            return b""
        if time.monotonic() > deadline:
            raise Away("it neither answers nor ends the command: './testbed status' shows whether it is well")
