"""The node's HTTP API: routes, TLS and how it is served (docs/api.md; the contract is openapi.json)."""

from __future__ import annotations

import ssl
from pathlib import Path

from aiohttp import web

from microchain.api.access import TokenGuard
from microchain.api.chain import ChainRoutes
from microchain.api.events import EventRoutes
from microchain.api.limits import SubmissionGate, compute_max_body
from microchain.api.operator import OperatorRoutes
from microchain.api.responses import error_middleware
from microchain.api.service import NodeService
from microchain.api.submission import SubmissionRoutes

__all__ = ["TlsFileError", "create_app", "server_context", "start_server"]

_SHUTDOWN_S = 2.0


class TlsFileError(ValueError):
    """Certificate or key that can't be read or don't belong together."""


def create_app(service: NodeService, token: str) -> web.Application:
    """Return the application that serves ``service``; ``token`` is what submit, release and lease ask for."""
    guard = TokenGuard(token)
    max_body = compute_max_body(service.genesis.parameters)
    gate = SubmissionGate(2 * max_body)
    events = EventRoutes(service)
    app = web.Application(middlewares=[error_middleware], client_max_size=max_body)
    app.add_routes(SubmissionRoutes(service, guard, gate, max_body).routes())
    app.add_routes(ChainRoutes(service).routes())
    app.add_routes(OperatorRoutes(service, guard, gate, events).routes())
    app.add_routes(events.routes())
    app.on_shutdown.append(events.close)
    return app


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS 1.3 context of the API: ``certificate`` and ``key`` are the node's own; clients show none.

    TlsFileError if the files can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        message = f"{certificate} and {key} can't be used ({error}); deploy signs a certificate for the key"
        raise TlsFileError(message) from None
    return context


async def start_server(
    app: web.Application, host: str, port: int, context: ssl.SSLContext | None
) -> tuple[web.AppRunner, int]:
    """Serve ``app``; returns the runner (``await runner.cleanup()`` ends it) and the port (useful when 0 was asked)."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=context).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, int(runner.addresses[0][1])
