"""What a run ran with: commit and uncommitted changes, versions, and the facts of this machine."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from microchain.machine import describe_machine

from control.project import ROOT

__all__ = ["describe_environment", "environment_line"]

_PACKAGES = ("aiohttp", "ansible-core", "cryptography", "msgspec", "numpy", "pandas", "PyNaCl", "PyYAML", "uvloop")
_MAX_DIFF = 1 << 20


def describe_environment(root: Path = ROOT) -> dict[str, Any]:
    """Return ``environment.json``: git, versions and the facts of the control machine; those of hosts come later."""
    return {"git": _describe_git(root), "versions": _describe_versions(), "host": describe_machine()}


def environment_line(environment: dict[str, Any] | None = None) -> str:
    """Return one line to print beside numbers: machine, system, Python and commit."""
    environment = environment or describe_environment()
    host, git = environment["host"], environment["git"]
    machine = host["board"] or host["cpu"]
    commit = (git["commit"] or "no commit")[:12] + ("+changes" if git["dirty"] else "")
    memory = f"{host['memory_bytes'] / (1 << 30):.1f} GiB"
    return f"{machine}, {host['cores']} cores, {memory}, {host['kernel']}, Python {host['python']}, commit {commit}"


def _describe_git(root: Path) -> dict[str, Any]:
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None, "diff": ""}
    status = _git(root, "status", "--porcelain") or ""
    diff = _git(root, "diff", "HEAD") or ""
    return {
        "commit": commit.strip(),
        "dirty": bool(status.strip()),
        "status": status[:_MAX_DIFF],
        "diff": diff[:_MAX_DIFF],
        "diff_truncated": len(diff) > _MAX_DIFF,
    }


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _describe_versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
