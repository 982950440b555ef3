"""What a machine is: the facts that matter to a timing. ``python -m microchain.machine`` prints them as JSON."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["describe_machine"]

_EMULATORS = {"systemd-nspawn"}
"""Containers that emulated hosts are booted in, as systemd's /run/systemd/container names them.

Another container that the testbed was put into is nothing but this machine.
"""


def describe_machine(root: Path = Path("/")) -> dict[str, Any]:
    """Return the facts that matter to a timing; what a machine does not tell is empty (``board``: None).

    ``cpu`` model, ``cores`` that may be used, ``memory_bytes``, ``architecture``, ``kernel``, ``system``, ``python``,
    ``board`` (model by the firmware's device tree), ``governor`` of its frequency (several: joined by blanks), and what
    it is ``emulated`` by. ``root`` is where /proc, /sys and /run are.
    """
    return {
        "cpu": _cpu_model(root),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "architecture": platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
        "system": _system_name(),
        "python": platform.python_version(),
        "board": _read(root / "proc/device-tree/model").strip("\0\n ") or None,
        "governor": _governor(root),
        "emulated": _emulator(root),
    }


def _cpu_model(root: Path) -> str:
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _governor(root: Path) -> str:
    policies = (root / "sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_governor")
    return " ".join(sorted({_read(policy).strip() for policy in policies} - {""}))


def _emulator(root: Path) -> str:
    container = _read(root / "run/systemd/container").strip()
    return container if container in _EMULATORS else ""


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    print(json.dumps(describe_machine()))
