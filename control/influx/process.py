"""One InfluxDB server as a process of this machine, below a directory of its own; it outlives who started it.

It is known by its command line, which names the directory: no pid file can be stale, no other process is taken for it,
and a server whose starter was killed is found again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from control.errors import DeploymentFailed, UsageError
from control.influx.transport import Server, ServerError, probe_health
from control.local_cluster import free_ports

__all__ = ["InfluxProcess", "read_version"]

_children: dict[Path, subprocess.Popen[bytes]] = {}
"""Servers that this very process started, by home: their ends have to be waited for."""

_ADDRESS = "127.0.0.1"
_START_S = 180.0
_STOP_S = 30.0
_POLL_S = 0.05
_HEALTH_S = 5.0
_TRIES = 3
_LOG_BYTES = 8 << 20
_VERSION = re.compile(r"InfluxDB v?(\d+\.\d+\.\d+)")

_CONFIG_1 = """\
reporting-disabled = true
bind-address = "127.0.0.1:0"
[meta]
dir = {meta}
[data]
dir = {data}
wal-dir = {wal}
query-log-enabled = false
max-series-per-database = 0
max-values-per-tag = 0
[http]
bind-address = "{address}:{port}"
auth-enabled = {auth}
flux-enabled = true
log-enabled = false
https-enabled = {tls}
https-certificate = {certificate}
https-private-key = {key}
[monitor]
store-enabled = false
"""


class InfluxProcess(Struct, frozen=True, kw_only=True):
    """The server below ``home``: ``data``, ``influxd.log``, ``port``, and for 1.8 ``influxd.conf``."""

    home: Path
    binary: Path
    major: int
    certificate: str = ""
    """Path of a certificate (PEM); with it and its ``key`` the server speaks TLS."""
    key: str = ""
    auth: bool = False
    """Whether 1.8 asks for user and password; 2.x always asks for a token."""

    @property
    def url(self) -> str:
        """Where it listens; the port is chosen when it first starts, and kept."""
        return f"{'https' if self.certificate else 'http'}://{_ADDRESS}:{self._read_port()}"

    @property
    def log(self) -> Path:
        return self.home / "influxd.log"

    def find(self) -> int:
        """Return its process id, or 0 if it does not run."""
        mark = os.fsencode(self._mark())
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "cmdline").read_bytes().split(b"\0"):
                    return int(process.name)
        return 0

    def start(self, ca: str = "", waiting: Callable[[], None] = lambda: time.sleep(_POLL_S)) -> str:
        """Start it unless it runs, wait until it is ready, return its version. DeploymentFailed if it does not start.

        ``ca`` is the certificate of the authority that signed ``certificate``; ``waiting`` waits a little.
        """
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home.chmod(0o700)
        for _ in range(_TRIES):
            if not self.find():
                self._spawn()
            version = self._wait_ready(ca, waiting)
            if version:
                return version
            if not self._was_port_taken():
                break
            (self.home / "port").unlink(missing_ok=True)
        raise DeploymentFailed(f"influxd did not start; the end of {self.log} says:\n{self._log_end()}")

    def stop(self) -> bool:
        """End it, by SIGTERM first; whether it ran. DeploymentFailed if it can't be ended."""
        pid = self.find()
        if not pid:
            return False
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            # Between finding and opening, the number may have gone to another.
            if self.find() == pid:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    signal.pidfd_send_signal(handle, number)
                    if select.select([handle], [], [], _STOP_S)[0]:
                        break
                else:
                    raise DeploymentFailed(f"influxd (process {pid}) could not be ended")
        except (ProcessLookupError, PermissionError) as error:
            if isinstance(error, PermissionError):
                raise DeploymentFailed(f"influxd (process {pid}) belongs to another user") from None
        finally:
            os.close(handle)
        self._reap()
        return True

    def kill(self) -> None:
        """End it as a crash would."""
        pid = self.find()
        if pid:
            os.kill(pid, signal.SIGKILL)
            while self.find():
                time.sleep(_POLL_S)
            self._reap()

    def _mark(self) -> str:
        """The argument that only this server has."""
        return f"{self.home}/influxd.conf" if self.major == 1 else f"--engine-path={self.home}/data/engine"

    def _reap(self) -> None:
        child = _children.pop(self.home, None)
        if child:
            child.wait()

    def _spawn(self) -> None:
        port = self._choose_port()
        (self.home / "data").mkdir(mode=0o700, exist_ok=True)
        (self.home / "port").write_text(str(port))
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "wb") as log:
            log.write(b"\n")
            log.flush()
            # Variables of the environment would overrule what is said here.
            environment = {"PATH": os.defpath, "HOME": str(self.home), "LANG": "C.UTF-8"}
            _children[self.home] = subprocess.Popen(
                self._command(port),
                cwd=self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _command(self, port: int) -> list[str]:
        data = self.home / "data"
        if self.major == 1:
            config = self.home / "influxd.conf"
            config.write_text(
                _CONFIG_1.format(
                    meta=_toml(data / "meta"),
                    data=_toml(data / "data"),
                    wal=_toml(data / "wal"),
                    address=_ADDRESS,
                    port=port,
                    auth=str(self.auth).lower(),
                    tls=str(bool(self.certificate)).lower(),
                    certificate=_toml(self.certificate),
                    key=_toml(self.key),
                )
            )
            return [str(self.binary), "run", "-config", str(config)]
        tls = [f"--tls-cert={self.certificate}", f"--tls-key={self.key}"] if self.certificate else []
        return [
            str(self.binary),
            "run",
            f"--http-bind-address={_ADDRESS}:{port}",
            "--reporting-disabled",
            "--log-level=warn",
            f"--bolt-path={data}/influxd.bolt",
            f"--sqlite-path={data}/influxd.sqlite",
            f"--engine-path={data}/engine",
            *tls,
        ]

    def _wait_ready(self, ca: str, waiting: Callable[[], None]) -> str:
        """Return the version once it answers; nothing if it has ended."""
        deadline = time.monotonic() + _START_S
        problem = ""
        while time.monotonic() < deadline:
            # Just after it began, a program's command line can't be seen yet.
            child = _children.get(self.home)
            if not self.find() and (child is None or child.poll() is not None):
                return ""
            try:
                return probe_health(Server(url=self.url, ca=ca, timeout_s=_HEALTH_S))
            except ServerError as error:
                problem = str(error)
            waiting()
        self.stop()
        raise DeploymentFailed(f"influxd was not ready within {_START_S:.0f} s: {problem}; its log is {self.log}")

    def _read_port(self) -> int:
        try:
            port = int((self.home / "port").read_text())
        except (OSError, ValueError):
            return 0
        return port if 0 < port < 65536 else 0

    def _choose_port(self) -> int:
        """Take the port of last time; another if somebody listens there now, who could be mistaken for us."""
        port = self._read_port()
        if port:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    probe.bind((_ADDRESS, port))
                    return port
        return free_ports(1)[0]

    def _was_port_taken(self) -> bool:
        return "address already in use" in self._log_end()

    def _log_end(self) -> str:
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(0, self.log.stat().st_size - 4096))
                return stream.read().decode(errors="replace").rpartition("\n\n")[2].strip()
        except OSError as error:
            return str(error)


def read_version(binary: Path) -> str:
    """Ask an ``influxd`` for its version; UsageError if it can't say or is neither 1.8 nor 2.x."""
    try:
        # A library inside it leaves a file in the home directory whatever it is asked.
        with tempfile.TemporaryDirectory() as home:
            environment = {"PATH": os.defpath, "HOME": home, "LANG": "C.UTF-8"}
            command = [str(binary), "version"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{binary} can't be run: {error}") from None
    found = _VERSION.search(done.stdout + done.stderr)
    if not found:
        raise UsageError(f"{binary} does not say its version, so it is no influxd of InfluxDB 1.8 or 2.x")
    version = found[1]
    if not version.startswith(("1.8.", "2.")):
        raise UsageError(f"{binary} is InfluxDB {version}; 1.8 or 2.x is needed")
    return version


def _toml(path: Path | str) -> str:
    """A TOML string; JSON's escapes are a part of TOML's."""
    return json.dumps(str(path))
