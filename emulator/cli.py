"""``./testbed emulate VERB``, and ``./testbed doctor``: the only module that prints."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
from rich.console import Console
from rich.markup import escape

from emulator import faults, tables
from emulator.cgroups import Cgroups
from emulator.doctor import examine
from emulator.errors import EmulationFailed, EmulatorError, UsageError
from emulator.host import execute, execute_in_lab
from emulator.image import RELEASES
from emulator.lifecycle import Wish, check_machine, down, hosts_of, start, up
from emulator.quantities import (
    read_bytes,
    read_cpus,
    read_delay,
    read_disk,
    read_ppm,
    read_rate,
    read_seconds,
    read_share,
)
from emulator.settings import Settings, read_settings
from emulator.state import Limits, Link, State, locked, running_state
from emulator.status import host_status, link_status
from emulator.topology import DESKTOP, Host, choose, choose_one, plan_hosts

__all__ = ["build_parser", "main"]

_Passing = Callable[[str], None]

_NO_LIMIT = "none"
_WIDTH = 140  # of tables that go to a file

_DESCRIPTION = """\
A testbed on this machine: a desktop and boards with real systemd and real SSH, each in namespaces and control groups
of its own, on a bridge that is in a namespace too. The machine's own network and clock are never touched."""

_EPILOG = """\
for example:
  ./testbed emulate up -n 5 --memory 1G --cpus 4     five hosts, then: ./testbed deploy -i emulated
  ./testbed emulate exec pi01 -- journalctl -n 20    in a host; 'lab' is where Ansible runs
  ./testbed emulate link all --delay 5ms --shared --shared-rate 40mbit
  ./testbed emulate partition pi01,pi02              cut from all others, but not from Ansible
  ./testbed emulate kill pi03; ./testbed emulate start pi03
  ./testbed emulate down                             everything gone, also after an 'up' that was killed

exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 hosts could not be made; exec: that of the command"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; the chosen one's function is in ``run``."""
    parser = argparse.ArgumentParser(
        prog="testbed emulate",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    boot = _add(verbs, "up", "boot hosts, making the base image first if there is none", _up)
    boot.add_argument("-n", "--hosts", type=int, default=17, dest="count", help="how many, the desktop included (17)")
    boot.add_argument("--release", choices=RELEASES, default=RELEASES[0], help=f"of Debian ({RELEASES[0]})")
    boot.add_argument("--arm64", metavar="HOST,HOST…", help="these have another processor, run by qemu, slowly")
    boot.add_argument("--golden", default="", metavar="NAME", help="on top of a layer that 'snapshot' made")
    boot.add_argument(
        "--disk", metavar="SIZE", help="a disk of its own for each host, such as 2G; without: as it comes"
    )
    _add_limits(boot)

    _add(verbs, "down", "end all hosts and remove all that they were made of; base image and golden layers stay", _down)
    shown = _add(verbs, "status", "what each host is doing", _status)
    shown.add_argument("--json", action="store_true", help="for programs")

    _add_hosts(_add(verbs, "start", "boot hosts that were killed or powered off", _start))
    inside = _add(verbs, "exec", "run a command in a host as root, or in the network of the control machine", _exec)
    inside.add_argument("host", metavar="HOST", help="its name, or 'lab'")
    inside.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    golden = _add(verbs, "snapshot", "keep what a host has on disk as a golden layer for 'up --golden'", _snapshot)
    golden.add_argument("name", metavar="NAME")
    golden.add_argument("--host", default=DESKTOP, help=f"whose ({DESKTOP})")

    _add_hosts(_add(verbs, "kill", "take the power away", _kill))
    _add_hosts(_add(verbs, "powercut", "take the power away, with all that was not synced to disk", _powercut))
    _add_hosts(_add(verbs, "pause", "freeze all processes of hosts", _pause))
    _add_hosts(_add(verbs, "resume", "let them go on", _resume))

    link = _add(verbs, "link", "make links slow or lossy, in each direction; without options: perfect again", _link)
    _add_hosts(link)
    link.add_argument("--delay", metavar="TIME", help="such as 5ms")
    link.add_argument("--jitter", metavar="TIME", help="what is added to the delay, on average")
    link.add_argument("--loss", metavar="SHARE", help="of frames, such as 1%%")
    link.add_argument("--rate", metavar="RATE", help="of each link, such as 100mbit")
    link.add_argument("--shared", action="store_true", help="these hosts also share one medium, like a WLAN")
    link.add_argument("--shared-rate", metavar="RATE", help="of that medium; 'none' is without limit")

    cut = _add(verbs, "partition", "cut groups of hosts from each other, and from those that are not named", _partition)
    cut.add_argument("groups", nargs="+", metavar="HOST,HOST…")
    cut.add_argument("--one-way", action="store_true", help="only what the first group sends is lost")
    _add(verbs, "heal", "end all partitions", _heal)

    clock = _add(verbs, "clock", "make wall clocks wrong; without options: right again", _clock)
    _add_hosts(clock)
    clock.add_argument("--offset", default="0s", metavar="TIME", help="such as 2.5s, or --offset=-1d")
    clock.add_argument("--drift", default="0", metavar="PPM", help="parts per million, such as 50 or --drift=-50")

    limits = _add(verbs, "limits", "change what hosts may use", _limits)
    _add_hosts(limits)
    _add_limits(limits)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    os.umask(0o022)  # what hosts are made of is for their users too, whatever this one keeps to himself
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDTH)
    try:
        if given[:1] == ["doctor"]:
            return _doctor(given[1:], console)
        options = build_parser().parse_args(given)
        run: Callable[[argparse.Namespace, Settings, Console], int] = options.run
        return run(options, read_settings(), console)
    except EmulatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.filename or 'the machine'}: {error.strerror}", file=sys.stderr)
        return EmulationFailed.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _doctor(arguments: Sequence[str], console: Console) -> int:
    parser = argparse.ArgumentParser(
        prog="testbed doctor",
        description="Says what the testbed can do on this machine, and how to get what is missing.",
    )
    parser.parse_args(arguments)
    findings = examine()
    console.print(tables.findings(findings))
    missing = [f for f in findings if f.needed and not f.found]
    for finding in missing:
        console.print(f"missing: {finding.name}: {finding.words}", markup=False)
    return 1 if missing else 0


def _up(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    began = time.monotonic()
    wish = Wish(
        count=options.count,
        release=options.release,
        arm64=tuple(host.name for host in choose(plan_hosts(settings, options.count), [options.arm64 or ""])),
        golden=options.golden,
        disk_bytes=read_disk(options.disk) if options.disk else 0,
        limits=Limits(int(_limit(options.memory, read_bytes) or 0), _limit(options.cpus, read_cpus) or 0.0),
    )
    with _progress(console) as passing:
        hosts = up(settings, wish, lambda text: console.print(text, markup=False), passing)
    console.print(
        f"{len(hosts)} hosts are up after {time.monotonic() - began:.1f} s: {hosts[0].name} is {hosts[0].address}"
    )
    console.print(f"inventory: {settings.inventory_file}", markup=False)
    return 0


def _down(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    began = time.monotonic()
    done = down(settings)
    console.print(f"all gone after {time.monotonic() - began:.1f} s" if done else "nothing was up")
    return 0


def _status(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    check_machine()
    state = running_state(settings)
    hosts, links = host_status(settings, state), link_status(settings, state)
    if options.json:
        print(msgspec.json.encode({"hosts": hosts, "links": links}).decode())
    else:
        console.print(tables.hosts(hosts))
        if links.mechanism:
            console.print(tables.links(links), markup=False)
    return 0


def _exec(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    check_machine()
    state = running_state(settings)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise UsageError("say what to run: ./testbed emulate exec pi01 -- systemctl status")
    if options.host == "lab":
        return execute_in_lab(settings, command)
    host = choose_one(hosts_of(settings, state), options.host)
    return execute(Cgroups(settings), host.name, command)


def _start(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    with _chosen(options, settings) as (state, hosts), _progress(console) as passing:
        start(settings, state, hosts, passing)
    return 0


def _snapshot(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    with _chosen(options, settings, ["all"]) as (state, hosts):
        place = faults.snapshot(settings, state, choose_one(hosts, options.host), options.name)
    console.print(f"golden layer: {place}", markup=False)
    return 0


def _kill(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    with _chosen(options, settings) as (_, hosts):
        faults.kill(settings, hosts)
    return 0


def _powercut(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    with _chosen(options, settings) as (state, hosts):
        faults.powercut(settings, state, hosts)
    return 0


def _pause(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    with _chosen(options, settings) as (_, hosts):
        faults.pause(settings, hosts)
    return 0


def _resume(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    with _chosen(options, settings) as (_, hosts):
        faults.resume(settings, hosts)
    return 0


def _link(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    link = Link(
        delay_s=read_delay(options.delay) if options.delay else 0.0,
        jitter_s=read_delay(options.jitter) if options.jitter else 0.0,
        loss=read_share(options.loss) if options.loss else 0.0,
        rate=read_rate(options.rate) if options.rate else 0.0,
        shared=options.shared,
    )
    shared_rate = _limit(options.shared_rate, read_rate)
    with _chosen(options, settings) as (state, hosts):
        faults.set_links(settings, state, hosts, link, shared_rate)
        links = link_status(settings, state)
    console.print(tables.links(links), markup=False)
    return 0


def _partition(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    with _chosen(options, settings, ["all"]) as (state, hosts):
        groups = [[host.name for host in choose(hosts, [group])] for group in options.groups]
        pairs = faults.plan_partition(groups, [host.name for host in hosts], options.one_way)
        faults.block(settings, state, pairs)
    return 0


def _heal(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    with _chosen(options, settings, []) as (state, _):
        faults.heal(settings, state)
    return 0


def _clock(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    offset, drift = read_seconds(options.offset), read_ppm(options.drift)
    with _chosen(options, settings) as (_, hosts):
        faults.set_clock(settings, hosts, offset, drift)
    return 0


def _limits(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    if not (options.memory or options.cpus):
        raise UsageError("say which limit: --memory 512M, --cpus 2 or both")
    memory, cpus = _limit(options.memory, read_bytes), _limit(options.cpus, read_cpus)
    with _chosen(options, settings) as (state, hosts):
        faults.limit(settings, state, hosts, None if memory is None else int(memory), cpus)
    return 0


def _limit(text: str | None, read: Callable[[str], float]) -> float | None:
    """0 is without limit, None was not given."""
    if text is None:
        return None
    return 0.0 if text == _NO_LIMIT else read(text)


@contextmanager
def _chosen(
    options: argparse.Namespace, settings: Settings, names: Sequence[str] | None = None
) -> Iterator[tuple[State, list[Host]]]:
    """The state, and the hosts that were named, while nobody else changes them."""
    check_machine()
    with locked(settings):
        state = running_state(settings)
        yield state, choose(hosts_of(settings, state), options.host if names is None else names)


@contextmanager
def _progress(console: Console) -> Iterator[_Passing]:
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("…") as status:
        yield lambda text: status.update(escape(text))


def _add(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    help_text: str,
    run: Callable[[argparse.Namespace, Settings, Console], int],
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
    verb.set_defaults(run=run)
    return verb


def _add_hosts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host", nargs="+", metavar="HOST", help="its name, or 'all'")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memory", metavar="SIZE", help="of each host, such as 1G, or 'none' for all there is")
    parser.add_argument("--cpus", metavar="NUMBER", help="of each host, such as 4 or 0.5, or 'none' for all")
