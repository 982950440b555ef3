"""What tests of the shipper share: spools with numbered points, a stand-in server, and waiting."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

from aiohttp import web
from microchain.config import InfluxSection, ServerUrl
from microchain.telemetry.pacing import Backoff
from microchain.telemetry.shipper import Shipper
from microchain.telemetry.spool import Spool

FIRST_NS = 1_800_000_000_000_000_000
TOKEN = "stand-in-token"


def numbered(first: int, count: int) -> str:
    """Points ``first``, ``first`` + 1, … of one series: each holds its number, and no two the same time."""
    return "".join(f"numbered,run=test n={n}i {FIRST_NS + n}\n" for n in range(first, first + count))


def write_points(data: Path, first: int, count: int, *, segment_bytes: int = 8 << 20) -> None:
    """Write a session with numbered points into the spool of ``data``."""
    spool = Spool(data / "spool", interval_s=0, segment_bytes=segment_bytes)
    for start in range(first, first + count, 1000):
        many = min(1000, first + count - start)
        spool.append(numbered(start, many), many)
        spool.flush()
    spool.close()


def section(url: str, directory: Path, token: str = TOKEN, *, org: str = "o", bucket: str = "b") -> InfluxSection:
    """A node's section ``influx``, with its token file in ``directory``."""
    (directory / "influx.token").write_text(token)
    return InfluxSection(url=ServerUrl(url), org=org, bucket=bucket, token_file=directory / "influx.token")


@asynccontextmanager
async def shipping(
    server: InfluxSection, data: Path, *, timeout_s: float = 20.0, push_s: float = 20.0
) -> AsyncIterator[Shipper]:
    """A shipper in a hurry; at the end it streams what is left."""
    shipper = Shipper(
        server, data, backoff=Backoff(monotonic, base_s=0.02, most_s=0.1), interval_s=0.02, timeout_s=timeout_s
    )
    shipper.start()
    try:
        yield shipper
    finally:
        await shipper.stop(push_s)


async def eventually(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until the condition holds; TimeoutError if it never does."""
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


class StandIn:
    """A server that takes lines, unless ``answer`` says something else about a request's lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.requests: list[web.Request] = []
        self.answer: Callable[[list[str]], web.StreamResponse | None] = lambda lines: None
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        lines = gzip.decompress(await request.read()).decode(errors="replace").splitlines()
        said = self.answer(lines)
        if said is None:
            self.lines += [line for line in lines if not line.startswith("#")]
        return web.Response(status=204) if said is None else said


@asynccontextmanager
async def stand_in() -> AsyncIterator[StandIn]:
    """A stand-in server on a free port."""
    server = StandIn()
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.url = f"http://{host}:{port}"
        yield server
    finally:
        await runner.cleanup()
