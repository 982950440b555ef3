"""Looks at the inventory and at a host before anything is changed: prints {"problems": [sentence, ...]}.

Run with the host's own Python, whatever its version; the request (JSON) is the only argument.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

OLDEST = (3, 11)


def find_problems(request: dict[str, Any]) -> list[str]:
    return find_inventory_problems(request["names"], request["ports"]) + find_host_problems(request)


def find_inventory_problems(names: list[str], ports: list[int]) -> list[str]:
    """Check the names of all validators of the inventory, and the ports of this host."""
    problems = [f"{name} is in the inventory twice: give each validator a name of its own" for name in repeated(names)]
    problems += [f"port {port} is given twice on this host: give each its own" for port in repeated(ports)]
    problems += [
        f"{name!r} is no validator's name: take lower-case letters, digits and hyphens, at most 63"
        for name in names
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name)
    ]
    problems += [
        f"port {port} is impossible: take one from 1024 to 65535" for port in ports if not 1024 <= port <= 65535
    ]
    return problems


def repeated(values: list[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def find_host_problems(request: dict[str, Any]) -> list[str]:
    root = Path(request["root"])
    problems = []
    if sys.version_info < OLDEST:
        found, wanted = sys.version.split()[0], ".".join(map(str, OLDEST))
        problems.append(f"Python {found} is too old: install {wanted} or newer, or set ansible_python_interpreter")
    there = next(path for path in (root, *root.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        problems.append(
            f"{there} can't be written by this user: change its owner, or set testbed_root to another place"
        )
    free = shutil.disk_usage(there).free >> 20
    if free < request["free_mb"]:
        problems.append(f"only {free} MB are free at {there}, {request['free_mb']} are needed: make room")
    ports = sorted({port for port in request["ports"] if 1024 <= port <= 65535})
    return problems + find_port_problems(request["address"], ports, f"{root}/env/")


def find_port_problems(address: str, ports: list[int], ours: str) -> list[str]:
    """Name the ports that others than our own validators hold."""
    problems = []
    refused = {port: try_bind(address, port) for port in ports}
    if errno.EADDRNOTAVAIL in refused.values():
        return [f"{address} is no address of this host: correct testbed_address in the inventory"]
    owners = find_owners() if any(refused.values()) else {}
    for port, code in refused.items():
        owner = owners.get(port, "a program of another user")
        if code == errno.EADDRINUSE and not owner.startswith(ours):
            problems.append(f"port {port} is in use by {owner}: end it, or choose other ports in the inventory")
        elif code and code != errno.EADDRINUSE:
            problems.append(f"port {port} can't be used: {os.strerror(code)}: choose other ports in the inventory")
    return problems


def try_bind(address: str, port: int) -> int:
    """Return 0, or the error number with which the system refuses the port."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno or errno.EINVAL
    return 0


def find_owners() -> dict[int, str]:
    """Return who listens on which TCP port, as a command line, as far as this user may see it."""
    listening = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":  # LISTEN
                    listening[f"socket:[{fields[9]}]"] = int(fields[1].rpartition(":")[2], 16)
    owners = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    port = listening.get(str(descriptor.readlink()))
                    if port is not None:
                        owners[port] = f"{command} (process {process.name})"
    return owners


if __name__ == "__main__":
    print(json.dumps({"problems": find_problems(json.loads(sys.argv[1]))}))
