"""Control groups: every process of ours is in one, so that it can be found, limited, frozen and ended.

The unified hierarchy (cgroup v2) holds them together. Where it has the controllers, it limits them too; on a hybrid
machine those of v1 do. Only directories named ``testbed-emulator-PREFIX`` are ever made, written or removed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from emulator.errors import EmulationFailed
from emulator.settings import Settings
from emulator.state import Limits

__all__ = [
    "Cgroups",
    "Hierarchies",
    "enable_controllers",
    "find_hierarchies",
    "own_group",
    "parse_mounts",
    "remove_group",
]

_V1 = ("name=systemd", "cpu", "cpuacct", "cpuset", "memory", "pids", "devices")
_V2 = ("cpu", "memory", "pids")
_PERIOD_US = 100_000
_WORK = "work"
# The parts of a host: of a group with controllers, v2 lets processes be in leaves only.
_LAUNCHER, _CONTAINER, _VISITORS = "launcher", "container", "visitors"

# What a container's devices are (systemd's "closed" policy); making nodes is allowed, opening others is not.
_DEVICES = [
    *("c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm"),
    *("c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm", "c 10:200 rwm"),
]


class Hierarchies(Struct, frozen=True):
    """Where this machine has its control groups; ``v1`` maps a controller to its mount point."""

    unified: Path | None
    v1: dict[str, Path]


def parse_mounts(text: str) -> Hierarchies:
    """Find the hierarchies in the text of ``/proc/self/mounts``; the first of each counts that nothing later hides."""
    unified: Path | None = None
    v1: dict[str, Path] = {}
    for line in text.splitlines():
        _, place, kind, options, *_ = line.split(" ")
        if unified and unified.is_relative_to(place):
            unified = None
        v1 = {name: path for name, path in v1.items() if not path.is_relative_to(place)}
        if kind == "cgroup2":
            unified = unified or Path(place)
        elif kind == "cgroup":
            for option in options.split(","):
                if option in _V1:
                    v1.setdefault(option, Path(place))
    return Hierarchies(unified, v1)


def find_hierarchies() -> Hierarchies:
    return parse_mounts(Path("/proc/self/mounts").read_text())


class Cgroups:
    """The groups of one emulated testbed: one for each host, one for what we run ourselves."""

    def __init__(self, settings: Settings, hierarchies: Hierarchies | None = None) -> None:
        found = hierarchies or find_hierarchies()
        if found.unified is None:
            raise EmulationFailed(
                "this machine has no cgroup v2: as root, "
                "'mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified'"
            )
        self._top = found.unified / settings.cgroup
        places = {place: name for name, place in found.v1.items()}  # cpu and cpuacct may be one
        self._v1 = {name: found.v1[name] / settings.cgroup for name in places.values()}
        self._controller = {name: place / settings.cgroup for name, place in found.v1.items()}

    @property
    def directories(self) -> list[Path]:
        """All that is ever made, for the record; the unified one first."""
        return [self._top, *self._v1.values()]

    def exists(self) -> bool:
        return any(directory.is_dir() for directory in self.directories)

    def make(self) -> None:
        """Make the directories that hold the hosts' groups."""
        for directory in self.directories:
            directory.mkdir(exist_ok=True)
        _inherit_cpuset(self._controller.get("cpuset"))
        enable_controllers(self._top.parent)
        enable_controllers(self._top)

    def enter(self) -> Path:
        """Move this process, and so all that it will start, among those that ``kill_all`` ends; where it was before."""
        before = self._top.parent / own_group().lstrip("/")
        work = self._top / _WORK
        work.mkdir(exist_ok=True)
        (work / "cgroup.procs").write_text(str(os.getpid()))
        return before

    def leave(self, before: Path) -> None:
        """Go back to where ``enter`` came from."""
        (before / "cgroup.procs").write_text(str(os.getpid()))

    def make_host(self, host: str, limits: Limits) -> None:
        """Make a host's groups anew.

        One that was killed can't be used again: since Linux 6.14 what is cloned into it from elsewhere dies at once.
        """
        self.remove_host(host)
        for directory in self._v1.values():
            (directory / host).mkdir()
        _inherit_cpuset(self._controller["cpuset"] / host if "cpuset" in self._controller else None)
        group = self._top / host
        group.mkdir()
        enable_controllers(group)
        for part in (_LAUNCHER, _CONTAINER, _VISITORS):
            (group / part).mkdir()
        enable_controllers(group / _CONTAINER)
        if devices := self._controller.get("devices"):
            (devices / host / "devices.deny").write_text("a")
            for line in _DEVICES:
                (devices / host / "devices.allow").write_text(line)
        self.limit(host, limits)

    def limit(self, host: str, limits: Limits) -> None:
        """Set memory and CPU of a host, also while it runs; EmulationFailed if the machine can't."""
        quota = int(limits.cpus * _PERIOD_US)
        if "memory" in self._controller:
            self._write("memory", host, "memory.limit_in_bytes", str(limits.memory_bytes or -1))
        elif limits.memory_bytes or (self._top / host / "memory.max").exists():
            self._write_v2(host, "memory.max", str(limits.memory_bytes or "max"))
        if "cpu" in self._controller:
            self._write("cpu", host, "cpu.cfs_period_us", str(_PERIOD_US))
            self._write("cpu", host, "cpu.cfs_quota_us", str(quota or -1))
        elif limits.cpus or (self._top / host / "cpu.max").exists():
            self._write_v2(host, "cpu.max", f"{quota or 'max'} {_PERIOD_US}")

    def memory(self, host: str) -> int:
        """Return the bytes that a host uses, 0 if they are not counted."""
        if "memory" in self._controller:
            return int(_read(self._controller["memory"] / host / "memory.usage_in_bytes") or 0)
        return int(_read(self._top / host / "memory.current") or 0)

    def launcher(self, host: str) -> dict[str, str]:
        """Return where a launcher has to write itself, as variables of launch.sh."""
        joined = [self._top / host / _LAUNCHER] + [d / host for name, d in self._v1.items() if name != "devices"]
        devices = self._controller.get("devices")
        return {
            "GROUPS_BEFORE": " ".join(str(d) for d in joined),
            "GROUPS_AFTER": str(devices / host) if devices else "",
            "CONTAINER_GROUP": str(self._top / host / _CONTAINER),
        }

    def visit(self, host: str) -> list[Path]:
        """Return the groups of a command that is run in a host from outside."""
        return [self._top / host / _VISITORS, *(d / host for d in self._v1.values())]

    def init_process(self, host: str) -> int | None:
        """Return the machine's number of a host's PID 1, None if it has none."""
        for pid in (_read(self._top / host / _CONTAINER / "payload" / "init.scope" / "cgroup.procs") or "").split():
            for line in (_read(Path("/proc") / pid / "status") or "").splitlines():
                if line.startswith("NSpid:") and line.split()[-1] == "1":
                    return int(pid)
        return None

    def is_alive(self, host: str) -> bool:
        return _is_populated(self._top / host)

    def is_frozen(self, host: str) -> bool:
        return _read(self._top / host / "cgroup.freeze") == "1"

    def freeze(self, host: str, frozen: bool) -> None:
        try:
            (self._top / host / "cgroup.freeze").write_text(str(int(frozen)))
        except FileNotFoundError:
            raise EmulationFailed(f"{host} does not run; './testbed emulate start {host}' boots it") from None

    def kill_host(self, host: str) -> None:
        """End all processes of a host at once, and wait for it."""
        _kill(self._top / host)

    def remove_host(self, host: str) -> None:
        for directory in [self._top, *self._v1.values()]:
            remove_group(directory / host)

    def kill_all(self) -> None:
        """End every process of ours, and wait for it."""
        _kill(self._top)

    def remove_all(self) -> None:
        for directory in self.directories[::-1]:
            remove_group(directory)

    def processes(self) -> set[int]:
        """Return the numbers of all processes of ours."""
        found = (_read(directory / "cgroup.procs") or "" for directory in _walk(self._top))
        return {int(pid) for text in found for pid in text.split()}

    def _write(self, controller: str, host: str, name: str, value: str) -> None:
        _set(self._controller[controller] / host / name, value, host)

    def _write_v2(self, host: str, name: str, value: str) -> None:
        _set(self._top / host / name, value, host)


def _set(path: Path, value: str, host: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        if not path.exists():
            raise EmulationFailed(f"{host}: control groups here have no {path.name}; leave the limit out") from None
        raise EmulationFailed(f"{host}: {path.name} can't be {value}: {error.strerror}; choose another") from None


def _inherit_cpuset(directory: Path | None) -> None:
    """A group of v1 takes no process before it has processors and memory nodes."""
    if directory is None:
        return
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not _read(directory / name):
            (directory / name).write_text(_read(directory.parent / name) or "0")


def enable_controllers(directory: Path) -> None:
    """Give the groups below one their controllers, those that v2 has here."""
    there = set((_read(directory / "cgroup.controllers") or "").split())
    enabled = set((_read(directory / "cgroup.subtree_control") or "").split())
    for controller in _V2:
        if controller in there - enabled:
            (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def _kill(group: Path, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while _is_populated(group):
        if (group / "cgroup.kill").exists():
            (group / "cgroup.kill").write_text("1")
        else:  # before Linux 5.14: frozen, so that none is born while we look
            (group / "cgroup.freeze").write_text("1")
            for directory in _walk(group):
                for pid in (_read(directory / "cgroup.procs") or "").split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            (group / "cgroup.freeze").write_text("0")
        if time.monotonic() > end:
            raise EmulationFailed(f"{group}: processes don't end; see 'cat {group}/cgroup.procs'")
        time.sleep(0.02)


def remove_group(directory: Path, timeout_s: float = 10.0) -> None:
    """Remove a group and those below it; a process that just died holds its own for a moment."""
    end = time.monotonic() + timeout_s
    while directory.is_dir():
        for group in _walk(directory):
            try:
                group.rmdir()
            except OSError as error:
                if time.monotonic() > end:
                    raise EmulationFailed(f"{group} can't be removed: {error.strerror}") from None
        if directory.is_dir():
            time.sleep(0.02)


def _walk(directory: Path) -> Iterator[Path]:
    """All groups from the leaves up; one may vanish meanwhile."""
    for place, _, _ in os.walk(directory, topdown=False):
        yield Path(place)


def _is_populated(group: Path) -> bool:
    return "populated 1" in (_read(group / "cgroup.events") or "")


def own_group() -> str:
    """Return the path of this process's group below where cgroup v2 is mounted."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next((line[3:] for line in lines if line.startswith("0::")), "/")


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
