"""A validator's configuration file (TOML).

Errors name the file, the line, the key and, for a key that does not exist, the nearest one that does.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

__all__ = [
    "NAME_PATTERN",
    "Address",
    "ApiSection",
    "ConfigError",
    "InfluxSection",
    "LeaseSection",
    "ListenSection",
    "NodeConfig",
    "NodeSection",
    "ServerUrl",
    "TelemetrySection",
    "load_config",
    "suggest",
]

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}\Z"
"""A node's name: it serves as a DNS label and as a file name."""


class ConfigError(ValueError):
    """A configuration file that no node can run with; the message names file, line and key."""


class Address(str):
    """``host:port`` (``[::1]:9101`` for IPv6) with its parts; ValueError if the text is none."""

    host: str
    """A name or IP address, without brackets."""
    port: int

    def __new__(cls, text: str) -> Address:
        address = super().__new__(cls, text)
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"an IPv6 address needs brackets, as in [::1]:9101, not {text!r}")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError(f"expected host:port, such as 127.0.0.1:9101, not {text!r}")
        address.host, address.port = host, int(port)
        return address


class ServerUrl(str):
    """``http[s]://host[:port][/path]`` of a server; ValueError if the text is none."""

    def __new__(cls, text: str) -> ServerUrl:
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        extra = parts.query or parts.fragment or parts.username is not None or parts.password is not None
        usable = parts.scheme in ("http", "https") and parts.hostname and port != 0 and text.isascii()
        if not usable or extra or not text.isprintable() or " " in text:
            raise ValueError(
                f"expected http://host:port or https://host:port, such as http://10.0.0.1:8086, not {text!r}"
            )
        return super().__new__(cls, text)


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class NodeSection(_Section, frozen=True):
    """Who the node is. ``data`` holds the ledger and the spool, ``keys`` what ``microchain-node keys`` made."""

    name: Annotated[str, Meta(pattern=NAME_PATTERN)]
    data: Path
    genesis: Path
    keys: Path


class ListenSection(_Section, frozen=True):
    """Where the node listens: for its peers, and for clients and the operator."""

    peer: Address
    api: Address


class ApiSection(_Section, frozen=True):
    """``token_file`` holds the token that requests which change something must carry."""

    token_file: Path


class TelemetrySection(_Section, frozen=True):
    """What the points are tagged with, which share of the transactions is traced, and how large the spool may grow."""

    run: str = ""
    cell: str = ""
    host: str = ""
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0
    interval_s: Annotated[float, Meta(ge=0.1, le=3600)] = 1.0
    max_spool_bytes: Annotated[int, Meta(ge=65536)] = 256 << 20


class LeaseSection(_Section, frozen=True):
    """The node stops itself ``seconds`` after the operator last extended its lease; 0: it runs until it is stopped."""

    seconds: Annotated[float, Meta(ge=0)] = 900.0


class InfluxSection(_Section, frozen=True):
    """The InfluxDB server that telemetry is streamed to. ``token_file`` is read again for each try, so it may change.

    ``ca_file`` is the certificate of the authority that signed an https server's; without it the system's count.
    """

    url: ServerUrl
    org: Annotated[str, Meta(min_length=1, max_length=255)]
    bucket: Annotated[str, Meta(min_length=1, max_length=255)]
    token_file: Path
    ca_file: Path | None = None


class NodeConfig(_Section, frozen=True):
    """A whole configuration file."""

    node: NodeSection
    listen: ListenSection
    api: ApiSection
    telemetry: TelemetrySection = TelemetrySection()
    lease: LeaseSection = LeaseSection()
    influx: InfluxSection | None = None

    @property
    def ledger_path(self) -> Path:
        return self.node.data / "ledger.db"

    @property
    def spool_path(self) -> Path:
        return self.node.data / "spool"


def load_config(path: Path) -> NodeConfig:
    """Read and check a configuration file; ConfigError says where it is wrong and what was expected."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the configuration is not UTF-8 text") from None
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: endless digits, endless nesting
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    try:
        config = msgspec.convert(document, NodeConfig, dec_hook=_convert)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(path, text, document, str(error))) from None
    _refuse_contradictions(path, text, config)
    return config


def suggest(name: str, known: Sequence[str]) -> str:
    """Return "did you mean …?" with the known name nearest to an unknown one, or else all known names."""
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else f"there are: {', '.join(known)}"


def _convert(expected: type, value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {value!r}")
    if expected in (Address, ServerUrl):
        return expected(value)
    if "\x00" in value or not Path(value).is_absolute():
        raise ValueError(f"expected an absolute path, got {value!r}")
    return Path(value)


def _refuse_contradictions(path: Path, text: str, config: NodeConfig) -> None:
    if not math.isfinite(config.lease.seconds):
        line = _line_of(text, "lease", "seconds")
        raise ConfigError(f"{path}:{line}: lease.seconds: {config.lease.seconds} is no duration; 0 means no lease")
    if config.listen.peer == config.listen.api and config.listen.peer.port:
        line = _line_of(text, "listen", "api")
        raise ConfigError(f"{path}:{line}: listen.api: {config.listen.api} is the address of listen.peer as well")
    if config.influx and config.influx.ca_file and not config.influx.url.startswith("https:"):
        line = _line_of(text, "influx", "ca_file")
        raise ConfigError(
            f"{path}:{line}: influx.ca_file: {config.influx.url} uses no TLS; make it https:// or leave it out"
        )


def _explain(path: Path, text: str, document: dict[str, Any], message: str) -> str:
    """Turn msgspec's message (``what - at `$.section.key` ``) into one that names line and nearest key."""
    what, _, where = message.partition(" - at `$")
    keys = where.rstrip("`").strip(".").split(".") if where else []
    field = re.search(r"field `([^`]*)`", what)
    if field is None:
        value = functools.reduce(lambda table, key: table[key], keys, document)
        shown = "" if repr(value) in what else f" (it is {value!r})"
        return f"{path}:{_line_of(text, *keys)}: {'.'.join(keys)}: {what}{shown}"
    name = field[1]
    dotted = ".".join([*keys, name])
    kind = "key" if keys else "section"
    if "missing" in what:
        return f"{path}:{_line_of(text, *keys)}: the {kind} {dotted} is missing"
    return f"{path}:{_line_of(text, *keys, name)}: unknown {kind} {dotted}; {suggest(name, _keys_of(keys))}"


def _keys_of(section: list[str]) -> list[str]:
    struct: Any = NodeConfig
    for name in section:
        struct = next(f.type for f in msgspec.structs.fields(struct) if f.name == name)
        struct = next((kind for kind in get_args(struct) if kind is not type(None)), struct)  # of an optional section
    return [f.name for f in msgspec.structs.fields(struct)]


def _line_of(text: str, *keys: str) -> int:
    """Return the number of the line with key ``keys[1]`` in ``[keys[0]]``, else of the section's header, else 1."""
    section, key, *_ = (*keys, "", "")
    current, header = "", 1
    for number, line in enumerate(text.splitlines(), start=1):
        opened = re.match(r"\s*\[+\s*([^\]]*?)\s*\]", line)
        if opened:
            current = opened[1].strip("\"'")
            if current == section:
                header = number
        elif current == section and key and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*[=.]""", line):
            return number
        elif not current and section and re.match(rf"""\s*["']?{re.escape(section)}["']?\s*[=.]""", line):
            header = number
    return header
