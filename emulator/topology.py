"""The plan of an emulated testbed: names and addresses of its hosts. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from msgspec import Struct

from emulator.errors import UsageError
from emulator.settings import Settings

__all__ = ["DESKTOP", "MOST_HOSTS", "Host", "choose", "choose_one", "lab_address", "plan_hosts"]

DESKTOP = "desktop"
MOST_HOSTS = 33  # the chapter's seventeen, and room for as many boards again

_DESKTOP_OCTET = 10
_LAB_OCTET = 254


class Host(Struct, frozen=True):
    """One emulated host; ``mac`` and ``machine_id`` follow from its name, so they stay over down and up."""

    name: str
    address: str
    mac: str
    machine_id: str
    namespace: str

    @property
    def port(self) -> str:
        """Its interface on the bridge's side."""
        return f"v-{self.name}"


def plan_hosts(settings: Settings, count: int) -> list[Host]:
    """Return the desktop and ``count - 1`` boards; UsageError if there can't be so many."""
    if not 1 <= count <= MOST_HOSTS:
        raise UsageError(f"{count} hosts: choose between 1 and {MOST_HOSTS}; the chapter's testbed has 17")
    return [_plan_host(settings, n) for n in range(count)]


def choose(hosts: Sequence[Host], names: Sequence[str]) -> list[Host]:
    """Return the hosts named, ``all`` for each of them; UsageError names the one that there is not."""
    by_name = {host.name: host for host in hosts}
    wanted = [n for name in names for n in (by_name if name == "all" else name.split(",")) if n]
    for name in wanted:
        if name not in by_name:
            raise UsageError(f"there is no host '{name}'; there are: {', '.join(by_name)}")
    return [by_name[name] for name in dict.fromkeys(wanted)]


def choose_one(hosts: Sequence[Host], name: str) -> Host:
    """Return the one host of that name; UsageError for a list, ``all`` or nobody."""
    chosen = choose(hosts, [name])
    if len(chosen) != 1:
        raise UsageError(f"'{name}': name one host, such as {hosts[-1].name}")
    return chosen[0]


def lab_address(settings: Settings) -> str:
    """Return the address of the control machine in the hosts' network."""
    return f"{settings.network}.{_LAB_OCTET}"


def _plan_host(settings: Settings, number: int) -> Host:
    name = f"pi{number:02d}" if number else DESKTOP
    octet = _DESKTOP_OCTET + number
    third = int(settings.network.split(".")[2])
    return Host(
        name=name,
        address=f"{settings.network}.{octet}",
        mac=f"02:77:00:00:{third:02x}:{octet:02x}",  # 02: locally administered
        machine_id=uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{settings.prefix}.testbed").hex,
        namespace=settings.namespace(name),
    )
