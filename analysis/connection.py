"""The connection file of an InfluxDB server, as far as reading needs it; ``./testbed influx up`` writes one."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

__all__ = ["DEFAULT_CONNECTION", "Connection", "ConnectionFileError", "read_connection"]

DEFAULT_CONNECTION = Path(__file__).resolve().parent.parent / ".cache" / "influxdb" / "connection.json"
_MAX_BYTES = 64 << 10


class ConnectionFileError(ValueError):
    """A connection file that is missing or can't be used; the message names it and what to do."""


class Connection(Struct, frozen=True, kw_only=True):
    """A server to read from. For 1.8: org ``-``, bucket ``database/retention-policy``, token ``user:password``."""

    url: str
    org: str
    bucket: str
    read_token: str = ""
    ca: str = ""
    """Path of the authority's certificate (PEM); empty for those that the system trusts."""

    def __repr__(self) -> str:
        """Without the token, so that no log or traceback shows it."""
        return f"Connection(url={self.url!r}, org={self.org!r}, bucket={self.bucket!r})"


def read_connection(path: Path | None = None) -> Connection:
    """Read a connection file (None: that of this project's own server)."""
    path = path or DEFAULT_CONNECTION
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise ConnectionFileError(f"{path}: is larger than {_MAX_BYTES} bytes, so it is no connection file")
        connection = msgspec.json.decode(raw, type=Connection)
    except OSError as error:
        hint = "; `./testbed influx up` writes one" if isinstance(error, FileNotFoundError) else ""
        raise ConnectionFileError(f"{path}: {error.strerror or error}{hint}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConnectionFileError(f"{path}: is no connection file: {error}") from None
    problem = _find_problem(connection)
    if problem:
        raise ConnectionFileError(f"{path}: {problem}")
    return connection


def _find_problem(connection: Connection) -> str:
    if not connection.url.startswith(("http://", "https://")):
        return f"url must look like https://host:8086, not '{connection.url[:80]}'"
    if not connection.org or not connection.bucket or not (connection.org + connection.bucket).isprintable():
        return "org and bucket must be printable and not empty"
    if not (connection.read_token.isascii() and connection.read_token.isprintable()):
        return "read_token must be printable ASCII, on one line"
    if connection.ca and not Path(connection.ca).is_file():
        return f"ca '{connection.ca[:200]}' does not exist"
    return ""
