"""Namespaces, the bridge and its cables: all inside namespaces of ours."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from emulator.commands import run, succeeds
from emulator.errors import EmulationFailed, UsageError
from emulator.settings import Settings
from emulator.state import machine_lock
from emulator.topology import Host, lab_address

__all__ = [
    "BRIDGE", "NETNS", "end_processes_inside", "make_network", "netns_exists",
    "plan_bridge", "plan_host_side", "remove_namespaces", "set_cable", "socket_inside",
]  # fmt: skip

NETNS = Path("/run/netns")
BRIDGE = "br0"

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def plan_bridge(settings: Settings, hosts: Sequence[Host]) -> list[str]:
    """Return what `ip -batch` does in the lab's namespace: a bridge, and a cable to each host."""
    lines = [
        "link set lo up",
        f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0",
        f"addr add {lab_address(settings)}/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ]
    for host in hosts:
        lines.append(f"link add {host.port} type veth peer name eth0 netns {host.namespace}")
        lines.append(f"link set {host.port} master {BRIDGE} up")
    return lines


def plan_host_side(host: Host) -> list[str]:
    """Return what `ip -batch` does in a host's namespace."""
    return [
        "link set lo up",
        f"link set eth0 address {host.mac}",
        f"addr add {host.address}/24 broadcast + dev eth0",
        "link set eth0 up",
    ]


def netns_exists(names: Sequence[str]) -> list[str]:
    """Return those of the names that are taken."""
    return [name for name in names if (NETNS / name).exists()]


def make_network(settings: Settings, hosts: Sequence[Host]) -> None:
    """Make the namespaces (EmulationFailed if one can't be), the bridge and the cables."""
    with machine_lock():
        names = [settings.lab, *(host.namespace for host in hosts)]
        # ip goes back to where it was after each, and in a user namespace nobody gets back into the machine's network.
        run("unshare", "--net", "ip", "-batch", "-", standard_input="".join(f"netns add {name}\n" for name in names))
    run("ip", "-n", settings.lab, "-batch", "-", standard_input=_lines(plan_bridge(settings, hosts)))
    for host in hosts:
        run("ip", "-n", host.namespace, "-batch", "-", standard_input=_lines(plan_host_side(host)))


def set_cable(settings: Settings, host: Host, connected: bool) -> None:
    """Plug a host's cable in or out."""
    run("ip", "-n", settings.lab, "link", "set", host.port, "up" if connected else "down")


def remove_namespaces(names: Sequence[str], made_directory: bool) -> None:
    """Delete those of the namespaces that there are, and /run/netns if we brought it and nobody else uses it."""
    for name in netns_exists(names):
        end_processes_inside(name)
    with machine_lock():
        for name in netns_exists(names):
            run("ip", "netns", "delete", name)
        if made_directory and NETNS.is_dir() and not any(NETNS.iterdir()):
            succeeds("umount", str(NETNS))
            with suppress(OSError):
                NETNS.rmdir()


def end_processes_inside(name: str, grace_s: float = 3.0) -> None:
    """End what was started in a namespace from outside (SSH masters, playbooks): it would keep the namespace alive."""
    own = _ancestors()
    end = time.monotonic() + grace_s
    while pids := _inside(name):
        if own & pids:
            raise UsageError(f"this command runs in the namespace {name}, which it is to remove: run it outside")
        late = time.monotonic() > end
        for pid in pids:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        if time.monotonic() > end + grace_s:
            raise EmulationFailed(f"processes in the namespace {name} don't end: {sorted(pids)}")
        time.sleep(0.05)


def socket_inside(name: str) -> socket.socket:
    """Return a socket for TCP in a namespace, made by a thread that ends there: in a user namespace none gets back."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_make_socket, NETNS / name).result()


def _make_socket(namespace: Path) -> socket.socket:
    with namespace.open() as place:
        _set_namespace(place.fileno())
    return socket.socket()


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _inside(name: str) -> set[int]:
    """Who has that network namespace? A file that was never mounted over is of none."""
    try:
        wanted = (NETNS / name).stat()
    except FileNotFoundError:
        return set()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                there = (entry / "ns" / "net").stat()
                if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino):
                    found.add(int(entry.name))
    return found


def _ancestors() -> set[int]:
    pids, pid = set(), os.getpid()
    while pid > 1:
        pids.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pids


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
