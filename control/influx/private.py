"""The private server: on this machine's loopback, its data in ``.cache/influxdb``, one for the whole project.

``1/`` and ``2/`` hold what the two generations keep, each with the connection file that opens it. The one that is in
use is ``connection.json`` beside them, which is there from ``up`` until ``down``.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from control.errors import ControlError, DeploymentFailed, UsageError
from control.influx import build, dashboards, provision
from control.influx.binary import HOME, find_binary
from control.influx.connection import DEFAULT, Connection, load_connection, save_connection
from control.influx.process import InfluxProcess
from control.influx.transport import Server, probe_health
from control.influx.wish import Wish

__all__ = ["GIVEN", "State", "down", "find_running", "state", "up", "use"]

GIVEN = HOME / "given.json"
"""The connection to a server that ``--url`` named last."""

_NONE = (
    "there is no InfluxDB server here: install the package influxdb2 of InfluxData or Go 1.16 (then one is built), "
    "or give the address of one with --url; docs/influxdb.md says more"
)


class State(Struct, frozen=True):
    """What there is: the connection in use, and whether its server answers."""

    connection: Connection | None
    problem: str
    """Why it can't be used; empty if it can."""
    pid: int
    """Of the private server; 0 for another's or none."""
    bytes: int
    """What it has on disk."""


def up(
    major: int | None,
    retention_s: int | None,
    say: Callable[[str], None],
    waiting: Callable[[str], None],
) -> Connection:
    """Have a private server run, and return its connection: the one that runs, else one on PATH, built, or built now.

    UsageError if another generation runs than ``major``; DeploymentFailed (exit code 3) if there is none to be had.
    """
    with _lock():
        running = find_running()
        if running and major not in (None, running.major):
            raise UsageError(f"a private InfluxDB {running.major} is running; `./testbed influx down` ends it first")
        given = None if running or major else _find_given()
        if given:
            return given
        process = running or _choose(major, say, waiting)
        process.start(waiting=lambda: waiting("waiting for InfluxDB"))
        own = process.home / "connection.json"
        known = load_connection(own) if own.exists() else None
        wish = Wish(url=process.url, retention_s=retention_s)
        if known:
            wish = Wish(url=process.url, org=_organisation(known), bucket=_bucket(known), retention_s=retention_s)
        provision.provision(wish, own)
        connection = load_connection(own)
        save_connection(DEFAULT, connection)
        dashboards.offer(connection, say)
        return connection


def use(connection: Connection) -> None:
    """Take a server that somebody else runs, once it is seen to take the tokens."""
    with _lock():
        running = find_running()
        if running:
            raise UsageError(f"a private InfluxDB {running.major} is running; `./testbed influx down` ends it first")
        provision.verify(connection)
        save_connection(DEFAULT, connection)


def down(*, purge: bool = False) -> list[str]:
    """End the private server and forget the connection; with ``purge`` delete its data. Returns what was done."""
    done: list[str] = []
    if not HOME.is_dir():
        return done
    with _lock():
        for process in _processes():
            if process.stop():
                done.append(f"InfluxDB {process.major} ended")
            if purge and process.home.is_dir():
                shutil.rmtree(process.home)
                done.append(f"data of InfluxDB {process.major} deleted")
        if DEFAULT.exists():
            DEFAULT.unlink()
            if purge:
                GIVEN.unlink(missing_ok=True)
            done.append("connection forgotten")
    return done


def state() -> State:
    """Look at what there is; never raises."""
    running = find_running()
    pid = running.find() if running else 0
    size = _measure(running.home) if running else 0
    connection, problem = None, ""
    try:
        if pid or DEFAULT.exists():
            connection = load_connection(DEFAULT)
            probe_health(Server(url=connection.url, ca=connection.ca))
    except ControlError as error:
        problem = str(error)
    return State(connection, problem, pid, size)


def find_running() -> InfluxProcess | None:
    """Return the private server that runs."""
    return next((process for process in _processes() if process.find()), None)


def _measure(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):  # a running server replaces its files
            total += path.lstat().st_size
    return total


def _find_given() -> Connection | None:
    """Return the connection to somebody else's server that was taken before, if it still does."""
    try:
        connection = load_connection(DEFAULT)
        provision.verify(connection)
    except ControlError:
        return None
    return connection


def _processes() -> list[InfluxProcess]:
    return [InfluxProcess(home=HOME / str(major), binary=Path("influxd"), major=major) for major in (2, 1)]


def _choose(major: int | None, say: Callable[[str], None], waiting: Callable[[str], None]) -> InfluxProcess:
    found = find_binary(major)
    if found is None:
        wanted = major or 1  # five minutes are for those who ask for them
        missing = build.find_missing_tools(wanted)
        if missing and major:
            raise DeploymentFailed(
                f"there is no InfluxDB {major}.x here, and to build one {', '.join(missing)} is missing"
            )
        if missing:
            raise DeploymentFailed(_NONE)
        found = build.build(wanted, say, waiting), wanted
    binary, chosen = found
    return InfluxProcess(home=HOME / str(chosen), binary=binary, major=chosen)


def _organisation(known: Connection) -> str:
    return known.org if known.major == 2 else Wish(url="").org


def _bucket(known: Connection) -> str:
    return known.bucket.partition("/")[0] if known.major == 1 else known.bucket


@contextmanager
def _lock() -> Iterator[None]:
    """One ``up`` or ``down`` at a time."""
    HOME.mkdir(mode=0o700, parents=True, exist_ok=True)
    HOME.chmod(0o700)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
