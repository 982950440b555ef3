"""The spool: telemetry lines in append-only files, written by a thread, bounded, never in the way of the node.

A session (one life of the process) writes segments ``<session>-<segment>.lp`` into the directory; ``session`` is the
start time in ns with 20 digits, so names sort in the order of writing. Every segment but the last is closed for ever.
Each write ends with a whole line; after ``kill -9`` at most one flush interval is lost, and the last line may be torn.
What can't be written (cap, full disk, unwritable directory) is counted as dropped; nothing here ever raises.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Spool", "read_complete_lines", "spool_segments"]

SUFFIX = ".lp"
SEGMENT_BYTES = 8 << 20
BUFFER_BYTES = 8 << 20
WAKE_BYTES = 256 << 10
CLOSING_RESERVE = 4096
"""Bytes of the cap that only the closing report may use, so that the drops of a full spool are still reported."""

_log = logging.getLogger(__name__)


class Spool:
    """Buffers lines and writes them every ``interval_s`` seconds (0: only by flush and close, without a thread)."""

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = 256 << 20,
        segment_bytes: int = SEGMENT_BYTES,
        interval_s: float = 1.0,
    ) -> None:
        self.directory = directory
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._interval_s = interval_s
        self._buffer: list[str] = []
        self._buffered = 0
        self._buffer_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._wake = threading.Event()
        self._written = 0
        self._dropped = 0
        self._error = ""
        self._closed = False
        self._fd = -1
        self._segment = 0
        self._segment_size = 0
        self._session = _next_session(directory)
        self._used = _bytes_in(directory)
        self._thread: threading.Thread | None = None
        if interval_s > 0:
            self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
            self._thread.start()

    @property
    def points(self) -> int:
        """Lines written to files by this session."""
        return self._written

    @property
    def dropped(self) -> int:
        """Lines given up by this session."""
        return self._dropped

    @property
    def error(self) -> str:
        """Why the last write failed; empty if it did not."""
        return self._error

    def append(self, lines: str, points: int = 1) -> None:
        """Take ``points`` whole lines (each ends with a newline); they reach the file with the next flush."""
        with self._buffer_lock:
            if self._closed or self._buffered + len(lines) > BUFFER_BYTES:
                self._dropped += points
                return
            self._buffer.append(lines)
            self._buffered += len(lines)
            wake = self._buffered >= WAKE_BYTES
        if wake:
            self._wake.set()

    def flush(self) -> None:
        """Write what is buffered now, in the calling thread."""
        self._flush(reserve=CLOSING_RESERVE)

    def close(self, report: Callable[[int, int], str] | None = None) -> None:
        """Write everything, then the line that ``report(points, dropped)`` returns; further lines are dropped."""
        with self._buffer_lock:
            if self._closed:
                return
            self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        if report is not None:
            self._buffer.append(report(self._written, self._dropped))
            self._flush(reserve=0)
        with self._write_lock:
            self._end_segment()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            self.flush()

    def _flush(self, *, reserve: int) -> None:
        with self._write_lock:
            with self._buffer_lock:
                lines, self._buffer, self._buffered = self._buffer, [], 0
            if not lines:
                return
            data = "".join(lines).encode(errors="replace")
            written = self._write(data, reserve)
            if self._segment_size >= self._segment_bytes:
                self._end_segment()
            with self._buffer_lock:
                self._written += data.count(b"\n", 0, written)
                self._dropped += data.count(b"\n", written)

    def _write(self, data: bytes, reserve: int) -> int:
        """Append the whole lines of ``data`` that fit; return how many bytes that were."""
        if self._used + len(data) > self._max_bytes - reserve:
            self._used = _bytes_in(self.directory)  # files already shipped may have been removed
        allowed = _whole_lines(data, self._max_bytes - reserve - self._used)
        if allowed < len(data):
            self._fail(f"the spool has reached its cap of {self._max_bytes} bytes")
        if not allowed:
            return 0
        done = 0
        try:
            if self._fd < 0:
                self._begin_segment()
            while done < allowed:
                done += os.write(self._fd, memoryview(data)[done:allowed])
        except OSError as error:
            self._fail(str(error))
            done = self._cut_torn_line(data, done)
        else:
            if allowed == len(data):
                self._error = ""
        self._segment_size += done
        self._used += done
        return done

    def _cut_torn_line(self, data: bytes, done: int) -> int:
        """Cut the segment back after its last whole line; return the bytes of ``data`` that stay in it."""
        whole = _whole_lines(data, done)
        if whole < done:
            try:
                os.ftruncate(self._fd, self._segment_size + whole)
            except OSError:
                self._end_segment()  # the torn line stays the last of its segment
        return whole

    def _begin_segment(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{self._session:020d}-{self._segment:06d}{SUFFIX}"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._segment += 1
        self._segment_size = 0

    def _end_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._segment_size = 0

    def _fail(self, reason: str) -> None:
        if not self._error:
            _log.warning("telemetry points are being dropped: %s (%s)", reason, self.directory)
        self._error = reason


def _whole_lines(data: bytes, limit: int) -> int:
    """Return the length of the longest run of whole lines at the start of ``data`` that has at most ``limit`` bytes."""
    if limit >= len(data):
        return len(data)
    return data.rfind(b"\n", 0, max(0, limit)) + 1


def _bytes_in(directory: Path) -> int:
    total = 0
    try:
        for entry in os.scandir(directory):
            if entry.name.endswith(SUFFIX):
                total += entry.stat().st_size
    except OSError:
        return total
    return total


def _next_session(directory: Path) -> int:
    """Return this start's number: the time, or more if an earlier session (before the clock was set back) has that."""
    newest = [path.name[:20] for path in spool_segments(directory)[-1:]]
    return max(time.time_ns(), *(int(name) + 1 for name in newest if name.isascii() and name.isdigit()), 0)


def spool_segments(directory: Path) -> list[Path]:
    """Return the segments in the order in which they were written; only the last may still grow."""
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(SUFFIX))
    except OSError:
        return []


def read_complete_lines(path: Path, offset: int = 0, limit: int = 64 << 20) -> tuple[bytes, int]:
    """Read whole lines from ``offset`` on, at most ``limit`` bytes; return them and the offset of the next read.

    What follows the last newline is a line still being written, or one torn by a crash. OSError if it can't be read.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(limit)
    end = data.rfind(b"\n") + 1
    return data[:end], offset + end
