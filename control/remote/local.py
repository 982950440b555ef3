"""Commands on this machine, for hosts with ``ansible_connection: local``."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess

from control.remote.hosts import Host
from control.remote.session import Away

__all__ = ["LocalSession"]

_CHUNK = 1 << 16
_END_S = 5.0  # more than the guard needs to end a command that ignores SIGTERM


class LocalSession:
    """This machine, by this user."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def start(self, line: str) -> LocalChannel:
        return LocalChannel(line)

    def close(self) -> None:
        pass


class LocalChannel:
    """A process in a session of its own, so that Ctrl-C reaches us alone."""

    def __init__(self, line: str) -> None:
        self._process = subprocess.Popen(
            ["sh", "-c", line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )

    def receive(self, timeout_s: float) -> bytes | None:
        assert self._process.stdout is not None
        poll = select.poll()  # select() itself knows descriptors below 1024 only
        poll.register(self._process.stdout, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return None
        return os.read(self._process.stdout.fileno(), _CHUNK)

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def exit_code(self, timeout_s: float) -> int:
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Away("the command closed its output but does not end") from None
        return code if code >= 0 else 128 - code

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
