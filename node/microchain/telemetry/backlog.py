"""What of a spool was not delivered yet: a cursor on disk, and batches of whole lines from it on, of bounded size."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from microchain.telemetry.spool import SUFFIX, read_complete_lines, spool_segments

__all__ = ["MAX_BYTES", "Backlog", "Batch", "Cursor", "RejectedLines", "load_cursor", "save_cursor"]

MAX_BYTES = 512 << 10
"""Bytes in one batch, and the longest line that is delivered."""
REJECTED_BYTES = 1 << 20
"""All that is kept of refused lines."""
KEPT_OF_A_LINE = 4096
_CURSOR_BYTES = 4096

_Count = Annotated[int, Meta(ge=0)]
_log = logging.getLogger(__name__)


class Cursor(Struct, frozen=True):
    """All before ``offset`` in ``segment``, and all earlier segments, is done: ``shipped`` or ``rejected`` lines.

    ``error`` is why the last attempt failed, empty if it did not.
    """

    segment: Annotated[str, Meta(max_length=255, pattern=r"^[^/\x00]*\Z")] = ""
    offset: _Count = 0
    shipped: _Count = 0
    rejected: _Count = 0
    error: str = ""


class Batch(Struct, frozen=True):
    """Whole lines of one segment, up to offset ``end``; ``oversized``: the beginning of a line too long to be sent."""

    segment: str
    end: int
    data: bytes
    lines: int
    oversized: bool = False


def load_cursor(path: Path) -> Cursor:
    """Read a cursor; if there is none or it is damaged the beginning, since repeated points change nothing."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_CURSOR_BYTES), type=Cursor)
    except FileNotFoundError:
        return Cursor()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        _log.warning("%s can't be used, so all telemetry is streamed again: %s", path, error)
        return Cursor()


def save_cursor(path: Path, cursor: Cursor) -> None:
    """Replace the cursor's file as a whole; OSError if that is not possible, the old one is then still there.

    Nothing waits for the disk: after a power cut an older cursor, or none, costs repeated points.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(msgspec.json.encode(cursor) + b"\n")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


class Backlog:
    """The segments of a spool directory, seen from a cursor. Every segment but the last is closed for ever."""

    def __init__(self, directory: Path, max_bytes: int = MAX_BYTES) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    def checked(self, cursor: Cursor) -> Cursor:
        """Return the cursor, at the beginning of its segment if it does not stand between two lines of it."""
        path = self._directory / cursor.segment
        try:
            with path.open("rb") as file:
                file.seek(max(0, cursor.offset - 1))
                fits = cursor.offset == 0 or file.read(1) == b"\n"
        except OSError:  # removed: `take` goes on with the next one
            return cursor
        return cursor if fits else msgspec.structs.replace(cursor, offset=0)

    def waiting_bytes(self, cursor: Cursor) -> int:
        """Return the bytes behind the cursor."""
        total = 0
        try:
            for entry in os.scandir(self._directory):
                if entry.name.endswith(SUFFIX) and entry.name >= cursor.segment:
                    total += max(0, entry.stat().st_size - (cursor.offset if entry.name == cursor.segment else 0))
        except OSError:
            return total
        return total

    def take(self, cursor: Cursor, max_lines: int) -> Batch | None:
        """Return the next lines behind the cursor, or None if there are none yet. OSError if they can't be read."""
        segments = [path for path in spool_segments(self._directory) if path.name >= cursor.segment]
        for path in segments:
            offset = cursor.offset if path.name == cursor.segment else 0
            data, end = read_complete_lines(path, offset, self._max_bytes)
            if data:
                kept, lines = _first_lines(data, max_lines)
                return Batch(path.name, end - len(data) + len(kept), kept, lines)
            if path.stat().st_size - offset >= self._max_bytes:
                batch = self._oversized(path, offset)
                if batch is not None:
                    return batch
            # A closed segment may end with a line that a crash tore; the last one may have it completed yet.
        return None

    def _oversized(self, path: Path, offset: int) -> Batch | None:
        """Pass a line that is longer than a batch; None if its end is not there."""
        with path.open("rb") as file:
            file.seek(offset)
            beginning = file.read(KEPT_OF_A_LINE)
            chunk, position = beginning, offset
            while chunk:
                found = chunk.find(b"\n")
                if found >= 0:
                    return Batch(path.name, position + found + 1, beginning, 1, oversized=True)
                position += len(chunk)
                chunk = file.read(self._max_bytes)
        return None


def _first_lines(data: bytes, most: int) -> tuple[bytes, int]:
    """Return the first ``most`` lines of whole lines, and how many these are."""
    lines = data.count(b"\n")
    if lines <= most:
        return data, lines
    end = 0
    for _ in range(most):
        end = data.index(b"\n", end) + 1
    return data[:end], most


class RejectedLines:
    """A file of lines that the server refuses, each behind a comment that says why; it stops growing at ``max_bytes``.

    The spool has these lines as well, so a disk that takes nothing costs only the explanation.
    """

    def __init__(self, path: Path, max_bytes: int = REJECTED_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes

    def keep(self, line: bytes, reason: str) -> None:
        """Append a line (cut if it is very long) and one line of reason, if there is room."""
        cut = f" (cut, it has {len(line)} bytes)" if len(line) > KEPT_OF_A_LINE else ""
        comment = " ".join(reason.split())
        entry = f"# {comment}{cut}\n".encode(errors="replace") + line[:KEPT_OF_A_LINE].rstrip(b"\n") + b"\n"
        try:
            with self._path.open("ab") as file:
                if file.tell() + len(entry) <= self._max_bytes:
                    file.write(entry)
        except OSError as error:
            _log.warning("%s can't be written: %s", self._path, error)
