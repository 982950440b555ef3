"""Commands of the control side inside the network namespace that an inventory names (variable ``control_namespace``).

Emulated hosts live in a network of their own, which this machine reaches from one namespace only.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from control.errors import DeploymentFailed

__all__ = ["NAMESPACES", "enter_namespace", "is_inside"]

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
        descriptor = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DeploymentFailed(
            f"the network namespace '{name}' of this inventory does not exist: './testbed emulate up' makes it"
        ) from None
    except OSError as error:
        raise _refused(name, error) from None
    try:
        # os.setns is there from Python 3.12 on.
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise _refused(name, OSError(number, os.strerror(number)))
    finally:
        os.close(descriptor)


def _refused(name: str, error: OSError) -> DeploymentFailed:
    return DeploymentFailed(f"the network namespace '{name}' can't be entered ({error.strerror}): run this as root")
