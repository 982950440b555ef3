"""Writes what Ansible and SSH need to know of the hosts: ``hosts.yml`` and ``known_hosts``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from emulator.image import USER, machine_of
from emulator.layers import public_host_key
from emulator.network import NETNS
from emulator.rootless import holder_process
from emulator.settings import Settings
from emulator.topology import DESKTOP, Host, lab_address

__all__ = ["build_inventory", "remove_inventory", "write_inventory", "write_known_hosts"]

_HEAD = "# Written by './testbed emulate up', removed by 'down': who the hosts are; the rest is in group_vars.\n"


def build_inventory(settings: Settings, hosts: Sequence[Host], bases: Iterable[str] = ()) -> dict[str, Any]:
    """Return the inventory: group ``testbed`` of ``desktops`` and ``boards``, and how they are reached.

    ``bases``: their images, which show what wheels they need.
    """
    options = [
        "-o StrictHostKeyChecking=yes",
        f"-o 'UserKnownHostsFile=\"{settings.known_hosts}\"'",
        "-o IdentitiesOnly=yes",
        "-o ConnectTimeout=5",
    ]
    return {
        "testbed": {
            "children": {
                "desktops": {"hosts": {h.name: _variables(h) for h in hosts if h.name == DESKTOP}},
                "boards": {"hosts": {h.name: _variables(h) for h in hosts if h.name != DESKTOP}},
            },
            "vars": {
                "ansible_user": USER,
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_ssh_private_key_file": str(settings.key),
                "ansible_ssh_common_args": " ".join(options),
                **_ways_in(settings, bases),
                "control_address": lab_address(settings),
            },
        },
        "influxdb": {"hosts": {h.name: {} for h in hosts if h.name == DESKTOP}},
    }


def write_inventory(settings: Settings, hosts: Sequence[Host], bases: Iterable[str]) -> None:
    settings.inventory.mkdir(parents=True, exist_ok=True)
    draft = settings.inventory_file.with_suffix(".new")
    draft.write_text(_HEAD + yaml.safe_dump(build_inventory(settings, hosts, bases), sort_keys=False, width=200))
    draft.replace(settings.inventory_file)


def write_known_hosts(settings: Settings, hosts: Sequence[Host]) -> None:
    lines = [f"{host.name},{host.address} {public_host_key(settings, host)}\n" for host in hosts]
    settings.known_hosts.write_text("".join(lines))


def remove_inventory(settings: Settings) -> None:
    for path in (settings.inventory_file, settings.inventory_file.with_suffix(".new"), settings.known_hosts):
        path.unlink(missing_ok=True)


def _ways_in(settings: Settings, bases: Iterable[str]) -> dict[str, Any]:
    """Return the namespace's name, or where it is inside a holder: there wheels can't be fetched."""
    if not (holder := holder_process()):
        return {"control_namespace": settings.lab}
    kinds = sorted({_kind(Path(base)) for base in bases})
    return {"control_namespace": f"/proc/{holder}/root{NETNS}/{settings.lab}", "control_wheels": kinds}


def _kind(base: Path) -> str:
    """What control.wheelhouse calls hosts of an image, such as x86_64-3.11."""
    return f"{machine_of(base)}-{(base / 'usr' / 'bin' / 'python3').readlink().name.removeprefix('python')}"


def _variables(host: Host) -> dict[str, str]:
    return {"ansible_host": host.address, "testbed_address": host.address}
