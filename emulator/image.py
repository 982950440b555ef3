"""The base image: a root file system of Debian, made once by mmdebstrap, which all hosts share and none changes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from emulator.commands import ENVIRONMENT, run
from emulator.errors import EmulationFailed
from emulator.files import remove_tree
from emulator.foreign import NATIVE, is_foreign, register_command
from emulator.settings import Settings

__all__ = ["RELEASES", "STAMP", "USER", "base_image", "base_path", "machine_of", "remove_drafts"]

RELEASES = ("bookworm", "trixie")  # what Raspberry Pi OS 12 and 13 are made from
USER = "pi"
STAMP = "etc/testbed-base"  # says what an image was made from

# About what Raspberry Pi OS Lite has, of what playbooks may ask for; hosts have no internet to install it from.
_PACKAGES = (
    "systemd,systemd-sysv,dbus,udev,libpam-systemd,openssh-server,sudo,ca-certificates,procps,acl,cron,tzdata,"
    "python3,python3-venv,python3-apt,python3-packaging,iproute2,iputils-ping,ethtool,nftables,rsync"
)
# They make no sense without hardware of one's own, or would work at odd moments of a measurement.
_MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer "
    "systemd-networkd.service systemd-networkd-wait-online.service systemd-resolved.service systemd-timesyncd.service "
    "systemd-udevd.service getty@tty1.service console-getty.service"
)
_SSHD = "UseDNS no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n"
_ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}  # as Debian calls processors
_PATIENCE = {False: "one or two minutes", True: "some minutes: it is emulated"}
_FREE_GB = 1.5
_LOG_LINES = 8
_RECIPE = hashlib.sha256("\n".join((_PACKAGES, _MASKED, _SSHD)).encode()).hexdigest()


def base_path(settings: Settings, release: str, machine: str = NATIVE) -> Path:
    return settings.images / (f"base-{release}-{machine}" if is_foreign(machine) else f"base-{release}")


def base_image(
    settings: Settings, release: str, machine: str, say: Callable[[str], None], passing: Callable[[str], None]
) -> Path:
    """Return the image of a release for a processor, making it if there is none or it was made from other packages.

    ``say`` gets a line when something begins or ends, ``passing`` one for what goes on. EmulationFailed with the end of
    the log if it can't be made; nothing is left half made.
    """
    base = base_path(settings, release, machine)
    settings.images.mkdir(parents=True, exist_ok=True)
    with base.with_suffix(".lock").open("w") as lock:  # of two at once the second finds it done
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = f"{release} {_RECIPE} {machine}\n"
        if _is_current(base, stamp):
            return base
        free = shutil.disk_usage(settings.images).free / 1e9
        if free < _FREE_GB:
            raise EmulationFailed(f"{free:.1f} GB are free at {settings.images}, the image needs {_FREE_GB}: make room")
        draft = base.with_suffix(".new")
        remove_tree(draft)
        say(f"making the base image of {release} for {machine}, once, {_PATIENCE[is_foreign(machine)]}")
        began = time.monotonic()
        _bootstrap(settings, release, machine, draft, passing)
        _configure(draft)
        (draft / STAMP).write_text(stamp)
        remove_tree(base)
        draft.rename(base)
        say(f"made it in {time.monotonic() - began:.0f} s: {base}")
    return base


def machine_of(base: Path) -> str:
    """Return the processor that an image is for, as uname calls it."""
    return (base / STAMP).read_text().split()[-1]


def remove_drafts(settings: Settings) -> None:
    """Delete what a making that was killed left, unless one goes on."""
    for draft in settings.images.glob("base-*.new"):
        with draft.with_suffix(".lock").open("w") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(draft)


def _is_current(base: Path, stamp: str) -> bool:
    try:
        return (base / STAMP).read_text() == stamp
    except OSError:
        return False


def _bootstrap(settings: Settings, release: str, machine: str, target: Path, passing: Callable[[str], None]) -> None:
    log = target.with_suffix(".log")
    command = ["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", release, str(target)]
    if is_foreign(machine):
        command[1:1] = [f"--architectures={_ARCHITECTURES[machine]}", "--skip=check/qemu"]  # we see to it ourselves
        command = ["unshare", "--mount", *register_command(settings), *command]
    if mirror := os.environ.get("TESTBED_EMULATOR_MIRROR"):
        command.append(mirror)
    environment = ENVIRONMENT | {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        )
    except FileNotFoundError:
        raise EmulationFailed("mmdebstrap is not installed: 'apt-get install mmdebstrap'") from None
    lines = []
    with process:
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith("I: "):
                passing(line[3:].strip())
    log.write_text("".join(lines))
    if process.returncode:
        remove_tree(target)
        raise EmulationFailed(f"mmdebstrap failed; the end of {log} says:\n{''.join(lines[-_LOG_LINES:])}")


def _configure(root: Path) -> None:
    """Make a machine of it that a lab's Pi is like: the user, SSH by key only, no internet."""
    run("useradd", "--prefix", str(root), "--create-home", "--shell", "/bin/bash", USER)
    sudoers = root / "etc" / "sudoers.d" / "010_pi-nopasswd"  # as Raspberry Pi OS calls it
    sudoers.write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)
    (root / "etc" / "ssh" / "sshd_config.d" / "lab.conf").write_text(_SSHD)
    for key in (root / "etc" / "ssh").glob("ssh_host_*"):
        key.unlink()  # each host gets its own
    for unit in _MASKED.split():
        link = root / "etc" / "systemd" / "system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    (root / "etc" / "apt" / "sources.list").write_text("# no internet here\n")
    for name in ("machine-id", "resolv.conf"):
        path = root / "etc" / name
        path.unlink(missing_ok=True)
        path.write_text("")
