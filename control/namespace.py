"""Commands of the control side inside the network namespace that an inventory names (variable ``control_namespace``).

Emulated hosts live in a network of their own, which this machine reaches from one namespace only. It has a name; for a
testbed without root it is written as where it is seen from outside, ``/proc/HOLDER/root/run/netns/NAME``: the process
HOLDER is in the user namespace that has to be entered first.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from pathlib import Path

from control.errors import DeploymentFailed

__all__ = ["NAMESPACES", "enter_command", "enter_namespace", "is_inside", "leave_namespace"]

NAMESPACES = Path("/run/netns")
_HELD = re.compile(r"/proc/(\d+)/root(/.*)")
_CLONE_NEWNET = 0x40000000  # linux/sched.h


def is_inside(name: str, *, directory: Path = NAMESPACES) -> bool:
    """Whether this process's sockets are made in the namespace of that name."""
    held = _HELD.fullmatch(name)
    return any(_is_own(place) for place in (directory / name, *([Path(held[2])] if held else [])))


def enter_command(name: str, working_directory: Path, *, directory: Path = NAMESPACES) -> list[str]:
    """Return what goes before a command that runs in a namespace, nothing for an empty name or if we are inside.

    DeploymentFailed says what to do if that can't be entered.
    """
    if not name or is_inside(name, directory=directory):
        return []
    if not (directory / name).exists():
        raise _missing(name)
    if held := _HELD.fullmatch(name):
        spaces = ["--user", "--mount", "--pid", "--preserve-credentials"]
        enter = ["nsenter", f"--target={held[1]}", *spaces, "--", "env", f"--chdir={working_directory}"]
        return [*enter, "ip", "netns", "exec", Path(name).name]
    if os.geteuid():
        raise DeploymentFailed(f"only root may enter the network namespace '{name}': run this with sudo")
    return ["ip", "netns", "exec", name]


def enter_namespace(name: str, *, directory: Path = NAMESPACES) -> None:
    """Make all further sockets of this thread, and of those that it starts, in a namespace; nothing for an empty name.

    For that of a testbed without root this program begins anew, inside: a process of several threads can't change its
    user namespace. DeploymentFailed says what to do if a namespace can't be entered.
    """
    if not name or is_inside(name, directory=directory):
        return
    if _HELD.fullmatch(name):
        command = [*enter_command(name, Path.cwd(), directory=directory), sys.executable, *sys.orig_argv[1:]]
        os.execvp(command[0], command)
    try:
        _join(directory / name)
    except FileNotFoundError:
        raise _missing(name) from None
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


def _missing(name: str) -> DeploymentFailed:
    return DeploymentFailed(
        f"the network namespace '{name}' of this inventory does not exist: './testbed emulate up' makes it"
    )


def _is_own(place: Path) -> bool:
    try:
        wanted, own = place.stat(), Path("/proc/self/ns/net").stat()
    except OSError:
        return False
    return (wanted.st_dev, wanted.st_ino) == (own.st_dev, own.st_ino)


def _join(place: Path) -> None:
    """Change this thread's network namespace; OSError if that can't be."""
    with place.open("rb") as file:
        # os.setns is there from Python 3.12 on.
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
