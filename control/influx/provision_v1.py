"""Database, retention policy and users of InfluxDB 1.8, by InfluxQL. A server without authentication has no users."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from control.influx.connection import Connection
from control.influx.transport import Server, ServerError, decode_answer

__all__ = ["ADMIN", "POLICY", "bring"]

ADMIN = "testbed"
POLICY = "autogen"

_UNAUTHORIZED, _FORBIDDEN = 401, 403
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


class _Series(Struct):
    columns: list[str] = []
    values: list[list[str | int | float | bool | None]] = []


class _Result(Struct):
    series: list[_Series] = []
    error: str = ""


class _Answer(Struct):
    results: list[_Result] = []
    error: str = ""


def bring(
    draft: Connection, retention_s: int | None, keep: Callable[[Connection], object]
) -> tuple[Connection, list[str]]:
    """Bring the server to what ``draft`` names; return the whole connection and what had to be changed.

    ``keep`` stores a connection before the server learns of its secrets. ServerError if the server refuses.
    """
    database = draft.bucket
    draft = replace(draft, org="-", bucket=f"{database}/{POLICY}")
    changed: list[str] = []
    draft, secured = _enter(draft, keep, changed)
    server = Server(url=draft.url, ca=draft.ca, token=draft.admin_token)
    _bring_database(server, database, retention_s, changed)
    if not secured:
        return replace(draft, write_token="", read_token="", admin_token="", admin_password=""), changed
    for action, token in (("write", draft.write_token), ("read", draft.read_token)):
        made = _bring_user(server, token, f"{database}-{action}", action, database)
        if made:
            draft = replace(draft, write_token=made) if action == "write" else replace(draft, read_token=made)
            keep(draft)
            changed.append(f"{action} token")
    return draft, changed


def _enter(draft: Connection, keep: Callable[[Connection], object], changed: list[str]) -> tuple[Connection, bool]:
    """Find out whether the server asks who we are; if so, be its administrator."""
    anybody = Server(url=draft.url, ca=draft.ca)
    try:
        _ask(anybody, "SHOW DATABASES")
        return draft, False
    except ServerError as error:
        if error.status not in (_UNAUTHORIZED, _FORBIDDEN):
            raise
        refusal = error
    if refusal.status == _FORBIDDEN:
        # It asks, and has no administrator yet: it takes this one statement from anybody.
        password = secrets.token_urlsafe(24)
        draft = replace(draft, admin_token=f"{ADMIN}:{password}")
        keep(draft)
        _ask(anybody, f"CREATE USER {_name(ADMIN)} WITH PASSWORD {_string(password)} WITH ALL PRIVILEGES")
        changed.append("setup")
    elif not draft.admin_token or not _takes(replace(anybody, token=draft.admin_token)):
        raise ServerError(
            f"{draft.url} asks for its administrator: give 'user:password' with --token-file or $INFLUX_TOKEN",
            refusal.status,
        )
    return draft, True


def _takes(server: Server) -> bool:
    try:
        _ask(server, "SHOW DATABASES")
    except ServerError as error:
        if error.status not in (_UNAUTHORIZED, _FORBIDDEN):
            raise
        return False
    return True


def _bring_database(server: Server, database: str, retention_s: int | None, changed: list[str]) -> None:
    duration = f"{retention_s}s" if retention_s else "INF"
    policy = f"DURATION {duration} REPLICATION 1"
    if [database] not in _ask(server, "SHOW DATABASES").values:
        _ask(server, f"CREATE DATABASE {_name(database)} WITH {policy} NAME {_name(POLICY)}")
        changed.append("bucket")
        return
    series = _ask(server, f"SHOW RETENTION POLICIES ON {_name(database)}")
    found = {row[0]: dict(zip(series.columns, row, strict=False)) for row in series.values if row}
    if POLICY not in found:
        _ask(server, f"CREATE RETENTION POLICY {_name(POLICY)} ON {_name(database)} {policy}")
    elif retention_s not in (None, _seconds(found[POLICY].get("duration"))):
        _ask(server, f"ALTER RETENTION POLICY {_name(POLICY)} ON {_name(database)} {policy} SHARD DURATION 0s")
    else:
        return
    changed.append("retention")


def _bring_user(server: Server, token: str, user: str, action: str, database: str) -> str:
    """Return a new token, or nothing if the one that is known opens the server with exactly the rights."""
    exists = any(row[:1] == [user] for row in _ask(server, "SHOW USERS").values)
    rows = _ask(server, f"SHOW GRANTS FOR {_name(user)}").values if exists else []
    grants, right = {str(row[0]): row[1] for row in rows if len(row) == 2}, {database: action.upper()}
    if grants == right and token.startswith(f"{user}:") and _takes(replace(server, token=token)):
        return ""
    password = secrets.token_urlsafe(24)
    if exists:
        _ask(server, f"SET PASSWORD FOR {_name(user)} = {_string(password)}")
        _ask(server, f"REVOKE ALL PRIVILEGES FROM {_name(user)}")
    else:
        _ask(server, f"CREATE USER {_name(user)} WITH PASSWORD {_string(password)}")
    for other in grants.keys() - {database}:
        _ask(server, f"REVOKE ALL ON {_name(other)} FROM {_name(user)}")
    if grants != right:
        _ask(server, f"REVOKE ALL ON {_name(database)} FROM {_name(user)}")
        _ask(server, f"GRANT {action.upper()} ON {_name(database)} TO {_name(user)}")
    return f"{user}:{password}"


def _ask(server: Server, statement: str) -> _Series:
    """Run one InfluxQL statement; return its one series, which may be empty. In the body, out of the log."""
    answer = decode_answer(server.request("POST", "/query", form={"q": statement}), _Answer, server.url)
    error = answer.error or next((result.error for result in answer.results if result.error), "")
    if error:
        raise ServerError(f"{server.url}: {error[:300]}")
    return next((series for result in answer.results for series in result.series), _Series())


def _seconds(duration: object) -> int:
    """Read a duration as 1.8 prints it: ``168h0m0s``; 0 for ever, -1 for anything else."""
    found = _DURATION.fullmatch(duration) if isinstance(duration, str) else None
    return sum(int(n or 0) * s for n, s in zip(found.groups(), (3600, 60, 1), strict=True)) if found else -1


def _name(text: str) -> str:
    """An InfluxQL identifier."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _string(text: str) -> str:
    """An InfluxQL string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
