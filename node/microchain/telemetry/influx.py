"""One write to InfluxDB's API v2 (servers 1.8 and 2.x), and what the answer means.

Whatever is at the other end, an attempt ends within its time, reads a few KiB at most, follows no redirect and raises
nothing: only 204 counts as delivered.
Reference: https://docs.influxdata.com/influxdb/v2/api/#operation/PostWrite
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from msgspec import Struct

from microchain.config import InfluxSection
from microchain.telemetry.pacing import parse_retry_after

__all__ = ["Answer", "AuthorityError", "InfluxWriter", "Meaning", "TokenError", "read_token"]

MAX_ANSWER = 4096
MAX_DETAIL = 200
_MAX_TOKEN = 4096
_CLOSE_S = 1.0


class TokenError(ValueError):
    """A token file that can't be used; the message says why."""


class AuthorityError(ValueError):
    """The certificate of the server's authority can't be used; the message says why."""


class Meaning(Enum):
    """What becomes of the lines of a request."""

    DELIVERED = auto()
    REFUSED = auto()
    """A line is bad: 400 (1.8: malformed or conflicting; 2.x: malformed) or 422 (2.x: conflicting)."""
    TOO_LARGE = auto()
    TOO_SLOW = auto()
    LATER = auto()
    """Nothing is wrong with the lines, or nobody knows: they are kept."""


class Answer(Struct, frozen=True):
    """``detail`` is for people: one line, printable, at most 250 characters, without the token."""

    meaning: Meaning
    detail: str = ""
    retry_after_s: float | None = None


class _ErrorBody(Struct):
    """1.8 says ``error``, 2.x ``code`` and ``message``."""

    error: str = ""
    message: str = ""


_MEANINGS = {204: Meaning.DELIVERED, 400: Meaning.REFUSED, 422: Meaning.REFUSED, 413: Meaning.TOO_LARGE}


def read_token(path: Path) -> str:
    """Return the token of a file, empty for a server that asks for none; TokenError if the file can't be used."""
    try:
        with path.open("rb") as file:
            token = file.read(_MAX_TOKEN + 1).decode("ascii").strip()
    except OSError as error:
        raise TokenError(f"{path}: {error.strerror}; deploy again, or put the token there") from None
    except UnicodeDecodeError:
        raise TokenError(f"{path} holds no token: it is not ASCII text") from None
    if len(token) > _MAX_TOKEN or not token.isprintable():
        raise TokenError(f"{path} holds no token: it must be one line of at most {_MAX_TOKEN} characters")
    return token


class InfluxWriter:
    """Writes to one bucket over one connection; nothing is opened before the first `write`."""

    def __init__(self, server: InfluxSection, timeout_s: float) -> None:
        query = urlencode({"org": server.org, "bucket": server.bucket, "precision": "ns"}, quote_via=quote)
        self._server = server.url.rstrip("/")
        self._url = f"{self._server}/api/v2/write?{query}"
        self._ca_file = server.ca_file
        self._timeout_s = timeout_s
        self._context: ssl.SSLContext | None = None
        self._session: aiohttp.ClientSession | None = None

    def load_authority(self) -> None:
        """Read the certificate of the authority, if one is needed and not read yet (it blocks); AuthorityError."""
        if self._server.startswith("https:") and self._context is None:
            try:
                self._context = ssl.create_default_context(cafile=self._ca_file)
            except OSError as error:
                raise AuthorityError(f"{self._ca_file} is no certificate of an authority: {error}") from None

    async def close(self) -> None:
        """Close the connection, whatever the other end does."""
        session, self._session = self._session, None
        if session is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await session.close()

    async def write(self, body: bytes, token: str) -> Answer:
        """Send lines, compressed by gzip, and say what became of them; after `load_authority`."""
        headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain; charset=utf-8"}
        if token:
            headers["Authorization"] = f"Token {token}"
        try:
            # Not only aiohttp's own timeout: that ends with the answer, which may come before all is sent.
            async with asyncio.timeout(self._timeout_s):
                return await self._post(body, headers, token)
        except TimeoutError:
            problem = Answer(Meaning.TOO_SLOW, f"no answer from {self._server} within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._context = None  # the authority's certificate may be replaced
            shown = f"{self._server}: {str(error) or type(error).__name__}"
            problem = Answer(Meaning.LATER, _printable(shown, token))
        await self.close()
        return problem

    async def _post(self, body: bytes, headers: dict[str, str], token: str) -> Answer:
        if self._session is None:
            self._session = _open_session()
        async with self._session.post(
            self._url, data=body, headers=headers, allow_redirects=False, ssl=self._context or True
        ) as response:
            meaning = _MEANINGS.get(response.status, Meaning.LATER)
            if meaning is Meaning.DELIVERED:
                return Answer(meaning)
            said = await response.content.read(MAX_ANSWER)
            retry_after = response.headers.get("Retry-After")
            return Answer(
                meaning,
                _printable(f"{self._server} answered {response.status}: {_sentence(response.status, said)}", token),
                None if retry_after is None else parse_retry_after(retry_after, time.time()),
            )


def _open_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        read_bufsize=MAX_ANSWER,
        max_headers=32,
    )


def _sentence(status: int, said: bytes) -> str:
    """Return what the server says is wrong."""
    if 300 <= status < 400:
        return "a redirect; influx.url must be the server's own address"
    if status < 300:
        return "this is no InfluxDB server, check influx.url"
    try:
        body = msgspec.json.decode(said, type=_ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return said[:MAX_DETAIL].decode(errors="replace") or "nothing more"
    return body.message or body.error or "nothing more"


def _printable(text: str, token: str) -> str:
    """One line that may be shown to everybody, whatever the server put into its answer."""
    if token:
        text = text.replace(token, "(token)")
    line = "".join(character if character.isprintable() else " " for character in text[: 4 * MAX_DETAIL])
    return line[: MAX_DETAIL + 50].strip()
