"""``progress.jsonl``: what a run is doing, one object a line, appended by every step and tailed by the display."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

__all__ = ["Phase", "Progress", "ProgressTail", "append_progress"]

Phase = Literal[
    "planned",
    "genesis",
    "starting",
    "ready",
    "warmup",
    "round",
    "running",
    "draining",
    "drained",
    "collected",
    "failed",
    "sealed",
    "comparing",
    "compared",
]

_MAX_READ = 1 << 20


class Progress(Struct, frozen=True, kw_only=True):
    """One step of one cell; ``cell`` is empty for the run as a whole."""

    at: str = ""
    cell: str = ""
    phase: Phase
    done: int = 0
    total: int = 0
    message: str = ""


def append_progress(path: Path, progress: Progress) -> None:
    """Append one line with one write, so that lines of several processes never mix."""
    if not progress.at:
        progress = msgspec.structs.replace(progress, at=datetime.now(UTC).isoformat(timespec="milliseconds"))
    line = msgspec.json.encode(progress) + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


class ProgressTail:
    """Reads what was appended since the last call. Lines that are no progress are skipped and counted."""

    def __init__(self, path: Path, *, from_end: bool = False) -> None:
        self._path = path
        self._position = path.stat().st_size if from_end and path.exists() else 0
        self.skipped = 0

    def read(self) -> list[Progress]:
        """Return the new complete lines, at most a MiB of them."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._position)
                data = stream.read(_MAX_READ)
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        if not complete and len(data) == _MAX_READ:
            complete = data
        self._position += len(complete)
        steps = []
        for line in complete.splitlines():
            try:
                steps.append(msgspec.json.decode(line, type=Progress))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.skipped += 1
        return steps
