"""Up, start and down. What may come to be is written down first, so that ``down`` finds it whatever happened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from emulator.cgroups import Cgroups
from emulator.errors import EmulationFailed, EmulatorError, UsageError
from emulator.files import release_loops, remove_tree
from emulator.foreign import ARM64, NATIVE, unregister
from emulator.host import launch, wait_for_ssh
from emulator.image import base_image, base_path, remove_drafts
from emulator.inventory import remove_inventory, write_inventory, write_known_hosts
from emulator.layers import golden_layer, host_directory, make_control_key, make_host_layers
from emulator.link_emulation import remove_link_files
from emulator.network import NETNS, make_network, netns_exists, remove_namespaces, set_cable
from emulator.settings import Settings
from emulator.state import Limits, State, forget_state, locked, read_state, write_state
from emulator.topology import MOST_HOSTS, Host, plan_hosts
from emulator.watches import plan_limit, raise_limit, restore_limit, watches_limit

__all__ = ["Wish", "check_machine", "down", "hosts_of", "recorded", "start", "up"]

_BOOT_S = 300.0  # one that is emulated down to its processor takes its time
_TOOLS = {"systemd-nspawn": "systemd-container", "ip": "iproute2", "nft": "nftables", "setpriv": "util-linux"}

_Say = Callable[[str], None]


class Wish(Struct, frozen=True, kw_only=True):
    """What ``up`` is asked for; 0 and "" are none."""

    count: int = 17
    release: str = "bookworm"
    golden: str = ""
    disk_bytes: int = 0
    limits: Limits = Limits()
    arm64: tuple[str, ...] = ()

    def machine(self, host: Host) -> str:
        return ARM64 if host.name in self.arm64 else NATIVE


def check_machine() -> None:
    """Refuse where hosts can't be booted: EmulationFailed says what to do."""
    if os.geteuid() != 0:
        raise EmulationFailed("emulated hosts need root: 'sudo ./testbed emulate …', or log in as root")
    for tool, package in _TOOLS.items():
        if not shutil.which(tool, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"):
            raise EmulationFailed(f"{tool} is missing: 'apt-get install {package}'; './testbed doctor' lists all")


def hosts_of(settings: Settings, state: State) -> list[Host]:
    return plan_hosts(settings, len(state.hosts))


def up(settings: Settings, wish: Wish, say: _Say, passing: _Say) -> list[Host]:
    """Boot hosts and wait for their SSH; returns them. Whatever fails, or an interruption, takes all back first."""
    check_machine()
    hosts = plan_hosts(settings, wish.count)
    with locked(settings):
        cgroups = Cgroups(settings)
        _clear_remains(settings, cgroups, say)
        state = _plan_state(settings, cgroups, hosts, wish)
        write_state(settings, state)
        try:
            raise_limit(len(hosts), state.watches_raised)
            with recorded(cgroups):
                _boot(settings, cgroups, state, hosts, wish, say, passing)
        except BaseException as error:
            if not isinstance(error, EmulatorError | OSError | KeyboardInterrupt):
                raise
            console = _keep_console(settings) if isinstance(error, EmulationFailed) else None
            _clear(settings, cgroups, state)
            if console:
                raise EmulationFailed(f"{error}\nall consoles are kept in {console}") from None
            raise
    return hosts


def start(settings: Settings, state: State, hosts: Sequence[Host], passing: _Say) -> None:
    """Boot hosts that are down, with what was on their disks; those that run are left alone."""
    cgroups = Cgroups(settings)
    sleeping = [host for host in hosts if not cgroups.is_alive(host.name)]
    with recorded(cgroups):
        for host in sleeping:
            release_loops([image for image in state.images if Path(image).parent.name == host.name])
            set_cable(settings, host, True)
            _launch(settings, cgroups, state, host)
        wait_for_ssh(settings, cgroups, sleeping, _BOOT_S, passing)


def down(settings: Settings) -> bool:
    """Remove everything that is ours; was there anything? Safe at any time, also after a command that was killed."""
    check_machine()
    with locked(settings):
        cgroups = Cgroups(settings)
        try:
            state = read_state(settings)
        except EmulationFailed:
            state = None
        if state is None:
            if not cgroups.exists() and not settings.hosts.exists():
                remove_drafts(settings)
                return False
            # The record is gone, the names are known all the same.
            state = _plan_state(settings, cgroups, plan_hosts(settings, MOST_HOSTS), Wish())
        _clear(settings, cgroups, state)
    return True


def _boot(
    settings: Settings, cgroups: Cgroups, state: State, hosts: list[Host], wish: Wish, say: _Say, passing: _Say
) -> None:
    for machine in dict.fromkeys(wish.machine(host) for host in hosts):
        base = base_image(settings, wish.release, machine, say, passing)
        if wish.golden:
            golden_layer(settings, wish.golden, base)
    key = make_control_key(settings)
    for number, host in enumerate(hosts):
        passing(f"preparing {number + 1} of {len(hosts)} hosts")
        make_host_layers(settings, host, hosts, Path(state.bases[host.name]), key, wish.disk_bytes)
    passing("making the network")
    make_network(settings, hosts)
    for host in hosts:
        _launch(settings, cgroups, state, host)
    wait_for_ssh(settings, cgroups, hosts, _BOOT_S, passing)
    write_known_hosts(settings, hosts)
    write_inventory(settings, hosts)
    state.phase = "up"
    write_state(settings, state)


def _launch(settings: Settings, cgroups: Cgroups, state: State, host: Host) -> None:
    base = Path(state.bases[host.name])
    golden = golden_layer(settings, state.golden, base) if state.golden else None
    launch(settings, cgroups, host, base, golden, state.limits[host.name])


def _plan_state(settings: Settings, cgroups: Cgroups, hosts: Sequence[Host], wish: Wish) -> State:
    """Write down all that may come to be outside our own directory."""
    return State(
        phase="starting",
        hosts=[host.name for host in hosts],
        bases={host.name: str(base_path(settings, wish.release, wish.machine(host))) for host in hosts},
        golden=wish.golden,
        disk_bytes=wish.disk_bytes,
        limits={host.name: wish.limits for host in hosts},
        namespaces=[settings.lab, *(host.namespace for host in hosts)],
        cgroups=[str(directory) for directory in cgroups.directories],
        images=[str(host_directory(settings, host) / "disk.img") for host in hosts],
        made_netns_directory=not NETNS.exists(),
        watches_before=watches_limit(),
        watches_raised=plan_limit(len(hosts)),
    )


def _clear_remains(settings: Settings, cgroups: Cgroups, say: _Say) -> None:
    """Make room: clear away what a killed command left, but not hosts that are up, nor what is not ours."""
    state = read_state(settings)
    if state and state.phase == "up" and any(cgroups.is_alive(name) for name in state.hosts):
        raise UsageError(f"{len(state.hosts)} hosts are up already; './testbed emulate down' ends them")
    if state:
        say("clearing away what an earlier 'up' left")
        _clear(settings, cgroups, state)
    elif cgroups.exists():
        raise UsageError(
            f"groups named {settings.cgroup} exist without a record here: another directory's hosts may be up; "
            "'./testbed emulate down' there, or choose another TESTBED_EMULATOR_PREFIX"
        )
    names = [settings.lab, *(host.namespace for host in plan_hosts(settings, MOST_HOSTS))]
    if taken := netns_exists(names):
        raise UsageError(
            f"a network namespace {taken[0]} exists that isn't ours; choose another TESTBED_EMULATOR_PREFIX"
        )


def _clear(settings: Settings, cgroups: Cgroups, state: State) -> None:
    state.phase = "stopping"
    write_state(settings, state)
    cgroups.kill_all()
    remove_namespaces(state.namespaces, state.made_netns_directory)
    restore_limit(state.watches_before, state.watches_raised)
    release_loops(state.images)
    unregister(settings)
    cgroups.remove_all()
    remove_tree(settings.hosts)
    remove_drafts(settings)
    remove_inventory(settings)
    remove_link_files(settings)
    forget_state(settings)


@contextmanager
def recorded(cgroups: Cgroups) -> Iterator[None]:
    """While this lasts, every process that we start is born where ``down`` finds it."""
    cgroups.make()
    before = cgroups.enter()
    try:
        yield
    finally:
        cgroups.leave(before)


def _keep_console(settings: Settings) -> Path | None:
    """Keep what the hosts said last, for whoever looks for the reason."""
    logs = sorted(settings.hosts.glob("*/console.log"))
    if not logs:
        return None
    target = settings.directory / "failed.log"
    target.write_text("".join(f"== {log.parent.name}\n{log.read_text(errors='replace')}" for log in logs))
    return target
