"""What there is of an emulated testbed, in one file: written before anything is made, deleted when all is gone."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

from emulator.errors import EmulationFailed, UsageError
from emulator.settings import Settings

__all__ = [
    "Limits",
    "Link",
    "State",
    "forget_state",
    "locked",
    "machine_lock",
    "read_state",
    "running_state",
    "write_state",
]

_LOCK_S = 10.0


class Limits(Struct, frozen=True):
    """What a host may use; 0 is as much as the machine has."""

    memory_bytes: int = 0
    cpus: float = 0.0


class Link(Struct, frozen=True):
    """One host's cable or radio, in each direction: seconds (``jitter_s`` is the mean of what is added), 0…1, bit/s.

    ``shared``: it uses the medium that all such hosts have in common.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    rate: float = 0.0
    shared: bool = False


class State(Struct, kw_only=True):
    """``state.json``. ``namespaces``, ``cgroups`` and ``images`` name everything that may exist outside our directory.

    ``bases``: the image that each host stands on. ``watches``: how many inotify instances were added.
    ``phase`` is "up" only when all hosts have answered; anything else is what an interrupted command left.
    """

    phase: Literal["starting", "up", "stopping"]
    hosts: list[str]
    bases: dict[str, str]
    golden: str = ""
    disk_bytes: int = 0
    limits: dict[str, Limits] = field(default_factory=dict)
    namespaces: list[str] = field(default_factory=list)
    cgroups: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    made_netns_directory: bool = False
    watches: int = 0
    links: dict[str, Link] = field(default_factory=dict)
    shared_rate: float = 0.0
    mechanism: str = ""
    blocked: list[tuple[str, str]] = field(default_factory=list)


def read_state(settings: Settings) -> State | None:
    """Return what there is, None if nothing was begun; EmulationFailed if the file is damaged."""
    path = _path(settings)
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise EmulationFailed(f"{path}: {error}; './testbed emulate down' removes all that bears our names") from None


def running_state(settings: Settings) -> State:
    """Return the state of a testbed that is up; UsageError says how to get there."""
    state = read_state(settings)
    if state is None:
        raise UsageError("no emulated hosts are up; './testbed emulate up' boots them")
    if state.phase != "up":
        raise UsageError(f"an emulated testbed was left {state.phase}; './testbed emulate down' clears it away")
    return state


def write_state(settings: Settings, state: State) -> None:
    """Replace the file; it is on disk before this returns."""
    path = _path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    with draft.open("wb") as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(state)))
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


def forget_state(settings: Settings) -> None:
    _path(settings).unlink(missing_ok=True)
    _path(settings).with_suffix(".new").unlink(missing_ok=True)


@contextmanager
def machine_lock() -> Iterator[None]:
    """Let one emulator at a time change what all of the machine share: /run/netns, the limit of inotify instances."""
    descriptor = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Let one command at a time change hosts; UsageError if another goes on for long."""
    settings.directory.mkdir(parents=True, exist_ok=True)
    with (settings.directory / "lock").open("a") as lock:
        end = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise UsageError("another './testbed emulate' is at work on these hosts; wait for it") from None
                time.sleep(0.1)
            else:
                break
        yield


def _path(settings: Settings) -> Path:
    return settings.directory / "state.json"
