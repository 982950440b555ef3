"""What the hosts are doing, as data; the command line prints it."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from emulator.cgroups import Cgroups
from emulator.clock import CLOCK_FILE, read_clock
from emulator.layers import host_directory
from emulator.lifecycle import hosts_of
from emulator.link_emulation import daemon_runs, read_report
from emulator.settings import Settings
from emulator.state import Limits, Link, State

__all__ = ["HostStatus", "LinkStatus", "host_status", "link_status"]


class HostStatus(Struct, frozen=True, kw_only=True):
    """One host; ``process`` is the machine's number of its PID 1, ``condition`` "up", "paused", "booting" or "down"."""

    name: str
    address: str
    condition: str
    process: int
    memory_bytes: int
    limits: Limits
    link: Link
    cut_from: tuple[str, ...]
    clock_offset_s: float
    clock_drift_ppm: float


class LinkStatus(Struct, frozen=True, kw_only=True):
    """How links are emulated: "" while none is; ``frames`` since the daemon started, ``lost`` of these."""

    mechanism: str
    shared_rate: float
    running: bool
    frames: int
    lost: int


def host_status(settings: Settings, state: State) -> Sequence[HostStatus]:
    """Return what each host is doing."""
    cgroups = Cgroups(settings)
    found = []
    for host in hosts_of(settings, state):
        process = cgroups.init_process(host.name)
        condition = "up" if process else "booting" if cgroups.is_alive(host.name) else "down"
        offset, drift = read_clock(host_directory(settings, host) / CLOCK_FILE)
        found.append(
            HostStatus(
                name=host.name,
                address=host.address,
                condition="paused" if cgroups.is_frozen(host.name) else condition,
                process=process or 0,
                memory_bytes=cgroups.memory(host.name),
                limits=state.limits[host.name],
                link=state.links.get(host.name, Link()),
                cut_from=tuple(dict.fromkeys(b for a, b in state.blocked if a == host.name)),
                clock_offset_s=offset,
                clock_drift_ppm=drift,
            )
        )
    return found


def link_status(settings: Settings, state: State) -> LinkStatus:
    """Return how links are emulated, and whether what does it runs."""
    report = read_report(settings)
    queued = state.mechanism.startswith("nfqueue")
    return LinkStatus(
        mechanism=state.mechanism if state.links else "",
        shared_rate=state.shared_rate,
        running=bool(state.links) and (not queued or daemon_runs(settings, Cgroups(settings))),
        frames=report.frames if report and queued else 0,
        lost=report.lost if report and queued else 0,
    )
