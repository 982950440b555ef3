"""What the testbed needs of this machine: found, or how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from emulator.cgroups import find_hierarchies
from emulator.link_emulation import mechanisms

__all__ = ["Finding", "examine"]

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
_PATIENCE_S = 10.0
_ENTER_USER, _ENTER_ROOT = ("unshare", "--user", "--map-root-user"), ("unshare", "--net")
_FREE_GB = 5.0
_PLACE = Path(__file__).resolve().parent


class Finding(Struct, frozen=True):
    """One prerequisite; ``needed``: verbs of the manual fail without it. ``words``: version, or what to do."""

    name: str
    purpose: str
    needed: bool
    found: bool
    words: str


class _Program(Struct, frozen=True):
    names: tuple[str, ...]
    purpose: str
    needed: bool
    install: str
    version: tuple[str, ...] = ("--version",)


_EMULATION = "emulated hosts"
_PROGRAMS = [
    _Program(("ssh",), "hosts other than this machine", True, "apt-get install openssh-client", ("-V",)),
    _Program(("systemd-nspawn",), _EMULATION, True, "apt-get install systemd-container"),
    _Program(("mmdebstrap",), f"{_EMULATION}: their base image", True, "apt-get install mmdebstrap"),
    _Program(("ip",), f"{_EMULATION}: namespaces, bridge", True, "apt-get install iproute2", ("-Version",)),
    _Program(("nft",), f"{_EMULATION}: partitions, links", True, "apt-get install nftables"),
    _Program(("setpriv",), f"{_EMULATION}: exec", True, "apt-get install util-linux"),
    _Program(("ethtool",), f"{_EMULATION}: links", True, "apt-get install ethtool"),
    _Program(("mkfs.ext4",), f"{_EMULATION}: --disk, powercut", True, "apt-get install e2fsprogs", ("-V",)),
    _Program(("gcc",), f"{_EMULATION}: wrong clocks; building InfluxDB 2", False, "apt-get install gcc libc6-dev"),
    _Program(("qemu-aarch64-static", "qemu-aarch64"), "an emulated arm64 host", False,
             "apt-get install qemu-user-static"),
    _Program(("influxd",), "./testbed influx; else built", False, "from influxdata.com, or by go", ("version",)),
    _Program(("go",), "building InfluxDB", False, "apt-get install golang-go, or from go.dev", ("version",)),
    _Program(("cargo",), "building InfluxDB 2", False, "apt-get install cargo, or from rustup.rs"),
    _Program(("chromium", "chromium-browser", "google-chrome"), "tests of the report in a browser", False,
             "apt-get install chromium"),
]  # fmt: skip


def examine() -> list[Finding]:
    """Look at all of it; takes a second."""
    own = [_python(), _venv(), _disk(), _root(), _cgroups(), _overlay(), _links()]
    return [*own, *(_program(program) for program in _PROGRAMS)]


def _python() -> Finding:
    found = sys.version_info >= (3, 11)
    words = f"{platform.python_version()}, {sys.executable}" if found else "apt-get install python3.11-venv"
    return Finding("Python 3.11 or newer", "everything", True, found, words)


def _venv() -> Finding:
    found = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    return Finding("venv", "the first use", True, found, "there" if found else "apt-get install python3-venv")


def _disk() -> Finding:
    free = shutil.disk_usage(_PLACE).free / 1e9
    found = free >= _FREE_GB
    words = f"{free:.0f} GB here" + ("" if found else f": make room for {_FREE_GB:.0f} GB")
    return Finding("free disk", "wheels, images, runs", True, found, words)


def _root() -> Finding:
    found = os.geteuid() == 0
    words = "you are root" if found else "emulated hosts need sudo, and what is deployed on them; all else does not"
    return Finding("root", _EMULATION, False, found, words)


def _cgroups() -> Finding:
    hierarchies = find_hierarchies()
    found = hierarchies.unified is not None
    kind = f"hybrid, v1 has {', '.join(sorted(hierarchies.v1))}" if hierarchies.v1 else "v2"
    how = "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
    return Finding("cgroup v2", _EMULATION, True, found, kind if found else how)


def _overlay() -> Finding:
    found = "\toverlay\n" in Path("/proc/filesystems").read_text()
    return Finding("overlayfs", _EMULATION, True, found, "there" if found else "modprobe overlay")


def _links() -> Finding:
    """Tried in namespaces that end with the trial."""
    found = mechanisms(*_ENTER_ROOT) if os.geteuid() == 0 else mechanisms(*_ENTER_USER, *_ENTER_ROOT)
    how = "a kernel with NETEM, NFT_QUEUE, or NETFILTER_XT_TARGET_NFQUEUE and br_netfilter; root finds more"
    return Finding("netem or NFQUEUE", f"{_EMULATION}: slow links", False, bool(found), ", ".join(found) or how)


def _program(program: _Program) -> Finding:
    paths = (shutil.which(name, path=_PATH) for name in program.names)
    path = next((p for p in paths if p), None)
    words = _version([path, *program.version]) if path else program.install
    return Finding(program.names[0], program.purpose, program.needed, path is not None, words)


def _version(command: list[str], run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run) -> str:
    """The first line that a program says about itself."""
    try:
        done = run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return command[0]
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0][:70] if lines and not done.returncode else command[0]
