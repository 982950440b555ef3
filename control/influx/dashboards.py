"""Installs the dashboard template on an InfluxDB 2.x server, and removes it again.

What is installed is a *stack* of the server: it knows the dashboard and the variables that came with it, so updating
and removing touch nothing else. The stack's description holds the template's checksum: a second installation sees that
there is nothing to do. ``python -m control.influx.dashboards install|remove`` is what role *dashboards* runs.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from control.errors import ControlError, UsageError
from control.influx.connection import DEFAULT, Connection, load_connection
from control.influx.dashboard_files import TITLE, build_template, render
from control.influx.transport import Server, ServerError, decode_answer

__all__ = ["STACK", "Outcome", "install", "main", "offer", "remove"]

STACK = "microchain-testbed"
_NO_DASHBOARDS = "InfluxDB 1.8 has no dashboards of its own; docs/dashboards.md says how Grafana shows its data"
_TIMEOUT_S = 300.0
"""The server writes each panel to its disk for good before it answers: long on a busy machine or a memory card."""
_PATHS = {"Dashboard": "dashboards", "Variable": "variables"}

_Id = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class Outcome(Struct, frozen=True):
    """What was done: whether anything changed (or, when only checked, would), and a remark for the operator."""

    changed: bool
    remark: str = ""


class _Resource(Struct):
    id: _Id = field(name="resourceID")
    kind: str


class _Stack(Struct):
    id: _Id
    name: str
    description: str = ""
    resources: list[_Resource] = []


class _Stacks(Struct):
    stacks: list[_Stack]


class _Organisation(Struct):
    id: _Id
    name: str


class _Organisations(Struct):
    orgs: list[_Organisation]


def install(connection: Connection, *, check: bool = False) -> Outcome:
    """Install or update dashboard and variables; with ``check`` only say whether that would change anything.

    UsageError without an administrator's token, ServerError if the server refuses. Nothing is done on InfluxDB 1.8.
    """
    if connection.major == 1:
        return Outcome(False, _NO_DASHBOARDS)
    server = _server(connection)
    organisation = _organisation(server, connection.org)
    template = build_template(connection.bucket)
    description = f"Dashboard and variables of the testbed; sha256 {hashlib.sha256(render(template)).hexdigest()}"
    stacks = _stacks(server, organisation)
    if stacks and stacks[0].description == description and _is_whole(server, stacks[0], len(template)):
        return Outcome(False)
    if check:
        return Outcome(True)
    stack = stacks[0] if stacks else _create(server, organisation)
    request = {"orgID": organisation, "stackID": stack.id, "template": {"contents": template}}
    server.request("POST", "/api/v2/templates/apply", body=request)
    # Said last: an installation that was interrupted is simply done again.
    server.request("PATCH", f"/api/v2/stacks/{stack.id}", body={"description": description})
    return Outcome(True)


def offer(connection: Connection, say: Callable[[str], None]) -> None:
    """Install for somebody who asked for a server, not for dashboards: what is in the way is said, and does no harm."""
    if connection.major == 1:
        return
    try:
        if install(connection).changed:
            say(f"dashboard '{TITLE}' installed")
    except ControlError as error:
        say(f"without the dashboard: {error}")


def remove(connection: Connection, *, check: bool = False) -> Outcome:
    """Remove what ``install`` brought; errors as there."""
    if connection.major == 1:
        return Outcome(False)
    server = _server(connection)
    organisation = _organisation(server, connection.org)
    stacks = _stacks(server, organisation)
    for stack in [] if check else stacks:
        server.request("DELETE", f"/api/v2/stacks/{stack.id}", query={"orgID": organisation})
    return Outcome(bool(stacks))


def _server(connection: Connection) -> Server:
    if not connection.admin_token:
        raise UsageError("the connection file has no admin_token; dashboards can't be installed or removed without one")
    return Server(url=connection.url, token=connection.admin_token, ca=connection.ca, timeout_s=_TIMEOUT_S)


def _organisation(server: Server, name: str) -> str:
    answer = decode_answer(server.request("GET", "/api/v2/orgs", query={"org": name}), _Organisations, server.url)
    for organisation in answer.orgs:
        if organisation.name == name:
            return organisation.id
    raise ServerError(f"{server.url} has no organisation '{name}', or the admin_token is not for it")


def _stacks(server: Server, organisation: str) -> list[_Stack]:
    query = {"orgID": organisation, "name": STACK}
    answer = decode_answer(server.request("GET", "/api/v2/stacks", query=query), _Stacks, server.url)
    return [stack for stack in answer.stacks if stack.name == STACK]


def _create(server: Server, organisation: str) -> _Stack:
    body = {"orgID": organisation, "name": STACK, "description": "being installed"}
    return decode_answer(server.request("POST", "/api/v2/stacks", body=body), _Stack, server.url)


def _is_whole(server: Server, stack: _Stack, count: int) -> bool:
    """Whether everything that came with the template is still there."""
    return len(stack.resources) == count and all(_exists(server, resource) for resource in stack.resources)


def _exists(server: Server, resource: _Resource) -> bool:
    try:
        server.request("GET", f"/api/v2/{_PATHS[resource.kind]}/{resource.id}")
    except ServerError as error:
        if error.status == 404:
            return False
        raise
    except KeyError:  # a kind that we never install: somebody added it to the stack
        return True
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Install or remove; prints an Outcome as JSON."""
    parser = argparse.ArgumentParser(prog="control.influx.dashboards", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=["install", "remove"])
    parser.add_argument("--connection", type=Path, default=DEFAULT, metavar="FILE", help="the server's connection file")
    parser.add_argument("--check", action="store_true", help="only say whether anything would change")
    options = parser.parse_args(arguments)
    act = install if options.action == "install" else remove
    try:
        outcome = act(load_connection(options.connection), check=options.check)
    except ControlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(msgspec.json.encode(outcome).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
