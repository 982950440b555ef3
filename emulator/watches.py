"""Inotify instances: the kernel gives each user few (128), a host's systemd and sessions take ten, and hang without.

So ``up`` raises the limit where too few are free, and ``down`` sets it back unless somebody else changed it meanwhile.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from emulator.errors import EmulationFailed

__all__ = ["plan_limit", "raise_limit", "restore_limit", "watches_limit"]

_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
_PER_HOST = 10


def watches_limit() -> int:
    return int(_LIMIT.read_text())


def plan_limit(hosts: int) -> int:
    """Return the limit that these hosts need: the present one, or as much more as root now lacks."""
    wanted = hosts * _PER_HOST
    return watches_limit() + wanted - _count_free(wanted)


def raise_limit(hosts: int, limit: int) -> None:
    """Set the limit; EmulationFailed if that is refused, or if root can't have as many instances even so."""
    wanted = hosts * _PER_HOST
    try:
        if limit != watches_limit():
            _LIMIT.write_text(str(limit))
    except OSError as error:
        raise EmulationFailed(
            f"{hosts} hosts need {wanted} inotify instances, more than are free of {watches_limit()}, and the limit "
            f"can't be changed here ({error.strerror}): end other hosts, or 'sysctl -w {_name()}={limit}' outside"
        ) from None
    free = _count_free(wanted)
    if free < wanted:
        raise EmulationFailed(
            f"{hosts} hosts need {wanted} inotify instances, and only {free} can be had: is 'ulimit -n' too small?"
        )


def restore_limit(before: int, raised: int) -> None:
    """Set it back, if it is still what we made it."""
    if before != raised and watches_limit() == raised:
        _LIMIT.write_text(str(before))


def _name() -> str:
    return ".".join(_LIMIT.parts[3:])


def _count_free(wanted: int) -> int:
    """How many of ``wanted`` can be had; found out by taking them for a moment."""
    taken: list[int] = []
    library = ctypes.CDLL(None)
    try:
        while len(taken) < wanted and (instance := library.inotify_init()) >= 0:
            taken.append(instance)
    finally:
        for instance in taken:
            os.close(instance)
    return len(taken)
