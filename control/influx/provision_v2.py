"""Setup, organisation, bucket and tokens of InfluxDB 2.x, by its API."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from msgspec import Struct, field
from msgspec.structs import replace

from control.influx.connection import Connection
from control.influx.transport import Server, ServerError, decode_answer

__all__ = ["ADMIN", "bring", "try_tokens"]

ADMIN = "testbed"
"""The user that setup makes; people log in with it where the server has web pages."""


class _Setup(Struct):
    allowed: bool


class _Named(Struct):
    id: str
    name: str


class _Organisations(Struct):
    orgs: list[_Named] = []


class _Rule(Struct, rename="camel"):
    every_seconds: int
    type: str = "expire"
    shard_group_duration_seconds: int = 0


class _Bucket(Struct, rename="camel"):
    id: str
    name: str
    retention_rules: list[_Rule] = []


class _Buckets(Struct):
    buckets: list[_Bucket] = []


class _Resource(Struct, rename="camel", omit_defaults=True):
    type: str
    id: str | None = None
    org_id: str | None = field(default=None, name="orgID")


class _Permission(Struct):
    action: str
    resource: _Resource


class _Authorization(Struct):
    id: str
    token: str = ""
    status: str = ""
    permissions: list[_Permission] = []


class _Authorizations(Struct):
    authorizations: list[_Authorization] = []


def bring(
    draft: Connection, retention_s: int | None, keep: Callable[[Connection], object]
) -> tuple[Connection, list[str]]:
    """Bring the server to what ``draft`` names; return the whole connection and what had to be changed.

    ``keep`` stores a connection before the server learns of its admin token. ServerError if the server refuses.
    """
    changed: list[str] = []
    server = Server(url=draft.url, ca=draft.ca)
    if decode_answer(server.request("GET", "/api/v2/setup"), _Setup, draft.url).allowed:
        draft = replace(
            draft,
            admin_token=draft.admin_token or secrets.token_urlsafe(48),
            admin_password=draft.admin_password or secrets.token_urlsafe(24),
        )
        keep(draft)
        _set_up(server, draft, retention_s)
        changed.append("setup")
    if not draft.admin_token:
        raise ServerError(
            f"{draft.url} is set up already and its token is not known here: give it with --token-file or $INFLUX_TOKEN"
        )
    server = replace(server, token=draft.admin_token)
    org_id = _bring_organisation(server, draft.org, changed)
    bucket_id = _bring_bucket(server, org_id, draft.bucket, retention_s, changed)
    known = {one.token: one for one in _get_authorizations(server, org_id)}
    for action, token in (("write", draft.write_token), ("read", draft.read_token)):
        wanted = [_Permission(action, _Resource("buckets", bucket_id, org_id))]
        made = _bring_token(server, org_id, draft.bucket, wanted, known.get(token))
        if made:
            draft = replace(draft, write_token=made) if action == "write" else replace(draft, read_token=made)
            keep(draft)
            changed.append(f"{action} token")
    return draft, changed


def try_tokens(connection: Connection) -> tuple[bool, bool]:
    """Say whether the read token may read the bucket, and the write token write to it. Nothing is written.

    Both generations take the same requests: Flux for the bucket, and lines that hold no point.
    """
    reader = Server(url=connection.url, ca=connection.ca, token=connection.read_token)
    writer = Server(url=connection.url, ca=connection.ca, token=connection.write_token)
    flux = f"from(bucket: {_quote(connection.bucket)}) |> range(start: -1m) |> limit(n: 1)"
    where = {"org": connection.org, "bucket": connection.bucket, "precision": "ns"}
    query = {"query": flux, "type": "flux"}
    may_read = _is_allowed(lambda: reader.request("POST", "/api/v2/query", query={"org": connection.org}, body=query))
    may_write = _is_allowed(lambda: writer.request("POST", "/api/v2/write", query=where, lines=b"# no point\n"))
    return may_read, may_write


def _quote(text: str) -> str:
    """A Flux string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${") + '"'


def _is_allowed(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except ServerError as error:
        # A bucket that a token may not see is "not found" in 2.x, and a failure of the server in 1.8.
        if error.status in (401, 403, 404) or (error.status == 500 and "requires READ" in str(error)):
            return False
        if error.status != 400:
            raise
    return True


def _set_up(server: Server, draft: Connection, retention_s: int | None) -> None:
    server.request(
        "POST",
        "/api/v2/setup",
        body={
            "username": ADMIN,
            "password": draft.admin_password,
            "org": draft.org,
            "bucket": draft.bucket,
            "token": draft.admin_token,
            "retentionPeriodSeconds": retention_s or 0,
        },
    )


def _bring_organisation(server: Server, name: str, changed: list[str]) -> str:
    try:
        answer = server.request("GET", "/api/v2/orgs", query={"org": name})
    except ServerError as error:
        if error.status == 401:
            raise ServerError(
                f"{server.url} does not take the operator's token that is known here: give the right one with "
                "--token-file or $INFLUX_TOKEN",
                401,
            ) from None
        if error.status != 404:
            raise
        answer = b"{}"
    for found in decode_answer(answer, _Organisations, server.url).orgs:
        if found.name == name:
            return found.id
    changed.append("organisation")
    answer = server.request("POST", "/api/v2/orgs", body={"name": name})
    return decode_answer(answer, _Named, server.url).id


def _bring_bucket(server: Server, org_id: str, name: str, retention_s: int | None, changed: list[str]) -> str:
    rules = [_Rule(every_seconds=retention_s or 0)]
    try:
        answer = server.request("GET", "/api/v2/buckets", query={"orgID": org_id, "name": name})
    except ServerError as error:
        if error.status != 404:
            raise
        answer = b"{}"
    for found in decode_answer(answer, _Buckets, server.url).buckets:
        if found.name != name:
            continue
        if retention_s not in (None, sum(rule.every_seconds for rule in found.retention_rules)):
            changed.append("retention")
            server.request("PATCH", f"/api/v2/buckets/{found.id}", body={"retentionRules": rules})
        return found.id
    changed.append("bucket")
    wanted = {"orgID": org_id, "name": name, "retentionRules": rules}
    return decode_answer(server.request("POST", "/api/v2/buckets", body=wanted), _Named, server.url).id


def _get_authorizations(server: Server, org_id: str) -> list[_Authorization]:
    answer = server.request("GET", "/api/v2/authorizations", query={"orgID": org_id})
    return decode_answer(answer, _Authorizations, server.url).authorizations


def _bring_token(
    server: Server, org_id: str, bucket: str, wanted: list[_Permission], found: _Authorization | None
) -> str:
    """Return a new token, or nothing if the one that is known has exactly the rights. Only that one is ever deleted."""
    if found:
        rights = [(one.action, one.resource.type, one.resource.id) for one in found.permissions]
        if found.status == "active" and rights == [(one.action, one.resource.type, one.resource.id) for one in wanted]:
            return ""
        server.request("DELETE", f"/api/v2/authorizations/{found.id}")
    body = {"orgID": org_id, "description": f"microchain testbed: {wanted[0].action} {bucket}", "permissions": wanted}
    return decode_answer(server.request("POST", "/api/v2/authorizations", body=body), _Authorization, server.url).token
