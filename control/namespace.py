"""Commands of the control side inside the network namespace that an inventory names (variable ``control_namespace``).

Emulated hosts live in a network of their own, which this machine reaches from one namespace only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

from control.errors import DeploymentFailed

__all__ = ["NAMESPACES", "enter_namespace", "is_inside", "leave_namespace"]

NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000  # linux/sched.h


def is_inside(name: str, *, directory: Path = NAMESPACES) -> bool:
    """Whether this process's sockets are made in the namespace of that name."""
    try:
        wanted, own = (directory / name).stat(), Path("/proc/self/ns/net").stat()
    except OSError:
        return False
    return (wanted.st_dev, wanted.st_ino) == (own.st_dev, own.st_ino)


def enter_namespace(name: str, *, directory: Path = NAMESPACES) -> None:
    """Make all further sockets of this thread, and of those that it starts, in a namespace; nothing for an empty name.

    DeploymentFailed says what to do if that can't be.
    """
    if not name or is_inside(name, directory=directory):
        return
    try:
        _join(directory / name)
    except FileNotFoundError:
        raise DeploymentFailed(
            f"the network namespace '{name}' of this inventory does not exist: './testbed emulate up' makes it"
        ) from None
    except OSError as error:
        raise DeploymentFailed(
            f"the network namespace '{name}' can't be entered ({error.strerror}): run this as root"
        ) from None


def leave_namespace(name: str, *, directory: Path = NAMESPACES) -> None:
    """From inside the namespace of that name go to the network it was entered from, that of the next ancestor outside.

    So what the hosts' network has no way to, such as a package index, can be reached. Without such an ancestor, or the
    right to go there, nothing happens.
    """
    process = os.getppid()
    while is_inside(name, directory=directory) and process > 1:
        with contextlib.suppress(OSError):
            _join(Path(f"/proc/{process}/ns/net"))
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def _join(place: Path) -> None:
    """Change this thread's network namespace; OSError if that can't be."""
    with place.open("rb") as file:
        # os.setns is there from Python 3.12 on.
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
