"""Inotify instances: the kernel gives each user few (128), a host's systemd and sessions take ten, and hang without."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from emulator.errors import EmulationFailed

__all__ = ["check_watches", "watches_limit"]

_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
_PER_HOST = 10
_ADVICE = "sysctl -w fs.inotify.max_user_instances=1024"


def watches_limit() -> int:
    return int(_LIMIT.read_text())


def check_watches(hosts: int) -> None:
    """EmulationFailed if root can't have as many as these hosts will want; found out by taking them for a moment."""
    wanted = hosts * _PER_HOST
    taken: list[int] = []
    library = ctypes.CDLL(None)
    try:
        while len(taken) < wanted and (instance := library.inotify_init()) >= 0:
            taken.append(instance)
    finally:
        for instance in taken:
            os.close(instance)
    if len(taken) < wanted:
        raise EmulationFailed(
            f"{hosts} hosts need {wanted} inotify instances, and of {watches_limit()} only {len(taken)} are free: "
            f"end other hosts, or '{_ADVICE}'"
        )
