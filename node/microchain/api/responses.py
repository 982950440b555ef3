"""JSON answers, typed API errors and the middleware that turns every failure into one error form."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from microchain.api.service import NodeBusy

__all__ = ["ApiError", "Handler", "error_middleware", "error_response", "json_response", "quote"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)
_encoder = msgspec.json.Encoder()

_CODES_BY_STATUS = {404: "unknown_path", 405: "method_not_allowed", 413: "body_too_large", 417: "expectation_failed"}


class ApiError(Exception):
    """A request that can't be served: HTTP status, machine-readable code, sentence for people, seconds to wait."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


def quote(text: str) -> str:
    """Return what a client sent as it may stand in a message: printable and short."""
    return ascii(text if len(text) <= 64 else f"{text[:64]}...")


def json_response(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return ``data`` (anything msgspec encodes, or JSON bytes made already) as a response."""
    body = data if isinstance(data, bytes) else _encoder.encode(data)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the error form ``{"error": {"code", "message"}}``; Retry-After is in whole seconds, rounded up."""
    all_headers = dict(headers or {})
    if error.retry_after is not None:
        all_headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        all_headers["WWW-Authenticate"] = "Bearer"
    body = {"error": {"code": error.code, "message": error.message}}
    return json_response(body, status=error.status, headers=all_headers)


def _from_http_exception(request: web.Request, error: web.HTTPException) -> web.Response:
    code = _CODES_BY_STATUS.get(error.status, "http_error")
    kept = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    if error.status == 404:
        message = f"there is no {quote(request.path)}; GET /v1/openapi.json lists what there is"
    elif error.status == 405:
        message = f"{quote(request.path)} takes {kept.get('Allow', 'other methods')}, not {request.method}"
    else:
        message = error.text or error.reason
    return error_response(ApiError(error.status, code, message), kept)


@web.middleware
async def error_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer failures in the error form; what nobody expected is logged with its traceback and answered with 500."""
    try:
        return await handler(request)
    except ApiError as error:
        return error_response(error)
    except NodeBusy as error:
        return error_response(ApiError(503, "busy", str(error) or "the node is busy; try again", retry_after=1))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _from_http_exception(request, error)
    except ConnectionError:  # the client has gone
        raise
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        return error_response(ApiError(500, "internal", "the node failed to serve this; its log has the traceback"))
