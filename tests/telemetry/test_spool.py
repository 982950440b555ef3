"""The spool: bounded, whole lines only, and every point that is given up is counted."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from microchain.telemetry import spool as spool_module
from microchain.telemetry.spool import Spool, read_complete_lines, spool_segments

LINE = "block id=1i 5\n"


def lines_of(directory: Path) -> list[str]:
    return [
        line for path in spool_segments(directory) for line in read_complete_lines(path)[0].decode().splitlines(True)
    ]


def open_spool(directory: Path, **options: int) -> Spool:
    """A spool without its thread: written by flush and close alone."""
    return Spool(directory, interval_s=0, **options)


def test_lines_reach_the_file_in_order(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "new" / "spool")
    for number in range(1000):
        spool.append(f"block id={number}i 5\n")
    spool.close()
    assert lines_of(tmp_path / "new" / "spool") == [f"block id={number}i 5\n" for number in range(1000)]
    assert (spool.points, spool.dropped, spool.error) == (1000, 0, "")


def test_the_thread_writes_without_being_asked(tmp_path: Path) -> None:
    spool = Spool(tmp_path, interval_s=0.01)
    spool.append(LINE)
    deadline = time.monotonic() + 20
    while not lines_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lines_of(tmp_path) == [LINE]
    spool.close()
    assert "spool" not in [thread.name for thread in threading.enumerate()]


def test_a_full_buffer_is_written_long_before_the_interval_ends(tmp_path: Path) -> None:
    spool = Spool(tmp_path, interval_s=3600)
    spool.append(LINE * 20_000, 20_000)
    deadline = time.monotonic() + 20
    while spool.points < 20_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert spool.points == 20_000
    spool.close()


def test_segments_are_closed_when_they_are_full_and_sort_in_order_of_writing(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, segment_bytes=100)
    for number in range(10, 60):
        spool.append(f"block id={number}i 5\n")
        spool.flush()
    spool.close()
    segments = spool_segments(tmp_path)
    assert len(segments) > 5
    assert all(100 <= segment.stat().st_size < 100 + len(LINE) + 1 for segment in segments[:-1])
    assert lines_of(tmp_path) == [f"block id={number}i 5\n" for number in range(10, 60)]


def test_at_the_cap_points_are_dropped_and_counted_and_the_report_still_fits(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=10_000, segment_bytes=2000)
    for _ in range(2000):
        spool.append(LINE)
        spool.flush()
    assert "cap of 10000 bytes" in spool.error
    spool.close(lambda points, dropped: f"spool points={points}i,dropped={dropped}i 9\n")
    lines = lines_of(tmp_path)
    assert sum(len(line) for line in lines) <= 10_000
    kept = len(lines) - 1
    assert lines[-1] == f"spool points={kept}i,dropped={2000 - kept}i 9\n"
    assert spool.points + spool.dropped == 2001


def test_room_made_by_removing_shipped_segments_is_used_again(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=6000, segment_bytes=500)
    for _ in range(1000):
        spool.append(LINE)
        spool.flush()
    assert spool.dropped > 0
    for segment in spool_segments(tmp_path)[:-1]:
        segment.unlink()
    dropped = spool.dropped
    spool.append(LINE)
    spool.flush()
    assert (spool.dropped, spool.error) == (dropped, "")
    spool.close()


def test_files_of_earlier_sessions_count_towards_the_cap_and_are_never_touched(tmp_path: Path) -> None:
    first = open_spool(tmp_path)
    first.append(LINE * 100, 100)
    first.close()
    (earlier,) = spool_segments(tmp_path)
    content = earlier.read_bytes()
    second = open_spool(tmp_path, max_bytes=len(content) + 4096 + len(LINE))
    second.append(LINE * 2, 2)
    second.close()
    assert (second.points, second.dropped) == (1, 1)
    assert earlier.read_bytes() == content
    assert spool_segments(tmp_path)[0] == earlier


def test_a_session_after_the_clock_was_set_back_still_sorts_last(tmp_path: Path) -> None:
    (tmp_path / f"{2**62:020d}-000003.lp").write_text(LINE)
    spool = open_spool(tmp_path)
    spool.append("block id=2i 5\n")
    spool.close()
    assert lines_of(tmp_path) == [LINE, "block id=2i 5\n"]


def test_a_full_buffer_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "BUFFER_BYTES", 10 * len(LINE))
    spool = open_spool(tmp_path)
    for _ in range(15):
        spool.append(LINE)
    spool.close()
    assert (spool.points, spool.dropped) == (10, 5)


def test_points_after_close_are_counted_as_dropped(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.close()
    spool.close()
    spool.append(LINE * 3, 3)
    assert spool.dropped == 3
    assert spool_segments(tmp_path) == []


def test_a_directory_that_cannot_be_written_costs_points_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    spool = open_spool(tmp_path / "file" / "spool")
    spool.append(LINE)
    spool.flush()
    assert (spool.points, spool.dropped) == (0, 1)
    assert "Not a directory" in spool.error
    spool.close(lambda points, dropped: LINE)
    assert spool.dropped == 2


DISK_FULL = """
import resource, sys
from pathlib import Path
from microchain.telemetry.spool import Spool
directory = Path(sys.argv[1])
spool = Spool(directory, interval_s=0)
spool.append("block id=1i 5\\n" * 50, 50)
spool.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for _ in range(3):
    spool.append("block id=2i 5\\n" * 40, 40)
    spool.flush()
print(spool.points, spool.dropped, spool.error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append("block id=3i 5\\n")
spool.close(lambda points, dropped: f"spool points={points}i,dropped={dropped}i 9\\n")
print(spool.points, spool.dropped, spool.error or "no error")
"""


def test_a_full_disk_costs_counted_points_and_no_line_is_torn(tmp_path: Path) -> None:
    # Beyond the limit write(2) fails as it does on a full disk: a part is written, then EFBIG instead of ENOSPC.
    done = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.splitlines() == ["71 99 [Errno 27] File too large", "73 99 no error"]
    lines = lines_of(tmp_path)
    assert lines == [LINE] * 50 + ["block id=2i 5\n"] * 21 + ["block id=3i 5\n", "spool points=72i,dropped=99i 9\n"]
    assert sum(path.stat().st_size for path in spool_segments(tmp_path)) == sum(map(len, lines))


KILLED = """
import sys, time
from pathlib import Path
from microchain.telemetry.spool import Spool
spool = Spool(Path(sys.argv[1]), interval_s=0.05)
number = 0
while True:
    spool.append(f"block id={number}i 5\\n")
    number += 1
    if number % 100 == 0:
        time.sleep(0.001)
        print(spool.points, flush=True)
"""


def test_after_kill_9_all_that_was_flushed_is_there(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    written = 0
    while written < 3000:
        written = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    lines = lines_of(tmp_path)
    assert len(lines) >= written
    assert lines == [f"block id={number}i 5\n" for number in range(len(lines))]


def test_a_reader_follows_a_growing_file_and_never_sees_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "1-1.lp"
    seen, offset = b"", 0
    content = b"".join(f"block id={number}i 5\n".encode() for number in range(50))
    for end in range(0, len(content) + 1, 7):
        path.write_bytes(content[:end])
        data, offset = read_complete_lines(path, offset)
        assert data == b"" or data.endswith(b"\n")
        seen += data
    path.write_bytes(content)
    assert seen + read_complete_lines(path, offset)[0] == content


def test_descriptors_are_closed(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    spool = open_spool(tmp_path, segment_bytes=20)
    for _ in range(20):
        spool.append(LINE)
        spool.flush()
    spool.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_file_size_limit_of_this_process_is_untouched() -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
