"""Inotify instances: the kernel gives each user few (128), a host's systemd and sessions take ten, and hang without.

So ``up`` adds what its hosts need to the limit, and ``down`` takes as much off it: in whatever order several testbeds
come and go, each has its own. Without root the limit is what it is, and may be enough.
"""

from __future__ import annotations

from pathlib import Path

from emulator.errors import EmulationFailed
from emulator.rootless import in_user_namespace
from emulator.state import machine_lock

__all__ = ["add_watches", "take_off_watches"]

_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
_PER_HOST = 10


def add_watches(hosts: int) -> int:
    """Raise the limit by what these hosts need, and return by how much; EmulationFailed if that is refused."""
    wanted = hosts * _PER_HOST
    try:
        with machine_lock():
            limit = int(_LIMIT.read_text())
            _LIMIT.write_text(str(limit + wanted))
    except OSError as error:
        if in_user_namespace() and wanted <= limit:  # of a user's, who has them all to himself
            return 0
        raise EmulationFailed(
            f"{hosts} hosts need {wanted} inotify instances more than others have, and {_LIMIT} can't be changed "
            f"({error.strerror}): 'sysctl -w fs.inotify.max_user_instances=1024' outside of this container"
        ) from None
    return wanted


def take_off_watches(added: int) -> None:
    """Lower the limit by what was added; where it has become too small for that, somebody else has set it."""
    with machine_lock():
        limit = int(_LIMIT.read_text())
        if 0 < added < limit:
            _LIMIT.write_text(str(limit - added))
