"""Hands on the hosts: what happens to validators in a fault experiment, at once and over connections that stay open."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Self

from msgspec import Struct

from control.errors import UsageError
from control.inventory import Deployment
from control.remote.fanout import connect
from control.remote.hosts import Host
from control.remote.lines import LineSplitter
from control.remote.session import Refused, Session, run
from control.remote.ssh import SshSession

__all__ = ["Answer", "Hands"]

_ACTION_S = 60.0
_MOST_OUTPUT = 1 << 20

_Action = Literal["start", "stop", "KILL", "STOP", "CONT"]


class Answer(Struct, frozen=True):
    """What a command came to; ``text`` is its output, both streams in one, at most 1 MiB."""

    code: int
    text: str


class Hands:
    """Acts on the validators of ``deployment``; safe to use from several threads.

    Every method raises Away if the host can't be reached, Refused if the action did not succeed there; both say what to
    do. A name that there is not is a UsageError. Where systemd runs the validators, one that is paused for longer than
    the unit's watchdog allows is killed by it.
    """

    def __init__(self, hosts: Mapping[str, Host], deployment: Deployment) -> None:
        self._hosts = dict(hosts)
        self._places = {endpoint.name: endpoint.host for endpoint in deployment.endpoints}
        self._sessions: dict[str, Session] = {}
        self._locks = {name: threading.Lock() for name in hosts}
        self._cancel = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what still runs, and the connections."""
        self._cancel.set()
        for session in self._sessions.values():
            session.close()

    def start(self, validator: str) -> None:
        """Start a validator; nothing if it runs."""
        self._act(validator, "start")

    def stop(self, validator: str) -> None:
        """Let a validator end in order, and wait for it; nothing if it does not run."""
        self._act(validator, "stop")

    def kill(self, validator: str) -> None:
        """Kill a validator (SIGKILL): what it had not written is lost."""
        self._act(validator, "KILL")

    def pause(self, validator: str) -> None:
        """Let a validator stand still (SIGSTOP); its connections stay open."""
        self._act(validator, "STOP")

    def resume(self, validator: str) -> None:
        """Let a paused validator go on (SIGCONT)."""
        self._act(validator, "CONT")

    def run(self, host: str, line: str, *, sudo: bool = False, timeout_s: float = _ACTION_S) -> Answer:
        """Run a line of shell on a host. Refused if its output passes 1 MiB."""
        if host not in self._hosts:
            raise UsageError(f"there is no host '{host}'; there are: {', '.join(self._hosts)}")
        lines: list[str] = []
        splitter = LineSplitter(lines.append)
        left = _MOST_OUTPUT

        def write(data: bytes) -> None:
            nonlocal left
            left -= len(data)
            if left < 0:
                raise Refused(f"the output of '{line}' passed {_MOST_OUTPUT >> 20} MiB")
            splitter.write(data)

        code = run(self._session(host), line, write, sudo=sudo, timeout_s=timeout_s, cancel=self._cancel)
        splitter.close()
        return Answer(code, "\n".join(lines))

    def _act(self, validator: str, action: _Action) -> None:
        place = self._places.get(validator)
        if place is None:
            raise UsageError(f"there is no validator '{validator}'; deployed are: {', '.join(self._places)}")
        if place not in self._hosts:
            raise UsageError(f"host '{place}' of validator '{validator}' is not among the hosts chosen")
        host = self._hosts[place]
        if host.backend == "systemd":
            answer = self.run(place, _systemd_command(validator, action), sudo=True)
        else:
            answer = self.run(place, _supervisor_command(host, validator, action))
        if answer.code:
            raise Refused(f"{place}: {action} of {validator} failed ({answer.code}): {answer.text[-500:]}")

    def _session(self, name: str) -> Session:
        with self._locks[name]:
            session = self._sessions.get(name)
            if isinstance(session, SshSession) and not session.alive:
                session.close()
                session = None
            if session is None:
                session = self._sessions[name] = connect(self._hosts[name])
            return session


def _systemd_command(validator: str, action: _Action) -> str:
    unit = shlex.quote(f"microchain@{validator}")
    return f"systemctl {action} {unit}" if action in ("start", "stop") else f"systemctl kill --signal={action} {unit}"


def _supervisor_command(host: Host, validator: str, action: _Action) -> str:
    program = f"{shlex.quote(f'{host.root}/env/bin/python')} -m supervisor.supervisorctl"
    words = action if action in ("start", "stop") else f"signal {action}"
    # Its socket is named relative to this directory (see supervisor.conf).
    return f"cd {shlex.quote(f'{host.root}/supervisor')} && exec {program} -c supervisor.conf {words} {validator}"
