"""Looks at the inventory and at a host before anything is changed.

Prints {"problems": [sentence, ...], "kind": MACHINE-PYTHON or "local", "python": VERSION, "installed": {"dependencies",
"node"}, "deployed": what the last deployment noted at its end}. Run with the host's own Python, whatever its version,
as the user who will change things; the request (JSON) is the only argument.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import shutil
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

OLDEST = (3, 11)
MACHINES = ("x86_64", "aarch64")


def find_problems(request: dict[str, Any]) -> list[str]:
    return find_inventory_problems(request) + find_host_problems(request)


def find_inventory_problems(request: dict[str, Any]) -> list[str]:
    """Check this host's own names, address and ports, also against those of all others."""
    names, ports, addresses = request["own_names"], request["ports"], request["addresses"]
    problems = [
        f"validator {name} is in the inventory twice: give each a name of its own"
        for name in repeated(request["names"])
        if name in names
    ]
    problems += [f"port {port} is given twice on this host: give each its own" for port in repeated(ports)]
    problems += [
        f"{name!r} is no validator's name: take lower-case letters, digits and hyphens, at most 63"
        for name in names
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name)
    ]
    problems += [
        f"port {port} is impossible: take one from 1024 to 65535" for port in ports if not 1024 <= port <= 65535
    ]
    address = request["address"]
    same = sorted(host for host, other in addresses.items() if other == address)
    if len(same) > 1 and not is_loopback(address):
        problems.append(f"{', '.join(same)} have the same address {address}: correct the inventory")
    return problems


def repeated(values: list[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "localhost")


def find_host_problems(request: dict[str, Any]) -> list[str]:
    root = Path(request["root"])
    problems = find_system_problems(request)
    problems += find_place_problems([root, *map(Path, request["places"])])
    if len(root.parts) < 3:
        problems.append(f"testbed_root is {root}, and would be removed by a teardown: take one such as /opt/microchain")
    there = existing(root)
    free = shutil.disk_usage(there).free >> 20
    if free < request["free_mb"]:
        problems.append(f"only {free} MB are free at {there}, {request['free_mb']} are needed: make room")
    ports = sorted({port for port in request["ports"] if 1024 <= port <= 65535})
    return problems + find_port_problems(request["address"], ports, f"{root}/env/")


def find_system_problems(request: dict[str, Any]) -> list[str]:
    """Check processor, Python, service manager and clock."""
    problems = []
    if sys.version_info < OLDEST:
        found, wanted = sys.version.split()[0], ".".join(map(str, OLDEST))
        problems.append(f"Python {found} is too old: install {wanted} or newer, or set ansible_python_interpreter")
    if not request["local"] and (platform.machine() not in MACHINES or sys.maxsize < 2**32):
        bits = "64" if sys.maxsize > 2**32 else "32"
        problems.append(
            f"its system is for {platform.machine()} ({bits} bit), there are wheels for {' and '.join(MACHINES)}:"
            " install a 64-bit system"
        )
    if request["systemd"] and not Path("/run/systemd/system").is_dir():
        problems.append("systemd does not run here: install a system with it, or set service_backend to supervisor")
    behind = request["now"] - time.time()
    if request["clock_s"] and abs(behind) > request["clock_s"]:
        problems.append(
            f"its clock is {format_span(abs(behind))} {'behind' if behind > 0 else 'ahead of'} this machine's:"
            " set it (sudo date --set), or let it follow a time server (time_sync: true)"
        )
    return problems


def format_span(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def find_place_problems(places: list[Path]) -> list[str]:
    there = list(dict.fromkeys(map(existing, places)))
    read_only = [place for place in there if place.is_dir() and os.statvfs(place).f_flag & os.ST_RDONLY]
    refused = [place for place in there if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK)]
    problems = []
    if read_only:
        shown = ", ".join(map(str, read_only))
        problems.append(f"read-only file system at {shown}: look at dmesg for a failing SD card, and reboot it")
    elif refused:
        shown = ", ".join(map(str, refused))
        problems.append(
            f"{shown} can't be written by this user: change its owner, or set testbed_root to another place"
        )
    return problems


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


def read_installed(root: Path) -> dict[str, str]:
    """Return what role python_env has noted: from which archives the environment was made, with which Python."""
    installed = {}
    for name in ("dependencies", "node"):
        with contextlib.suppress(OSError):
            installed[name] = (root / "env" / f".{name}").read_text()
    return installed if os.access(root / "env" / "bin" / "python", os.X_OK) else {}


def read_deployed(root: Path) -> str:
    with contextlib.suppress(OSError):
        return (root / "deployed").read_text().strip()
    return ""


def look(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "problems": find_problems(request),
        "kind": "local" if request["local"] else f"{platform.machine()}-{sys.version_info[0]}.{sys.version_info[1]}",
        "python": sys.version.split()[0],
        "installed": read_installed(Path(request["root"])),
        "deployed": read_deployed(Path(request["root"])),
    }


if __name__ == "__main__":
    print(json.dumps(look(json.loads(sys.argv[1]))))
