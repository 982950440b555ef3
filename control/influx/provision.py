"""Gives a server what runs need: organisation, bucket with its retention, and a token for each right and no more.

``python -m control.influx.provision --url URL --output FILE`` does it from a playbook. Done again it keeps what is
right, mends what is not, and says what it changed. Secrets are made here, stay in the connection file, and are never
on a command line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from control.errors import ControlError, UsageError
from control.influx import provision_v1, provision_v2
from control.influx.connection import Connection, find_problem, load_connection, save_connection
from control.influx.transport import Server, ServerError, probe_health
from control.influx.wish import Wish, check_wish

__all__ = ["main", "provision", "read_secret", "verify"]

_MAX_SECRET = 4096


def provision(wish: Wish, output: Path, admin_token: str = "") -> list[str]:
    """Bring the server to what is wished and write the connection file; return what had to be changed.

    ``admin_token`` is the operator's for a server that somebody else set up; otherwise the one in ``output`` is taken,
    or a new one made for a server that is not set up yet. ServerError or UsageError if the server can't be used so.
    """
    check_wish(wish)
    version = probe_health(Server(url=wish.url, ca=wish.ca))
    known = load_connection(output) if output.exists() else None
    draft = Connection(url=wish.url, version=version, org=wish.org, bucket=wish.bucket, ca=wish.ca)
    if problem := find_problem(draft if version[:1] == "2" else replace(draft, bucket=f"{wish.bucket}/autogen")):
        raise UsageError(problem)
    if known and known.major == draft.major:
        draft = replace(
            draft,
            write_token=known.write_token,
            read_token=known.read_token,
            admin_token=known.admin_token,
            admin_password=known.admin_password,
        )
    if admin_token:
        draft = replace(draft, admin_token=admin_token)
    bring = provision_v1.bring if draft.major == 1 else provision_v2.bring
    # What opens the server is on disk before the server knows it: an interruption locks nobody out.
    connection, changed = bring(draft, wish.retention_s, partial(save_connection, output))
    if save_connection(output, connection) and not changed:
        changed = ["connection file"]
    return changed


def verify(connection: Connection) -> None:
    """Check a connection that somebody gave: the server answers, is of that version, and takes the tokens."""
    version = probe_health(Server(url=connection.url, ca=connection.ca))
    if version.split(".")[0] != str(connection.major):
        raise UsageError(f"{connection.url} is InfluxDB {version}, not {connection.version}")
    may_read, may_write = provision_v2.try_tokens(connection)
    if not may_read:
        raise ServerError(f"{connection.url}: the read token may not read bucket '{connection.bucket}'")
    if not may_write:
        raise ServerError(f"{connection.url}: the write token may not write to bucket '{connection.bucket}'")


def read_secret(path: Path) -> str:
    """Read a token from a file; UsageError if there is none in it."""
    try:
        with path.open("rb") as stream:
            secret = stream.read(_MAX_SECRET).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read as a token: {error}") from None
    if not secret or not secret.isprintable():
        raise UsageError(f"{path}: holds no token; it is one line")
    return secret


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.influx.provision", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--output", type=Path, required=True, help="the connection file, kept up to date")
    parser.add_argument("--org", default="testbed")
    parser.add_argument("--bucket", default="microchain")
    parser.add_argument("--retention", type=int, metavar="S", help="seconds, 0 for ever; default as it is")
    parser.add_argument("--ca", default="", help="certificate of the authority, for https")
    parser.add_argument("--token-file", type=Path, help="the operator's token; default $INFLUX_TOKEN, or the one known")
    options = parser.parse_args(arguments)
    wish = Wish(url=options.url, org=options.org, bucket=options.bucket, retention_s=options.retention, ca=options.ca)
    try:
        token = read_secret(options.token_file) if options.token_file else os.environ.get("INFLUX_TOKEN", "")
        changed = provision(wish, options.output.resolve(), token)
    except ControlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({"changed": changed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
