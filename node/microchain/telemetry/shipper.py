"""The shipper streams a spool to InfluxDB: behind the node's work, one request at a time, in bounded memory.

It follows the spool's files like any other reader and shares nothing with those who write them. A batch that was not
acknowledged is sent again, so points may arrive twice, which changes nothing: a point is known by series and time.
"""

from __future__ import annotations

import asyncio
import logging
import random
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TypeVar

import msgspec
from msgspec import Struct

from microchain.config import InfluxSection
from microchain.telemetry.backlog import Backlog, Batch, Cursor, RejectedLines, load_cursor, save_cursor
from microchain.telemetry.influx import Answer, AuthorityError, InfluxWriter, Meaning, TokenError, read_token
from microchain.telemetry.pacing import Backoff, BatchLimit

__all__ = ["Shipper", "ShipperState"]

INTERVAL_S = 5.0
"""Between two looks at the spool, give or take a quarter: each costs a request, and many nodes share one machine."""
TIMEOUT_S = 20.0
PACE_S = 0.02
PACE_BYTES_PER_S = 5 << 20
"""Catching up, the shipper rests after each request, so that it leaves the processor to the node."""
PUSH_S = 3.0
"""How long a node that stops goes on streaming what is left."""
MAX_ERROR = 300

_PROBE = b"# is anything taken?\n"
"""A comment: a server that refuses it refuses everything, and no line is to blame."""
_BAD = (Meaning.REFUSED, Meaning.TOO_LARGE)

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class ShipperState(Struct, frozen=True):
    """Lines acknowledged, lines that the server refuses, bytes left, and why the last try failed (or nothing)."""

    shipped: int
    rejected: int
    waiting_bytes: int
    error: str


class _Prepared(Struct, frozen=True):
    batch: Batch
    body: bytes
    token: str


class Shipper:
    """Streams ``data/spool`` to a server; its cursor is ``data/shipper.json``, what is refused ``data/rejected.lp``.

    `start` and `stop` on one event loop. Nothing here raises because of server, disk or spool; `state` says how it is.
    """

    def __init__(
        self,
        server: InfluxSection,
        data: Path,
        *,
        backoff: Backoff | None = None,
        interval_s: float = INTERVAL_S,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._server = server
        self._cursor_file = data / "shipper.json"
        self._backlog = Backlog(data / "spool")
        self._rejected = RejectedLines(data / "rejected.lp")
        self._backoff = backoff or Backoff(monotonic)
        self._interval_s = interval_s
        self._writer = InfluxWriter(server, timeout_s)
        self._limit = BatchLimit()
        self._cursor = self._saved = Cursor()
        self._waiting = 0
        self._is_loaded = False
        self._disk_failed = False
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="shipper")
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> ShipperState:
        """How it is now; ``waiting_bytes`` as of the last look."""
        cursor = self._cursor
        return ShipperState(cursor.shipped, cursor.rejected, self._waiting, cursor.error)

    def start(self) -> None:
        """Begin to follow the spool."""
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self, push_s: float = PUSH_S) -> None:
        """Stream what is left for at most ``push_s`` seconds, and end. The spool should be closed before."""
        self._closing.set()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait([task], timeout=push_s)
            if not task.done():
                task.cancel()
                self._failed(self._cursor.error or "the node stopped before all was streamed")
            with suppress(asyncio.CancelledError):
                await task
            await self._in_thread(lambda: self._look(send=False))
        await self._writer.close()
        await asyncio.to_thread(self._threads.shutdown)

    # --- on the event loop ---

    async def _follow(self) -> None:
        await self._in_thread(self._load)
        while True:
            closing = self._closing.is_set()  # before the look, which then sees the whole spool
            pause = await self._advance(last_try=closing)
            if closing and (pause is None or self._cursor.error):
                return
            await self._sleep(self._interval_s * random.uniform(0.75, 1.25) if pause is None else pause)

    async def _advance(self, *, last_try: bool) -> float | None:
        """Send a batch if there is one and it is time; return how long to rest, None until the next look."""
        try:
            prepared = await self._in_thread(lambda: self._look(send=last_try or self._backoff.is_ready))
            if prepared is None:
                return None
            if prepared.batch.oversized:
                await self._set_aside(prepared.batch, "longer than a batch")
                return PACE_S
            return await self._settle(prepared.batch, await self._write(prepared))
        except (OSError, TokenError, AuthorityError) as error:
            self._later(Answer(Meaning.LATER, str(error)))
        except Exception as error:  # a defect must not end the streaming of a whole run
            _log.exception("streaming telemetry failed")
            self._later(Answer(Meaning.LATER, f"defect: {error!r}"))
        return None

    async def _write(self, prepared: _Prepared) -> Answer:
        """Send a batch. One line counts as bad only if the server takes something else, and then refuses it again."""
        answer = await self._writer.write(prepared.body, prepared.token)
        if answer.meaning in _BAD and prepared.batch.lines == 1:
            probe = await self._writer.write(_compress(_PROBE), prepared.token)
            if probe.meaning is not Meaning.DELIVERED:
                return msgspec.structs.replace(answer, meaning=Meaning.LATER)
            answer = await self._writer.write(prepared.body, prepared.token)
        return answer

    async def _settle(self, batch: Batch, answer: Answer) -> float | None:
        """Draw the conclusions; return how long to rest, None until the next look."""
        if answer.meaning is Meaning.DELIVERED:
            self._succeeded()
            self._pass(batch, shipped=batch.lines)
        elif answer.meaning in _BAD and batch.lines == 1:
            await self._set_aside(batch, answer.detail)
        elif answer.meaning is Meaning.REFUSED:
            self._limit.refused(batch.lines)
        elif answer.meaning is Meaning.TOO_LARGE:
            self._limit.too_much(batch.lines)
        else:
            if answer.meaning is Meaning.TOO_SLOW:
                self._limit.too_much(batch.lines)
            self._later(answer)
            return None
        return PACE_S + len(batch.data) / PACE_BYTES_PER_S if self._waiting else None

    async def _set_aside(self, batch: Batch, reason: str) -> None:
        """Pass one line that the server does not take."""
        if not self._cursor.rejected:
            _log.warning("a telemetry line is refused, and kept beside %s: %s", self._cursor_file, reason)
        await self._in_thread(lambda: self._rejected.keep(batch.data, reason))
        self._pass(batch, rejected=1)

    def _pass(self, batch: Batch, *, shipped: int = 0, rejected: int = 0) -> None:
        self._limit.passed(batch.lines)
        self._waiting = max(0, self._waiting - len(batch.data))
        self._cursor = msgspec.structs.replace(
            self._cursor,
            segment=batch.segment,
            offset=batch.end,
            shipped=self._cursor.shipped + shipped,
            rejected=self._cursor.rejected + rejected,
        )

    def _later(self, answer: Answer) -> None:
        """Keep everything and try again after a while."""
        self._backoff.failed(answer.retry_after_s)
        self._failed(answer.detail)

    def _failed(self, reason: str) -> None:
        if not self._cursor.error:
            _log.warning("telemetry is not streamed, only kept: %s", reason)
        self._cursor = msgspec.structs.replace(self._cursor, error=reason[:MAX_ERROR])

    def _succeeded(self) -> None:
        self._backoff.succeeded()
        if self._cursor.error:
            _log.info("telemetry is streamed again")
            self._cursor = msgspec.structs.replace(self._cursor, error="")

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not beyond the moment at which the node stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    # --- in the worker thread ---

    def _load(self) -> None:
        self._saved = self._cursor = self._backlog.checked(load_cursor(self._cursor_file))
        self._is_loaded = True

    def _look(self, *, send: bool) -> _Prepared | None:
        """Save the cursor if it has moved, measure what is left, and if it is to be sent prepare the next batch."""
        self._save()
        self._waiting = self._backlog.waiting_bytes(self._cursor)
        batch = self._backlog.take(self._cursor, self._limit.lines) if send and self._waiting else None
        if batch is None:
            return None
        self._writer.load_authority()
        return _Prepared(batch, _compress(batch.data), read_token(self._server.token_file))

    def _save(self) -> None:
        cursor = self._cursor
        if cursor != self._saved and self._is_loaded:
            try:
                save_cursor(self._cursor_file, cursor)
                self._saved, self._disk_failed = cursor, False
            except OSError as error:
                if not self._disk_failed:
                    _log.warning(
                        "%s can't be written: after a restart points are sent again: %s", self._cursor_file, error
                    )
                self._disk_failed = True

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _compress(data: bytes) -> bytes:
    """gzip at its fastest: line protocol shrinks to a tenth."""
    return zlib.compress(data, level=1, wbits=31)
