"""A server for the demo: the one in use, or a private one while it lasts, or none, which is said in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from control.errors import ControlError
from control.influx import private
from control.influx.binary import HOME, VERSIONS
from control.influx.connection import Connection, load_connection

__all__ = ["server_for_demo"]


@contextmanager
def server_for_demo(
    say: Callable[[str], None], waiting: Callable[[str], None], *, keep: bool
) -> Iterator[Connection | None]:
    """Yield the server that points are streamed to, or None; what is started here is ended after it, unless ``keep``.

    A server that is there already is used as it is, and goes on. None of this ever fails a demo.
    """
    before = private.state()
    if before.connection is not None and not before.problem:
        say(f"points are streamed to InfluxDB {before.connection.version} at {before.connection.url}")
        yield before.connection
        return
    if before.connection is not None and not _is_own(before.connection):
        say(f"without InfluxDB: the server in use can't be used: {before.problem}")
        yield None
        return
    try:
        connection = private.up(None, None, say, waiting)
    except (ControlError, OSError) as error:
        say(f"without InfluxDB: {error}")
        if not before.pid and private.find_running():
            _end(say)
        yield None
        return
    say(f"points are streamed to InfluxDB {connection.version} at {connection.url}")
    try:
        yield connection
    finally:
        if before.pid:
            say("InfluxDB was running before, and goes on")
        elif keep:
            say("InfluxDB goes on running: `./testbed influx status` says where, `./testbed influx down` ends it")
        else:
            _end(say)


def _is_own(connection: Connection) -> bool:
    """Whether it is the private server's, which may have ended with the machine."""
    for major in VERSIONS:
        try:
            if load_connection(HOME / str(major) / "connection.json").write_token == connection.write_token:
                return True
        except ControlError:
            continue
    return False


def _end(say: Callable[[str], None]) -> None:
    try:
        for line in private.down():
            say(line)
    except (ControlError, OSError) as error:
        say(f"InfluxDB could not be ended: {error}")
