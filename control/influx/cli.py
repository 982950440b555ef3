"""``./testbed influx VERB``: a server for the timing data of runs."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from control.errors import UsageError
from control.influx import backfill, build, dashboards, private, provision
from control.influx.binary import HOME, VERSIONS
from control.influx.connection import DEFAULT, Connection, find_problem, load_connection
from control.influx.transport import Server, probe_health
from control.influx.wish import Wish
from control.project import shown_path

__all__ = ["add_parser", "parse_retention"]

_POLL_S = 0.2
_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}

_Waiting = Callable[[str], None]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``influx`` and its own verbs."""
    text = "an InfluxDB server for the timing data of runs"
    verbs = commands.add_parser("influx", help=text, description=f"{text[0].upper()}{text[1:]}.").add_subparsers(
        metavar="VERB", required=True
    )
    start = verbs.add_parser(
        "up",
        help="run a private server on this machine, or take one that is given",
        description="Run a private server on loopback, its data in .cache/influxdb: influxd on PATH, one built before, "
        "or one built now. With --url take a server that runs elsewhere. Done again it changes nothing.",
    )
    start.add_argument("--version", choices=("1", "2"), help="1.8 or 2.x only; --version 2 builds 2.7 if need be")
    start.add_argument("--retention", metavar="TIME", help="how long points are kept: 12h, 30d, 8w, or 'forever'")
    start.add_argument("--url", help="of a server that somebody runs: http[s]://host:8086")
    start.add_argument("--org", default="testbed", help="its organisation, with --url (testbed)")
    start.add_argument("--bucket", default="microchain", help="its bucket, with --url (microchain)")
    start.add_argument("--ca", type=Path, help="certificate of its authority, with --url")
    start.add_argument(
        "--token-file", type=Path, metavar="FILE", help="its operator's token: makes bucket and tokens ($INFLUX_TOKEN)"
    )
    start.add_argument("--write-token-file", type=Path, metavar="FILE", help="a token that may write to the bucket")
    start.add_argument("--read-token-file", type=Path, metavar="FILE", help="a token that may read from it")
    start.set_defaults(run=_up)

    verbs.add_parser("status", help="what runs, where, and how large it is").set_defaults(run=_status)

    stop = verbs.add_parser("down", help="end the private server; its data stays")
    stop.add_argument("--purge", action="store_true", help="delete its data")
    stop.set_defaults(run=_down)

    backfill.add_parser(verbs)

    make = verbs.add_parser("build", help="build the server, for tests of both generations")
    make.add_argument("--version", choices=("1", "2", "all"), default="1", help="1.8 (default), 2.7 or both")
    make.set_defaults(run=_build)


def parse_retention(text: str | None) -> int | None:
    """Return seconds, 0 for ever, None for what is there; UsageError for anything else."""
    if text is None:
        return None
    if text == "forever":
        return 0
    found = re.fullmatch(r"([1-9]\d{0,5})([hdw])", text)
    if not found:
        raise UsageError(f"--retention '{text}': give hours, days or weeks such as 12h, 30d, 8w, or 'forever'")
    return int(found[1]) * _UNITS[found[2]]


def _up(options: argparse.Namespace, console: Console) -> int:
    retention_s = parse_retention(options.retention)
    if options.url:
        connection = _take(options, retention_s)
        dashboards.offer(connection, lambda text: _say(console, text))
    else:
        _refuse_without_url(options)
        with _progress(console) as waiting:
            major = int(options.version) if options.version else None
            connection = private.up(major, retention_s, lambda text: _say(console, text), waiting)
    _show(connection, console)
    return 0


def _refuse_without_url(options: argparse.Namespace) -> None:
    for name in ("ca", "token_file", "write_token_file", "read_token_file"):
        if getattr(options, name):
            raise UsageError(f"--{name.replace('_', '-')} is for a server given with --url")


def _take(options: argparse.Namespace, retention_s: int | None) -> Connection:
    """Take somebody's server: with the operator's token make what is missing, else check the tokens that are given."""
    if options.version:
        raise UsageError("--version is for a private server; one given with --url says its own")
    url, ca = options.url.rstrip("/"), str(options.ca.resolve()) if options.ca else ""
    draft = Connection(url=url, version="2.0.0", org=options.org, bucket=options.bucket, ca=ca)
    if problem := find_problem(draft):
        raise UsageError(problem)
    if options.write_token_file or options.read_token_file:
        if not (options.write_token_file and options.read_token_file):
            raise UsageError("give both --write-token-file and --read-token-file, or the operator's --token-file")
        version = probe_health(Server(url=url, ca=ca))
        connection = Connection(
            url=url,
            version=version,
            org="-" if version.startswith("1.") else options.org,
            bucket=f"{options.bucket}/autogen" if version.startswith("1.") else options.bucket,
            write_token=provision.read_secret(options.write_token_file),
            read_token=provision.read_secret(options.read_token_file),
            ca=ca,
        )
    else:
        token = provision.read_secret(options.token_file) if options.token_file else os.environ.get("INFLUX_TOKEN", "")
        wish = Wish(url=url, org=options.org, bucket=options.bucket, retention_s=retention_s, ca=ca)
        provision.provision(wish, private.GIVEN, token)
        connection = load_connection(private.GIVEN)
    private.use(connection)
    return connection


def _status(options: argparse.Namespace, console: Console) -> int:
    state = private.state()
    if state.connection:
        _show(state.connection, console)
    if state.pid:
        _say(console, f"private server: process {state.pid}, {state.bytes / 1e6:.1f} MB in {shown_path(HOME)}")
    if state.problem:
        _say(console, f"can't be used: {state.problem}")
    elif not state.connection:
        _say(console, "no InfluxDB server is in use; `./testbed influx up` runs one")
    return 0


def _down(options: argparse.Namespace, console: Console) -> int:
    for line in private.down(purge=options.purge) or ["no private InfluxDB server runs"]:
        _say(console, line)
    return 0


def _build(options: argparse.Namespace, console: Console) -> int:
    for major in VERSIONS if options.version == "all" else (int(options.version),):
        began = time.monotonic()
        with _progress(console) as waiting:
            binary = build.build(major, lambda text: _say(console, text), waiting)
        _say(console, f"InfluxDB {VERSIONS[major]}: {shown_path(binary)} ({time.monotonic() - began:.0f} s)")
    return 0


def _show(connection: Connection, console: Console) -> None:
    _say(console, f"InfluxDB {connection.version} at {connection.url}, bucket {connection.bucket}")
    _say(console, f"connection file: {shown_path(DEFAULT)}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


@contextmanager
def _progress(console: Console) -> Iterator[_Waiting]:
    """Something that waits a little; at a terminal it shows what for, and how long already."""
    if not console.is_terminal:
        yield lambda _: time.sleep(_POLL_S)
        return
    began = time.monotonic()
    with console.status("InfluxDB …") as spinner:

        def wait(text: str) -> None:
            spinner.update(f"{text} … {time.monotonic() - began:.0f} s")
            time.sleep(_POLL_S)

        yield wait
