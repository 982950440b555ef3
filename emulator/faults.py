"""What happens to hosts: power loss, hanging, partitions, slow links, wrong clocks, little memory."""

from __future__ import annotations

import fcntl
import itertools
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from emulator.cgroups import Cgroups
from emulator.clock import CLOCK_FILE, SHIM, write_clock
from emulator.commands import run
from emulator.errors import EmulationFailed, UsageError
from emulator.files import release_loops
from emulator.host import enter_command, launcher_process
from emulator.layers import golden_path, host_directory, save_golden, upper_layer
from emulator.lifecycle import hosts_of, recorded
from emulator.link_emulation import apply_links, apply_rules
from emulator.network import set_cable
from emulator.settings import Settings
from emulator.state import Limits, Link, State, write_state
from emulator.topology import Host

__all__ = [
    "block",
    "heal",
    "kill",
    "limit",
    "pause",
    "plan_partition",
    "powercut",
    "resume",
    "set_clock",
    "set_links",
    "snapshot",
]

_EXT4_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2  # what was not synced is lost


def kill(settings: Settings, hosts: Sequence[Host]) -> None:
    """Take the power away; what programs wrote stays, synced or not. Peers see silence, not an end of connections."""
    cgroups = Cgroups(settings)
    for host in hosts:
        set_cable(settings, host, False)
        cgroups.kill_host(host.name)
        cgroups.remove_host(host.name)
    release_loops([str(host_directory(settings, host) / "disk.img") for host in hosts])


def powercut(settings: Settings, state: State, hosts: Sequence[Host]) -> None:
    """Take the power away together with all that was not synced to disk; UsageError for hosts without a disk."""
    if not state.disk_bytes:
        raise UsageError("only a disk of its own can lose what was not synced: './testbed emulate up --disk 2G …'")
    cgroups = Cgroups(settings)
    for host in _alive(cgroups, hosts):
        set_cable(settings, host, False)
        disk = Path(f"/proc/{launcher_process(settings, host)}/root{host_directory(settings, host)}/rw")
        descriptor = os.open(disk, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _EXT4_SHUTDOWN, struct.pack("=I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)
    kill(settings, hosts)


def pause(settings: Settings, hosts: Sequence[Host]) -> None:
    """Stop all processes where they are; the kernel still acknowledges what comes over the network."""
    cgroups = Cgroups(settings)
    for host in _alive(cgroups, hosts):
        cgroups.freeze(host.name, True)


def resume(settings: Settings, hosts: Sequence[Host]) -> None:
    cgroups = Cgroups(settings)
    for host in _alive(cgroups, hosts):
        cgroups.freeze(host.name, False)


def plan_partition(groups: Sequence[Sequence[str]], everyone: Sequence[str], one_way: bool) -> list[tuple[str, str]]:
    """Return the pairs (from, to) that are cut so that hosts of one group reach no other group.

    Hosts that are not named form a group of their own. ``one_way``: only what the first group sends is lost.
    """
    named = [name for group in groups for name in group]
    if len(named) != len(set(named)):
        raise UsageError("a host is in two groups of the partition")
    others = [name for name in everyone if name not in named]
    sides = [list(group) for group in groups if group] + ([others] if others else [])
    if len(sides) < 2:
        raise UsageError("a partition needs two sides: name the hosts of one, such as pi01,pi02")
    pairs = itertools.permutations(range(len(sides)), 2)
    return [(a, b) for i, j in pairs if not one_way or i == 0 for a in sides[i] for b in sides[j]]


def block(settings: Settings, state: State, pairs: Sequence[tuple[str, str]]) -> None:
    """Cut these pairs of hosts, (from, to), instead of those that were cut before."""
    state.blocked = list(pairs)
    write_state(settings, state)
    apply_rules(settings, state)


def heal(settings: Settings, state: State) -> None:
    """End all partitions; links stay as slow as they are."""
    block(settings, state, [])


def set_links(
    settings: Settings, state: State, hosts: Sequence[Host], link: Link | None, shared_rate: float | None
) -> None:
    """Give hosts this link, or a perfect one; ``shared_rate`` changes the common medium's, 0 is without limit."""
    for host in hosts:
        if link is None or link == Link():
            state.links.pop(host.name, None)
        else:
            state.links[host.name] = link
    if shared_rate is not None:
        state.shared_rate = shared_rate
    cgroups = Cgroups(settings)
    with recorded(cgroups):
        apply_links(settings, cgroups, state, hosts_of(settings, state))


def set_clock(settings: Settings, hosts: Sequence[Host], offset_s: float, drift_ppm: float) -> None:
    """Make the wall clocks of hosts wrong by an offset and, from now on, a drift."""
    for host in hosts:
        if not (host_directory(settings, host) / "seed" / SHIM.lstrip("/")).exists():
            raise EmulationFailed("clocks can't be emulated: gcc was missing at 'up'; install it, then 'down' and 'up'")
    for host in hosts:
        write_clock(host_directory(settings, host) / CLOCK_FILE, offset_s, drift_ppm)


def limit(settings: Settings, state: State, hosts: Sequence[Host], memory: int | None, cpus: float | None) -> None:
    """Change what hosts may use, now and after a restart; None leaves one as it is."""
    cgroups = Cgroups(settings)
    for host in hosts:
        before = state.limits[host.name]
        limits = Limits(before.memory_bytes if memory is None else memory, before.cpus if cpus is None else cpus)
        if cgroups.is_alive(host.name):
            cgroups.limit(host.name, limits)
        state.limits[host.name] = limits
    write_state(settings, state)


def snapshot(settings: Settings, state: State, host: Host, name: str) -> Path:
    """Keep what a host has on disk as a golden layer, for ``up --golden``; it pauses meanwhile."""
    golden_path(settings, name)
    if state.golden:
        raise UsageError(f"these hosts stand on golden layer '{state.golden}'; take one of hosts booted without")
    cgroups = Cgroups(settings)
    [host] = _alive(cgroups, [host])
    run(*enter_command(cgroups, host.name, ["sync"]))
    upper = upper_layer(settings, host, launcher_process(settings, host) if state.disk_bytes else None)
    was_frozen = cgroups.is_frozen(host.name)
    cgroups.freeze(host.name, True)
    try:
        return save_golden(settings, name, upper, Path(state.bases[host.name]))
    finally:
        cgroups.freeze(host.name, was_frozen)


def _alive(cgroups: Cgroups, hosts: Sequence[Host]) -> Sequence[Host]:
    for host in hosts:
        if not cgroups.is_alive(host.name):
            raise UsageError(f"{host.name} does not run; './testbed emulate start {host.name}' boots it")
    return hosts
