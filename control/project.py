"""Where things are: the project's own directories, which every command is run from."""

from __future__ import annotations

import re
from pathlib import Path

from control.errors import UsageError

__all__ = ["ROOT", "RUNS", "control_directory", "inventory_directory", "shown_path"]

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs"

_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,31}$")


def inventory_directory(name: str, root: Path = ROOT) -> Path:
    """Return ``inventory/NAME``; UsageError lists what there is if it does not exist."""
    directory = root / "inventory" / name
    if not _NAME.match(name) or not directory.is_dir():
        there = sorted(p.name for p in (root / "inventory").iterdir() if p.is_dir())
        raise UsageError(f"there is no inventory '{name}'; there are: {', '.join(there)}")
    return directory


def control_directory(inventory: str, root: Path = ROOT) -> Path:
    """Return where the control side keeps what it knows of a deployment: authority, bundles, endpoints, devices."""
    return root / ".cache" / inventory / "control"


def shown_path(path: Path, base: Path | None = None) -> str:
    """Return a path the short way: relative to the current directory if it lies below it."""
    try:
        return str(path.resolve().relative_to((base or Path.cwd()).resolve()))
    except ValueError:
        return str(path)
