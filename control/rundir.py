"""The run directory: one run, whole (docs/experiments.md)."""

from __future__ import annotations

import hashlib
import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from control.cells import Cell
from control.errors import UsageError
from control.progress import Progress, append_progress

__all__ = ["ANSIBLE_LOG", "RunDirectory", "file_digest", "new_run_name", "read_cell", "write_json"]


ANSIBLE_LOG = "ansible.log"
"""What Ansible said, written by the wrapper."""


class RunDirectory:
    """Paths of a run and of its cells."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def progress(self) -> Path:
        return self.path / "progress.jsonl"

    @property
    def checksums(self) -> Path:
        return self.path / "SHA256SUMS"

    def cell(self, cell_id: str) -> Path:
        return self.path / "cells" / cell_id

    def is_cell_sealed(self, cell_id: str) -> bool:
        return (self.cell(cell_id) / "sealed").exists()

    def cells(self) -> list[Cell]:
        """Return the planned cells in their order; UsageError if this is no run directory."""
        try:
            return msgspec.json.decode((self.path / "cells.json").read_bytes(), type=list[Cell])
        except FileNotFoundError:
            raise UsageError(f"{self.path} is no run directory: it has no cells.json") from None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.path / 'cells.json'} can't be read: {error}") from None

    def report(self, progress: Progress) -> None:
        append_progress(self.progress, progress)


def new_run_name(experiment: str, now: datetime) -> str:
    """Return ``YYYYmmdd-HHMMSS-<experiment>-<6 hex digits>``."""
    return f"{now:%Y%m%d-%H%M%S}-{experiment}-{secrets.token_hex(3)}"


def read_cell(directory: Path) -> Cell:
    """Read ``cell.json`` of a cell's directory; UsageError says what is wrong with it."""
    path = directory / "cell.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cell)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no planned cell: {error}") from None


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    temporary.replace(path)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
