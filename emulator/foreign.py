"""Hosts of another processor: qemu runs their programs, and the kernel starts it while a rule of ours is registered.

A rule (binfmt_misc) holds for the whole machine. It names our testbed, is made by what needs it in a mount namespace of
its own, and goes with ``down``; newer kernels (6.7) forget it with the last such namespace.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from emulator.commands import ENVIRONMENT, run
from emulator.errors import EmulationFailed
from emulator.settings import Settings

__all__ = [
    "ARM64", "NATIVE", "QEMU_DROP_IN", "QEMU_SERVICES", "binfmt_rule", "is_foreign", "register_command", "unregister",
]  # fmt: skip

ARM64 = "aarch64"
NATIVE = platform.machine()

# For all services of a host: qemu can't hand over credentials, and a process of several threads, which each of its is,
# may not leave its user namespace.
QEMU_DROP_IN = "etc/systemd/system/service.d/qemu.conf"
QEMU_SERVICES = "[Service]\nLoadCredential=\nLoadCredentialEncrypted=\nPrivateUsers=no\n"

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_SCRIPT = Path(__file__).with_name("binfmt.sh")
# By the name that ends in P the static qemu of Debian knows that it is told its program's own name too.
_QEMUS = ("/usr/libexec/qemu-binfmt/aarch64-binfmt-P", "qemu-aarch64-static", "qemu-aarch64")
# What an ELF file of that processor begins with, and which of its bits count: Documentation/admin-guide/binfmt-misc.rst
_MAGIC = rb"\x7fELF\x02\x01\x01" + rb"\x00" * 9 + rb"\x02\x00\xb7\x00"
_MASK = rb"\xff" * 7 + rb"\x00" + rb"\xff" * 8 + rb"\xfe\xff\xff\xff"
# Keep the program's name and open it; credentials are the program's, or sudo fails; qemu is opened now, from here.
_FLAGS = "POCF"


def is_foreign(machine: str) -> bool:
    return machine != NATIVE


def binfmt_rule(settings: Settings) -> str:
    """Return what the kernel is told; EmulationFailed if there is no qemu, or no rules."""
    if not _BINFMT.exists():
        raise EmulationFailed("arm64 hosts need binfmt_misc: 'modprobe binfmt_misc', or a kernel that has it")
    found = next((path for name in _QEMUS if (path := shutil.which(name, path=ENVIRONMENT["PATH"]))), None)
    if not found:
        raise EmulationFailed("arm64 hosts are run by qemu: 'apt-get install qemu-user-static', then do it again")
    return f":{settings.cgroup}:M::{_MAGIC.decode()}:{_MASK.decode()}:{found}:{_FLAGS}"


def register_command(settings: Settings) -> list[str]:
    """Return what goes before a command that needs foreign programs, in a mount namespace of its own."""
    return ["sh", str(_SCRIPT), str(_BINFMT), settings.cgroup, binfmt_rule(settings)]


def unregister(settings: Settings) -> None:
    """Remove the rule if there is one, wherever it was made."""
    if _BINFMT.exists():
        script = (
            '[ -e "$1/register" ] || mount -t binfmt_misc none "$1"; cd "$1"; if [ -e "$2" ]; then echo -1 >"$2"; fi'
        )
        run("unshare", "--mount", "sh", "-euc", script, "sh", str(_BINFMT), settings.cgroup)
