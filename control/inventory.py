"""What is deployed where: the file ``endpoints.json`` that deploy writes, and the inventory behind it."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from microchain.consensus.genesis import Parameters
from msgspec import Meta, Struct

from control.errors import UsageError

__all__ = ["Deployment", "Device", "Endpoint", "read_deployment"]


class Endpoint(Struct, frozen=True, kw_only=True):
    """One validator: the host that it runs on, its API's base URL and the address that its peers dial."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    host: str
    api: Annotated[str, Meta(pattern=r"^https?://")]
    peer: str = ""


class Device(Struct, frozen=True, kw_only=True):
    """One device of the load generator and the directory of its keys."""

    name: str
    keys: str


class Deployment(Struct, frozen=True, kw_only=True):
    """``endpoints.json``. Paths are absolute; ``signature`` is the scheme that all keys were made with."""

    ca: str
    token_file: str
    endpoints: tuple[Endpoint, ...]
    devices: tuple[Device, ...]
    signature: str = Parameters().signature

    def endpoint(self, name: str) -> Endpoint | None:
        return next((e for e in self.endpoints if e.name == name), None)

    def client_host(self) -> str:
        """This machine's name in telemetry: that of the host reached by loopback (one host, one clock), or control."""
        return next((e.host for e in self.endpoints if _is_loopback(e.api)), "control")


def _is_loopback(url: str) -> bool:
    name = urlsplit(url).hostname or ""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def read_deployment(path: Path) -> Deployment:
    """Read ``endpoints.json``; UsageError says what to do if there is none or it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Deployment)
    except FileNotFoundError:
        raise UsageError(f"nothing is deployed here: {path} does not exist; run './testbed deploy' first") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}; './testbed deploy' writes it again") from None
