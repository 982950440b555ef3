"""What the command line shows, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from emulator.doctor import Finding
from emulator.state import Limits, Link
from emulator.status import HostStatus, LinkStatus

__all__ = ["findings", "hosts", "links"]

_MECHANISMS = {
    "netem": "netem",
    "nfqueue": "a daemon behind NFQUEUE",
    "nfqueue-iptables": "a daemon behind NFQUEUE (by iptables: IPv4 only)",
}


def hosts(status: Sequence[HostStatus]) -> Table:
    """Return a line for each host; columns that would say nothing are left out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = {
        "host": [s.name for s in status],
        "address": [s.address for s in status],
        "is": [s.condition for s in status],
        "PID 1": [str(s.process or "") for s in status],
        "memory": [f"{s.memory_bytes / 1e6:.0f} MB" if s.memory_bytes else "" for s in status],
        "may use": [_limits(s.limits) for s in status],
        "link": [_link(s.link) for s in status],
        "cut from": [_shortened(s.cut_from) for s in status],
        "clock": [_clock(s) for s in status],
    }
    for title, cells in columns.items():
        if any(cells):
            table.add_column(title, justify="right" if title in ("PID 1", "memory") else "left")
    for row in zip(*(cells for cells in columns.values() if any(cells)), strict=True):
        table.add_row(*row)
    return table


def links(status: LinkStatus) -> str:
    """Return one sentence on how links are emulated."""
    if not status.mechanism:
        return "all links are perfect"
    words = f"links are emulated by {_MECHANISMS[status.mechanism]}"
    if status.shared_rate:
        words += f", the shared medium at {_rate(status.shared_rate)}"
    if status.mechanism != "netem":
        words += f"; {status.frames} frames, {status.lost} of them lost" if status.running else "; it does NOT run"
    return words


def findings(found: Sequence[Finding]) -> Table:
    """Return what the machine has, and how to get the rest."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "what", "for", "found, or how to get it"):
        table.add_column(title)
    for finding in found:
        mark = "[green]✓[/]" if finding.found else "[red]✗[/]" if finding.needed else "[yellow]·[/]"
        table.add_row(mark, finding.name, finding.purpose, finding.words)
    return table


def _limits(limits: Limits) -> str:
    words = [f"{limits.memory_bytes / (1 << 20):.0f} MiB"] if limits.memory_bytes else []
    return ", ".join([*words, f"{limits.cpus:g} CPUs"] if limits.cpus else words)


def _link(link: Link) -> str:
    words = [f"{link.delay_s * 1e3:g} ms"] if link.delay_s else []
    words += [f"+{link.jitter_s * 1e3:g} ms"] if link.jitter_s else []
    words += [f"{link.loss * 100:g} % lost"] if link.loss else []
    words += [_rate(link.rate)] if link.rate else []
    return ", ".join([*words, "shared"] if link.shared else words)


def _rate(rate: float) -> str:
    return f"{rate / 1e6:g} Mbit/s"


def _clock(status: HostStatus) -> str:
    drift = f", {status.clock_drift_ppm:+g} ppm" if status.clock_drift_ppm else ""
    return f"{status.clock_offset_s:+.3f} s{drift}" if status.clock_offset_s or drift else ""


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
