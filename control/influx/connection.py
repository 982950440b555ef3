"""The connection file: how a server is reached and with which rights. It holds secrets, so only its owner reads it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from microchain.keys import write_whole
from msgspec import Struct

from control.errors import UsageError
from control.project import ROOT

__all__ = ["DEFAULT", "Connection", "ConnectionFileError", "find_problem", "load_connection", "save_connection"]

DEFAULT = ROOT / ".cache" / "influxdb" / "connection.json"
"""Written by ``./testbed influx up``; what uses a server takes this file unless told of another."""

_MAX_BYTES = 64 << 10
_VERSION = re.compile(r"1\.8\.\d+|2\.\d+\.\d+")


class ConnectionFileError(UsageError):
    """A connection file that is missing or can't be used; the message names it and what to do."""


class Connection(Struct, frozen=True, kw_only=True):
    """A provisioned server. A token is empty where the server asks for none or nobody gave it."""

    url: str
    """``http[s]://host[:port]``, without a slash at the end."""
    version: str
    """``1.8.10``, ``2.7.12``."""
    org: str
    """The organisation's name; ``-`` for 1.8, which has none."""
    bucket: str
    """The bucket's name; ``database/retention-policy`` for 1.8."""
    write_token: str = ""
    """May write to the bucket and nothing else. For 1.8 all tokens are ``user:password``."""
    read_token: str = ""
    """May read from the bucket and nothing else."""
    admin_token: str = ""
    """The operator's; never leaves this machine."""
    admin_password: str = ""
    """Of the user ``testbed`` that setup made on 2.x, for its web pages."""
    ca: str = ""
    """Absolute path of the certificate (PEM) of the authority that signed the server's; empty for the system's own."""

    @property
    def major(self) -> int:
        """1 or 2."""
        return int(self.version[0])

    def __repr__(self) -> str:
        """Without the tokens, so that no log or traceback shows them."""
        return f"Connection(url={self.url!r}, version={self.version!r}, org={self.org!r}, bucket={self.bucket!r})"


def load_connection(path: Path = DEFAULT) -> Connection:
    """Read and check a connection file; ConnectionFileError if it is missing, malformed or readable by others."""
    try:
        with path.open("rb") as stream:
            mode = path.stat().st_mode
            raw = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        hint = "; `./testbed influx up` writes one" if isinstance(error, FileNotFoundError) else ""
        raise ConnectionFileError(f"{path}: {error.strerror or error}{hint}") from None
    if mode & 0o077:
        raise ConnectionFileError(f"{path}: holds secrets and is readable by others; `chmod 600` it")
    if len(raw) > _MAX_BYTES:
        raise ConnectionFileError(f"{path}: is larger than {_MAX_BYTES} bytes, so it is no connection file")
    try:
        connection = msgspec.json.decode(raw, type=Connection)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConnectionFileError(f"{path}: is no connection file: {error}") from None
    problem = find_problem(connection)
    if problem:
        raise ConnectionFileError(f"{path}: {problem}")
    return connection


def save_connection(path: Path, connection: Connection) -> bool:
    """Write the file whole, with mode 0600, in a directory of its owner alone; whether it changed."""
    data = msgspec.json.format(msgspec.json.encode(connection), indent=2) + b"\n"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        if path.read_bytes() == data and not path.stat().st_mode & 0o077:
            return False
    except OSError:
        pass
    write_whole(path, data)
    return True


def find_problem(connection: Connection) -> str:
    """Say what can't be right with a connection, or nothing."""
    try:
        parts = urlsplit(connection.url)
        parts.port  # noqa: B018 (raises ValueError if it is none)
    except ValueError as error:
        return f"url '{connection.url[:80]}' can't be read: {error}"
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.username:
        return f"url must look like https://host:8086, not '{connection.url[:80]}'"
    if not _VERSION.fullmatch(connection.version):
        return f"version must be 1.8.x or 2.x.y, not '{connection.version[:20]}'"
    if not connection.org or not connection.bucket:
        return "org and bucket must not be empty"
    if connection.major == 1 and connection.bucket.count("/") != 1:
        return f"bucket of a 1.8 server is database/retention-policy, not '{connection.bucket[:80]}'"
    if not (connection.org + connection.bucket).isprintable():
        return "org and bucket must be printable"
    tokens = connection.write_token + connection.read_token + connection.admin_token + connection.admin_password
    if not (tokens.isascii() and tokens.isprintable()):
        return "a token must be printable ASCII, on one line"
    if connection.ca and not Path(connection.ca).is_file():
        return f"ca '{connection.ca[:200]}' does not exist"
    return ""
