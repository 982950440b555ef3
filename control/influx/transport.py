"""One bounded HTTP request to an InfluxDB server, and the answers that can't be used as one kind of error."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from control.errors import DeploymentFailed

__all__ = ["Health", "Server", "ServerError", "decode_answer", "probe_health"]

_MAX_ANSWER = 8 << 20
_T = TypeVar("_T")


class ServerError(DeploymentFailed):
    """The server can't be reached, refuses, or answers nonsense. ``status`` is the HTTP status, 0 without one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Server(Struct, frozen=True, kw_only=True):
    """Where requests go, and by whose right."""

    url: str
    token: str = ""
    ca: str = ""
    """Path of the authority's certificate; empty for those that the system trusts."""
    timeout_s: float = 30.0
    """How long it may be silent."""

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        form: Mapping[str, str] | None = None,
        lines: bytes | None = None,
    ) -> bytes:
        """Return the body of a 2xx answer; ServerError for anything else.

        What is sent is one of ``body`` (as JSON), ``form`` and ``lines`` (line protocol).

        Proxies of the environment are not used: the server is one of ours.
        """
        url = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        request = urllib.request.Request(url, method=method)
        if body is not None:
            request.data = msgspec.json.encode(body)
            request.add_header("Content-Type", "application/json")
        elif form is not None:
            request.data = urlencode(form).encode()
            request.add_header("Content-Type", "application/x-www-form-urlencoded")
        elif lines is not None:
            request.data = lines
            request.add_header("Content-Type", "text/plain; charset=utf-8")
        if self.token:
            request.add_unredirected_header("Authorization", f"Token {self.token}")
        try:
            with self._opener().open(request, timeout=self.timeout_s) as answer:
                content: bytes = answer.read(_MAX_ANSWER + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise ServerError(f"{self.url}: {_explain(error)}", error.code) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ServerError(f"{self.url} can't be reached: {reason}") from None
        if len(content) > _MAX_ANSWER:
            raise ServerError(f"{self.url}{path}: the answer is larger than {_MAX_ANSWER >> 20} MiB")
        return content

    def _opener(self) -> urllib.request.OpenerDirector:
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirect()]
        if self.url.startswith("https:"):
            try:
                context = ssl.create_default_context(cafile=self.ca or None)
            except (OSError, ssl.SSLError) as error:
                raise ServerError(f"{self.ca}: is no certificate of an authority: {error}") from None
            handlers.append(urllib.request.HTTPSHandler(context=context))
        return urllib.request.build_opener(*handlers)


class Health(Struct, frozen=True):
    """What ``/health`` of both generations says."""

    name: str
    status: str
    version: str = ""


def probe_health(server: Server) -> str:
    """Return the version of a server that is ready, such as ``2.7.12``; ServerError if it is not, or not InfluxDB."""
    health = decode_answer(server.request("GET", "/health"), Health, server.url)
    if health.name != "influxdb":
        raise ServerError(f"{server.url} is no InfluxDB server: it calls itself '{health.name[:40]}'")
    if health.status != "pass":
        raise ServerError(f"{server.url} is not ready: {health.status[:40]}")
    return health.version.removeprefix("v")


def decode_answer(content: bytes, kind: type[_T], url: str) -> _T:
    """Decode an answer; ServerError if it is not what InfluxDB would say."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ServerError(f"{url} does not answer like InfluxDB: {error}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the token elsewhere."""

    def redirect_request(self, *_: object) -> None:
        return None


class _Refusal(Struct):
    message: str = ""
    error: str = ""


def _explain(error: urllib.error.HTTPError) -> str:
    try:
        refusal = msgspec.json.decode(error.read(_MAX_ANSWER), type=_Refusal)
        sentence = refusal.message or refusal.error
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError, http.client.HTTPException):
        sentence = ""
    return f"refused with {error.code} ({sentence[:300] or error.reason})"
