"""Makes links slow, lossy or cut: rules of the bridge, and netem or, where the kernel has none, a daemon of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import msgspec

from emulator.cgroups import Cgroups
from emulator.commands import ENVIRONMENT, run, succeeds
from emulator.errors import EmulationFailed
from emulator.host import has_ended
from emulator.link_daemon import PLAN_FILE, QUEUE, REPORT_FILE, LinkReport
from emulator.links import Plan
from emulator.settings import ROOT, Settings
from emulator.state import Link, State, write_state
from emulator.topology import Host

__all__ = [
    "apply_links", "apply_rules", "daemon_runs", "mechanisms", "plan_iptables", "plan_netem", "plan_rules",
    "read_report", "remove_link_files",
]  # fmt: skip

_TABLE = "bridge testbed"
_BRIDGE_CALLS = "net.bridge.bridge-nf-call-iptables"  # of each network namespace, since Linux 5.3
_PID_FILE, _LOG_FILE = "links.pid", "links.log"
_DAEMON_S = 15.0
_WORDS = "the kernel has neither netem nor NFQUEUE for a bridge (CONFIG_NET_SCH_NETEM, CONFIG_NFT_QUEUE)"
_SUPERVISOR = 'while :; do "$@"; echo "ended with $?"; sleep 0.2; done'


def plan_rules(blocked: Sequence[tuple[str, str]], queued: Sequence[str]) -> str:
    """Return nft's rules: pairs of ports (from, to) between which nothing passes, ports whose frames are queued.

    They replace what was there in one transaction. What goes to or from the control machine is not forwarded, so it is
    never touched.
    """
    pairs = ", ".join(f'"{source}" . "{target}"' for source, target in blocked)
    ports = ", ".join(f'"{port}"' for port in queued)
    rules = [f"iifname . oifname {{ {pairs} }} drop"] if blocked else []
    if queued:
        rules += [f"iifname {{ {ports} }} queue num {QUEUE}", f"oifname {{ {ports} }} queue num {QUEUE}"]
    chain = "".join(f"    {rule}\n" for rule in rules)
    return (
        f"table {_TABLE}\ndelete table {_TABLE}\ntable {_TABLE} {{\n  chain forward {{\n"
        f"    type filter hook forward priority 0; policy accept;\n{chain}  }}\n}}\n"
    )


def plan_iptables(queued: Sequence[str]) -> str:
    """Return what iptables-restore makes of the lab's filter table, where nft has no queues."""
    ways = [f"-A FORWARD -m physdev --physdev-{way} {port}" for port in queued for way in ("in", "out")]
    rules = "".join(f"{way} -j NFQUEUE --queue-num {QUEUE}\n" for way in ways)
    return f"*filter\n:FORWARD ACCEPT [0:0]\n{rules}COMMIT\n"


def plan_netem(link: Link) -> list[str]:
    """Return the arguments of netem for one direction of a link."""
    words = ["limit", "10000"]
    if link.delay_s or link.jitter_s:
        words += ["delay", f"{link.delay_s * 1e6:.0f}us"]
    if link.jitter_s:
        words += [f"{link.jitter_s * 1e6:.0f}us"]
    if link.loss:
        words += ["loss", f"{link.loss * 100:g}%"]
    if link.rate:
        words += ["rate", f"{link.rate:.0f}bit"]
    return words


def apply_rules(settings: Settings, state: State) -> None:
    """Make the bridge's rules those of the state."""
    ports = [f"v-{name}" for name in state.links]
    blocked = [(f"v-{source}", f"v-{target}") for source, target in state.blocked]
    rules = plan_rules(blocked, ports if state.mechanism == "nfqueue" else [])
    run(*_in(settings.lab), "nft", "-f", "-", standard_input=rules)
    if state.mechanism == "nfqueue-iptables":
        run(*_in(settings.lab), "sysctl", "-q", "-w", f"{_BRIDGE_CALLS}=1")
        run(*_in(settings.lab), "iptables-restore", standard_input=plan_iptables(ports))


def mechanisms(*enter: str) -> list[str]:
    """Return what this kernel has to emulate links with, the best first; ``enter`` runs a command in a namespace.

    Only trying shows it. iptables sees a bridge's frames only where br_netfilter is loaded already: to load it would
    change other bridges.
    """
    found = []
    if succeeds(*enter, "tc", "qdisc", "replace", "dev", "lo", "root", "netem", "delay", "1ms"):
        succeeds(*enter, "tc", "qdisc", "del", "dev", "lo", "root")
        found.append("netem")
    if succeeds(*enter, "nft", "--check", "-f", "-", standard_input=plan_rules([], ["lo"])):
        found.append("nfqueue")
    seen = succeeds(*enter, "sysctl", "-q", _BRIDGE_CALLS)
    if seen and succeeds(*enter, "iptables-restore", "--test", standard_input=plan_iptables(["lo"])):
        found.append("nfqueue-iptables")
    return found


def apply_links(settings: Settings, cgroups: Cgroups, state: State, hosts: Sequence[Host]) -> None:
    """Make the links those of the state, choosing the mechanism first if need be.

    Called where processes that are started are born in a group of ours (``lifecycle.recorded``): the daemon stays.
    """
    shared = bool(state.shared_rate)
    if not state.mechanism or (state.mechanism == "netem" and shared):
        clear_netem(settings, hosts if state.mechanism else [])
        usable = [
            m for m in mechanisms(*_in(settings.lab)) if not (shared and m == "netem")
        ]  # it knows no shared medium
        if not usable:
            raise EmulationFailed(f"links can't be emulated here: {_WORDS}")
        state.mechanism = usable[0]
    write_state(settings, state)
    shaped = [host for host in hosts if host.name in state.links]
    if state.mechanism == "netem":
        clear_netem(settings, hosts)
        for host in shaped:
            words = plan_netem(state.links[host.name])
            run("tc", "-n", settings.lab, "qdisc", "replace", "dev", host.port, "root", "netem", *words)
            run("tc", "-n", host.namespace, "qdisc", "replace", "dev", "eth0", "root", "netem", *words)
    elif shaped:
        for host in shaped:  # loss and rate act on frames as they would be on a wire
            for namespace, port in ((settings.lab, host.port), (host.namespace, "eth0")):
                run(*_in(namespace), "ethtool", "-K", port, "tso", "off", "gso", "off", "gro", "off")
        _follow_plan(settings, cgroups, state)
        apply_rules(settings, state)
    else:
        apply_rules(settings, state)
        _end_daemon(settings, cgroups)


def clear_netem(settings: Settings, hosts: Sequence[Host]) -> None:
    for host in hosts:
        succeeds("tc", "-n", settings.lab, "qdisc", "del", "dev", host.port, "root")
        succeeds("tc", "-n", host.namespace, "qdisc", "del", "dev", "eth0", "root")


def read_report(settings: Settings) -> LinkReport | None:
    """Return what the daemon told last, None if it never did."""
    try:
        return msgspec.json.decode((settings.directory / REPORT_FILE).read_bytes(), type=LinkReport)
    except (OSError, msgspec.MsgspecError):
        return None


def daemon_runs(settings: Settings, cgroups: Cgroups) -> bool:
    """Does the daemon's supervisor run?"""
    pid = _supervisor(settings)
    return pid is not None and pid in cgroups.processes() and not has_ended(pid)


def remove_link_files(settings: Settings) -> None:
    for name in (PLAN_FILE, REPORT_FILE, _PID_FILE, _LOG_FILE):
        (settings.directory / name).unlink(missing_ok=True)
        (settings.directory / name).with_suffix(".new").unlink(missing_ok=True)


def _follow_plan(settings: Settings, cgroups: Cgroups, state: State) -> None:
    """Have the daemon do what the state says, and wait until it does."""
    report = read_report(settings)
    serial = (report.serial if report else 0) + 1
    numbers = _port_numbers(settings)
    plan = Plan(serial, {numbers[f"v-{name}"]: link for name, link in state.links.items()}, state.shared_rate)
    draft = settings.directory / f"{PLAN_FILE}.new"
    draft.write_bytes(msgspec.json.encode(plan))
    draft.replace(settings.directory / PLAN_FILE)
    if not daemon_runs(settings, cgroups):
        _start_daemon(settings)
    end = time.monotonic() + _DAEMON_S
    while (report := read_report(settings)) is None or report.serial != serial:
        if time.monotonic() > end:
            log = settings.directory / _LOG_FILE
            words = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
            raise EmulationFailed(f"the link daemon does not answer ({' '.join(words)}); its log is {log}")
        time.sleep(0.02)


def _start_daemon(settings: Settings) -> None:
    daemon = [sys.executable, "-m", "emulator.link_daemon", str(settings.directory)]
    with (settings.directory / _LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            [*_in(settings.lab), "sh", "-c", _SUPERVISOR, "sh", *daemon],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=ENVIRONMENT | {"PYTHONDONTWRITEBYTECODE": "1"},
            cwd=ROOT,
            start_new_session=True,
        )
    (settings.directory / _PID_FILE).write_text(str(process.pid))


def _end_daemon(settings: Settings, cgroups: Cgroups) -> None:
    pid = _supervisor(settings)
    if pid is not None and daemon_runs(settings, cgroups):
        os.killpg(pid, signal.SIGKILL)
    remove_link_files(settings)


def _in(namespace: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", namespace)


def _supervisor(settings: Settings) -> int | None:
    try:
        return int((settings.directory / _PID_FILE).read_text())
    except (OSError, ValueError):
        return None


def _port_numbers(settings: Settings) -> dict[str, int]:
    text = run("ip", "-n", settings.lab, "-json", "link", "show")
    return {port["ifname"]: port["ifindex"] for port in msgspec.json.decode(text)}
