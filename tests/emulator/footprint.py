"""All that an emulated testbed could leave on a machine, found by looking and not by asking the emulator.

Other programs of the machine come and go meanwhile, so only what bears the testbed's names or directory is counted, and
every process that was ever seen in its control groups.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from emulator.settings import Settings

__all__ = ["Footprint", "look", "members"]


class Footprint(Struct, frozen=True):
    """What is there; of a clean machine every set is empty."""

    processes: frozenset[str]
    mounts: frozenset[str]
    namespaces: frozenset[str]
    cgroups: frozenset[str]
    loops: frozenset[str]
    interfaces: frozenset[str]
    files: frozenset[str]


def look(settings: Settings, known: frozenset[tuple[int, str]] = frozenset()) -> Footprint:
    """Look for everything; ``known`` are processes that belonged to the testbed: (number, start time)."""
    directory = str(settings.directory)
    processes = {f"{pid} (known)" for pid, began in known if _began(pid) == began}
    mounts = set()
    for entry in _processes():
        with suppress(OSError):  # it ended
            mine = str(os.getpid())
            command = (entry / "cmdline").read_bytes()
            variables = (entry / "environ").read_bytes()
            group = (entry / "cgroup").read_text()
            marked = f"TESTBED_EMULATOR_DIR={directory}\0".encode() in variables
            if entry.name != mine and (marked or directory.encode() in command or settings.cgroup in group):
                processes.add(f"{entry.name} {command[:120]!r}")
            for line in (entry / "mountinfo").read_text().splitlines():
                if directory in line.replace("\\040", " ") or f"/run/netns/{settings.prefix}-" in line:
                    mounts.add(line)
    return Footprint(
        processes=frozenset(processes),
        mounts=frozenset(mounts),
        namespaces=frozenset(str(p) for p in Path("/run/netns").glob(f"{settings.prefix}-*")),
        cgroups=frozenset(_cgroups(settings.cgroup)),
        loops=frozenset(_loops(directory)),
        interfaces=frozenset(p.name for p in Path("/sys/class/net").iterdir() if p.name.startswith("v-")),
        files=frozenset(p.name for p in settings.directory.iterdir() if p.name not in _KEPT)
        if settings.directory.is_dir()
        else frozenset(),
    )


def members(settings: Settings) -> frozenset[tuple[int, str]]:
    """Return every process in the testbed's control groups: (number, start time)."""
    pids = set()
    for group in _cgroups(settings.cgroup):
        for place, _, _ in os.walk(group):  # groups come and go meanwhile
            with suppress(OSError):
                pids |= {int(pid) for pid in (Path(place) / "cgroup.procs").read_text().split()}
    return frozenset((pid, began) for pid in pids if (began := _began(pid)) != _ENDED)


_ENDED = "ended"
_KEPT = {"id_ed25519", "id_ed25519.pub", "lock", "golden", "inventory"}  # for the next 'up'


def _processes() -> Iterator[Path]:
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _began(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _ENDED
    return _ENDED if fields[0] in "ZX" else fields[19]


def _cgroups(name: str) -> Iterator[str]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split(" ")
        if kind in ("cgroup", "cgroup2") and (Path(place) / name).is_dir():
            yield str(Path(place) / name)


def _loops(directory: str) -> Iterator[str]:
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if loop.read_text().startswith(directory):
                yield str(loop)
