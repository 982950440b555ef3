"""What the operator asks: status, health, time, metrics, the API's document, release and lease."""

from __future__ import annotations

import math
from importlib import resources
from typing import Annotated

import msgspec
from aiohttp import web

from microchain.api.access import TokenGuard
from microchain.api.events import EventRoutes
from microchain.api.limits import MAX_LEASE_S, SubmissionGate
from microchain.api.responses import ApiError, json_response
from microchain.api.service import NodeService

__all__ = ["OperatorRoutes"]

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class LeaseRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/lease."""

    seconds: float


class ReleaseRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/release (may be empty)."""

    above: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None


class OperatorRoutes:
    """Handlers of what the operator and the monitoring ask."""

    def __init__(self, service: NodeService, guard: TokenGuard, gate: SubmissionGate, events: EventRoutes) -> None:
        self._service = service
        self._guard = guard
        self._gate = gate
        self._events = events

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/status", self.get_status, allow_head=False),
            web.get("/v1/health", self.get_health, allow_head=False),
            web.get("/v1/time", self.get_time, allow_head=False),
            web.get("/metrics", self.get_metrics, allow_head=False),
            web.get("/v1/openapi.json", self.get_document, allow_head=False),
            web.post("/v1/release", self.post_release),
            web.post("/v1/lease", self.post_lease),
        ]

    async def get_status(self, request: web.Request) -> web.Response:
        return json_response(self._service.status())

    async def get_health(self, request: web.Request) -> web.Response:
        """200 while the node reaches more than two thirds of the weight, else 503."""
        status = self._service.status()
        if status["ready"]:
            return json_response({"ready": True, "syncing": status["syncing"]})
        peers = status["peers"]
        connected = sum(1 for peer in peers if peer["connected"])
        message = f"connected to {connected} of {len(peers)} peers; more than two thirds of the weight are needed"
        raise ApiError(503, "not_ready", message, retry_after=1)

    async def get_time(self, request: web.Request) -> web.Response:
        """When the request was seen and when the answer left, as in NTP: they bound the offset of two clocks."""
        received = self._service.now()
        return json_response({"received_ns": received, "sent_ns": self._service.now()})

    async def get_metrics(self, request: web.Request) -> web.Response:
        """Prometheus text format; names that end in _total are counters."""
        metrics = {
            **self._service.metrics(),
            "api_submissions_in_flight": float(self._gate.in_flight),
            "api_subscribers": float(self._events.subscribers),
            "api_subscribers_dropped_total": float(self._events.dropped),
        }
        return web.Response(body=_render_metrics(metrics).encode(), headers={"Content-Type": _METRICS_TYPE})

    async def get_document(self, request: web.Request) -> web.Response:
        return json_response(resources.files("microchain.api").joinpath("openapi.json").read_bytes())

    async def post_release(self, request: web.Request) -> web.Response:
        self._guard.check(request)
        body = await request.read()
        try:
            release = msgspec.json.decode(body or b"{}", type=ReleaseRequest)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            message = f'the body should be empty or {{"above": height}}: {error}'
            raise ApiError(400, "bad_json", message) from None
        self._service.release(release.above)
        return json_response({"released": True}, status=202)

    async def post_lease(self, request: web.Request) -> web.Response:
        self._guard.check(request)
        try:
            lease = msgspec.json.decode(await request.read(), type=LeaseRequest)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ApiError(400, "bad_json", f'the body should be {{"seconds": number}}: {error}') from None
        if not math.isfinite(lease.seconds) or not 0 < lease.seconds <= MAX_LEASE_S:
            raise ApiError(400, "bad_lease", f"seconds is {lease.seconds:g}; give more than 0, at most {MAX_LEASE_S:g}")
        self._service.extend_lease(lease.seconds)
        return json_response({"seconds": lease.seconds})


def _render_metrics(metrics: dict[str, float]) -> str:
    """Return Prometheus text; a name may carry labels (``peer_rtt_ns{peer="a"}``), whose family is typed once."""
    lines: list[str] = []
    typed: set[str] = set()
    for name in sorted(metrics):
        family = name.partition("{")[0]
        if family not in typed:
            typed.add(family)
            lines.append(f"# TYPE microchain_{family} {'counter' if family.endswith('_total') else 'gauge'}")
        lines.append(f"microchain_{name} {metrics[name]!r}")
    return "\n".join(lines) + "\n"
