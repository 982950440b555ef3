"""A typed client of one node's API (docs/api.md) over one keep-alive connection pool."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import aiohttp
import msgspec

from microchain.consensus.genesis import Genesis, decode_genesis
from microchain.consensus.types import Digest

__all__ = [
    "AuthorityFileError",
    "EventStreamClosed",
    "NodeClient",
    "NodeError",
    "SubmissionResult",
    "Unreachable",
    "client_context",
]

_MAX_EVENT = 16 << 20
_MAX_ANSWER = 32 << 20
"""A block of the largest size, with its transactions in base64, takes half of it."""

_LARGE_BODY = 1 << 20
_POLL_S = 0.1
_HEARTBEAT_S = 20.0

_Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""Since 1970; until 2116, so that sums of four of them are made without a thought."""


class AuthorityFileError(ValueError):
    """The authority's certificate file can't be read or holds no certificate."""


class NodeError(RuntimeError):
    """The node answered with an error: HTTP ``status``, API ``code`` (docs/api.md), seconds to wait if it said so."""

    def __init__(self, url: str, status: int, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{url}: {status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


class Unreachable(ConnectionError):
    """No answer from the node; whether it took the request is unknown. ``reason`` is why, in a few words."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class EventStreamClosed(Unreachable):
    """The event stream ended: the node stops, dropped this subscriber (code 1013), or the connection broke."""


class SubmissionResult(msgspec.Struct, frozen=True):
    """What became of one transaction: API ``status`` and ``code``; ``id`` (hex) is None if it could not be decoded."""

    id: str | None
    status: int
    code: str
    message: str

    @property
    def accepted(self) -> bool:
        return self.status == 202


class _Results(msgspec.Struct):
    accepted: int
    results: list[SubmissionResult]


class _Time(msgspec.Struct):
    received_ns: _Nanoseconds
    sent_ns: _Nanoseconds


class _ErrorDetail(msgspec.Struct):
    code: str
    message: str


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail


_time_decoder = msgspec.json.Decoder(_Time)
_results_decoder = msgspec.json.Decoder(_Results)
_msgpack = msgspec.msgpack.Encoder()


def client_context(ca_file: Path) -> ssl.SSLContext:
    """Return a TLS 1.3 context that trusts only the testbed's authority; the certificate must name the host.

    AuthorityFileError if ``ca_file`` can't be used.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:
        message = f"{ca_file} holds no usable certificate ({error}); give the testbed's ca.crt"
        raise AuthorityFileError(message) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class NodeClient:
    """``async with NodeClient(url, ca_file=..., token=...) as node``: every call raises NodeError or Unreachable.

    Without ``ca_file`` the system's authorities are trusted (or the URL is plain http). ``timeout_s`` bounds each call,
    ``max_answer`` the bytes of its answer: what is larger is a NodeError, and not read on.
    """

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        token: str | None = None,
        timeout_s: float = 30.0,
        connections: int = 4,
        max_answer: int = _MAX_ANSWER,
    ) -> None:
        self.url = url.rstrip("/")
        self._context = True if ca_file is None else client_context(ca_file)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._connections = connections
        self._max_answer = max_answer
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    async def submit(self, transaction: bytes) -> SubmissionResult:
        """Submit one encoded transaction; what the node says of it is a result, not an error."""
        return (await self.submit_many([transaction]))[0]

    async def submit_many(self, transactions: Sequence[bytes]) -> list[SubmissionResult]:
        """Submit encoded transactions; one result each, in order."""
        body = _msgpack.encode(transactions)
        data = io.BytesIO(body) if len(body) > _LARGE_BODY else body
        answer = await self._request("POST", "/v1/transactions", data, "application/msgpack")
        try:
            results = _results_decoder.decode(answer).results
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise NodeError(self.url, 200, "not_the_api", f"the answer is no list of results: {error}") from None
        if len(results) != len(transactions):
            message = f"{len(transactions)} transactions were sent, but {len(results)} results came back"
            raise NodeError(self.url, 200, "not_the_api", message)
        return results

    async def transaction(self, id: Digest) -> dict[str, Any]:
        """Where a transaction is, with its proof."""
        return await self._get(f"/v1/transactions/{id.hex()}")

    async def block(self, reference: str | int, *, bodies: bool = False) -> dict[str, Any]:
        """One block by height, id (hex), ``head`` or ``finalized``."""
        return await self._get(f"/v1/blocks/{reference}" + ("?bodies=1" if bodies else ""))

    async def blocks(self, start: int, limit: int = 20) -> dict[str, Any]:
        """Finalized blocks from a height on, without transactions."""
        return await self._get(f"/v1/blocks?from={start}&limit={limit}")

    async def committee(self) -> dict[str, Any]:
        return await self._get("/v1/committee")

    async def genesis(self) -> Genesis:
        return decode_genesis(await self._request("GET", "/v1/genesis"))

    async def status(self) -> dict[str, Any]:
        return await self._get("/v1/status")

    async def exchange_time(self, clock: Callable[[], int]) -> tuple[int, int, int, int]:
        """Ask for the node's time once; returns what `OffsetEstimator.add` takes, ns since 1970.

        That is: asked by ``clock`` (this side's), received and answered by the node's clock, answered by ``clock``.
        """
        asked = clock()
        body = await self._request("GET", "/v1/time")
        answered = clock()
        try:
            node = _time_decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise NodeError(self.url + "/v1/time", 200, "not_the_api", f"the answer is no time: {error}") from None
        return asked, node.received_ns, node.sent_ns, answered

    async def metrics(self) -> str:
        """Prometheus text."""
        return (await self._request("GET", "/metrics")).decode()

    async def is_ready(self) -> bool:
        """Whether the node reaches more than two thirds of the weight."""
        try:
            await self._request("GET", "/v1/health")
        except NodeError as error:
            if error.status == 503:
                return False
            raise
        return True

    async def wait_ready(self, timeout_s: float) -> None:
        """Return when the node is ready; TimeoutError says what it was waiting for."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                await self._request("GET", "/v1/health")
                return
            except Unreachable as error:
                reason = str(error)
            except NodeError as error:
                if error.status != 503:
                    raise
                reason = str(error)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.url} is not ready after {timeout_s:g} s: {reason}")
            await asyncio.sleep(_POLL_S)

    async def release(self, above: int | None = None) -> None:
        """Let the node propose what is pooled once; void if a block above height ``above`` has transactions."""
        await self._post("/v1/release", {} if above is None else {"above": above})

    async def extend_lease(self, seconds: float) -> None:
        """Put off the moment at which the node stops itself to ``seconds`` from now."""
        await self._post("/v1/lease", {"seconds": seconds})

    @asynccontextmanager
    async def events(self, types: Iterable[str] | None = None) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Subscribe to chain events; the subscription stands when the context is entered.

        The first event is ``subscribed``. The iterator never ends by itself: it raises EventStreamClosed.
        """
        query = "" if types is None else "?types=" + ",".join(types)
        url = f"{self.url}/v1/events{query}"
        try:
            socket = await self._session.ws_connect(
                url, max_msg_size=_MAX_EVENT, heartbeat=_HEARTBEAT_S, headers=self._headers, compress=0
            )
        except aiohttp.WSServerHandshakeError as error:
            raise NodeError(url, error.status, "no_event_stream", error.message) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from None
        async with socket:
            yield _read_events(url, socket)

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, ssl=self._context, keepalive_timeout=60),
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept-Encoding"),
                auto_decompress=False,  # we ask for none, and a little could become much
            )
        return self._opened

    async def _get(self, path: str) -> dict[str, Any]:
        answer = await self._request("GET", path)
        try:
            return msgspec.json.decode(answer, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise NodeError(self.url + path, 200, "not_the_api", f"the answer is no JSON object: {error}") from None

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        await self._request("POST", path, msgspec.json.encode(body), "application/json")

    async def _request(
        self, method: str, path: str, body: bytes | io.BytesIO | None = None, content_type: str | None = None
    ) -> bytes:
        headers = self._headers if content_type is None else {**self._headers, "Content-Type": content_type}
        try:
            async with self._session.request(method, self.url + path, data=body, headers=headers) as response:
                answer = await self._read(response)
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from None
        if response.status >= 400:
            raise _to_error(self.url + path, response, answer)
        return answer

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        answer = bytearray()
        async for part in response.content.iter_any():
            answer += part
            if len(answer) > self._max_answer:
                response.close()
                message = f"the answer is larger than {self._max_answer} bytes; is this a validator's address?"
                raise NodeError(str(response.url), response.status, "not_the_api", message)
        return bytes(answer)

    def _unreachable(self, error: Exception) -> Unreachable:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            message = f"{self.url}: its certificate is not trusted ({error.certificate_error}); check ca_file"
            return Unreachable(message, "its certificate is not trusted")
        what = str(error) or type(error).__name__
        message = f"{self.url} does not answer ({what}); is the node running and the address right?"
        return Unreachable(message, _name_reason(error) or what)


def _name_reason(error: Exception) -> str:
    """The system's word for what broke a connection, such as "Connection refused"; empty if it has none."""
    if isinstance(error, TimeoutError):
        return os.strerror(errno.ETIMEDOUT)
    number = error.errno if isinstance(error, OSError) else None
    return "" if number is None or number not in errno.errorcode else os.strerror(number)


async def _read_events(url: str, socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[dict[str, Any]]:
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            yield msgspec.json.decode(message.data)
    reasons = {1001: "the node is stopping", 1013: "this subscriber fell behind"}
    reason = reasons.get(socket.close_code or 0, "the connection broke")
    raise EventStreamClosed(f"{url}: the event stream ended with code {socket.close_code}: {reason}")


def _to_error(url: str, response: aiohttp.ClientResponse, answer: bytes) -> NodeError:
    """The typed form of an error answer; what is not in the API's form is quoted."""
    try:
        detail = msgspec.json.decode(answer, type=_ErrorBody).error
        code, message = detail.code, detail.message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        code, message = "not_the_api", f"{response.reason}: {answer[:200]!r}"
    retry = response.headers.get("Retry-After", "")
    return NodeError(url, response.status, code, message, float(retry) if retry.isdecimal() else None)
