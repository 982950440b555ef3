"""What is deployed where: the file ``endpoints.json`` that deploy writes, and the inventory behind it."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from microchain.consensus.genesis import Parameters
from msgspec import Meta, Struct

from control.errors import UsageError
from control.spec import HostSelection

__all__ = ["Deployment", "Device", "Endpoint", "HostKind", "read_deployment"]

HostKind = Literal["board", "desktop"]


class Endpoint(Struct, frozen=True, kw_only=True):
    """One validator: the host that it runs on, its API's base URL and the address that its peers dial.

    ``kind`` is its host's: a host of the inventory's group ``desktops`` is a desktop, every other one a board.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    host: str
    api: Annotated[str, Meta(pattern=r"^https?://")]
    peer: str = ""
    kind: HostKind = "board"


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

    def select(self, hosts: HostSelection) -> tuple[Endpoint, ...]:
        """Return the validators of boards, of desktops, or of all hosts, in the inventory's order, boards first."""
        boards = tuple(endpoint for endpoint in self.endpoints if endpoint.kind == "board")
        desktops = tuple(endpoint for endpoint in self.endpoints if endpoint.kind == "desktop")
        return {"boards": boards, "desktops": desktops, "all": boards + desktops}[hosts]

    def validators_on(self, host: str) -> frozenset[str]:
        """Return the names of a host's validators."""
        return frozenset(endpoint.name for endpoint in self.endpoints if endpoint.host == host)

    def client_host(self) -> str:
        """This machine's name in telemetry: of the host whose address is its own (one host, one clock), or control."""
        addresses = {endpoint.host: urlsplit(endpoint.api).hostname or "" for endpoint in self.endpoints}
        return next((host for host, address in addresses.items() if _is_own(address)), "control")


def _is_own(address: str) -> bool:
    """Whether an address (IPv4, IPv6 or a name) is one of this machine's: only on such a one can a socket be opened."""
    try:
        found = socket.getaddrinfo(address, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, place in found:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(place)
            return True
    return False


def read_deployment(path: Path) -> Deployment:
    """Read ``endpoints.json``; UsageError says what to do if there is none or it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Deployment)
    except FileNotFoundError:
        raise UsageError(f"nothing is deployed here: {path} does not exist; run './testbed deploy' first") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}; './testbed deploy' writes it again") from None
