"""Writes what Ansible and SSH need to know of the hosts: ``hosts.yml`` and ``known_hosts``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from emulator.image import USER
from emulator.layers import public_host_key
from emulator.network import NETNS
from emulator.rootless import holder_process
from emulator.settings import Settings
from emulator.topology import DESKTOP, Host, lab_address

__all__ = ["build_inventory", "remove_inventory", "write_inventory", "write_known_hosts"]

_HEAD = "# Written by './testbed emulate up', removed by 'down': who the hosts are; the rest is in group_vars.\n"


def build_inventory(settings: Settings, hosts: Sequence[Host]) -> dict[str, Any]:
    """Return the inventory: group ``testbed`` of ``desktops`` and ``boards``, and how they are reached."""
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
                "control_namespace": _namespace(settings),
                "control_address": lab_address(settings),
            },
        },
        "influxdb": {"hosts": {h.name: {} for h in hosts if h.name == DESKTOP}},
    }


def write_inventory(settings: Settings, hosts: Sequence[Host]) -> None:
    settings.inventory.mkdir(parents=True, exist_ok=True)
    draft = settings.inventory_file.with_suffix(".new")
    draft.write_text(_HEAD + yaml.safe_dump(build_inventory(settings, hosts), sort_keys=False, width=200))
    draft.replace(settings.inventory_file)


def write_known_hosts(settings: Settings, hosts: Sequence[Host]) -> None:
    lines = [f"{host.name},{host.address} {public_host_key(settings, host)}\n" for host in hosts]
    settings.known_hosts.write_text("".join(lines))


def remove_inventory(settings: Settings) -> None:
    for path in (settings.inventory_file, settings.inventory_file.with_suffix(".new"), settings.known_hosts):
        path.unlink(missing_ok=True)


def _namespace(settings: Settings) -> str:
    """Its name, or where it is inside a holder."""
    holder = holder_process()
    return f"/proc/{holder}/root{NETNS}/{settings.lab}" if holder else settings.lab


def _variables(host: Host) -> dict[str, str]:
    return {"ansible_host": host.address, "testbed_address": host.address}
