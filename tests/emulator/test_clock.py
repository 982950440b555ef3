"""The wrong clock: its file, and the library in a process of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emulator import clock
from emulator.errors import UsageError

# What the kernel says without the C library, and what Python is told; and again when another line comes.
PROBE = """
import ctypes, sys, time
class Time(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]
library, now = ctypes.CDLL(None), Time()
for line in sys.stdin:
    library.syscall(int(sys.argv[1]), 0, ctypes.byref(now))
    print(time.time() - now.s - now.ns / 1e9, flush=True)
"""
CLOCK_GETTIME = {"x86_64": 228, "aarch64": 113}


def test_offset_and_drift_are_read_back_as_written() -> None:
    content = clock.encode_clock(-2.5, 200.0, 10_000_000_000)
    assert clock.decode_clock(content, 10_000_000_000) == (-2.5, 200.0)
    assert clock.decode_clock(content, 20_000_000_000)[0] == pytest.approx(-2.5 + 0.002)


@pytest.mark.parametrize(("offset", "drift"), [(1e12, 0.0), (float("nan"), 0.0), (0.0, 1e9), (0.0, float("nan"))])
def test_what_no_clock_shows_is_refused(offset: float, drift: float) -> None:
    with pytest.raises(UsageError, match="choose within"):
        clock.encode_clock(offset, drift, 0)


@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc to compile the clock with")
def test_a_process_sees_the_clock_change_while_it_runs(tmp_path: Path) -> None:
    library, file = tmp_path / "clock.so", tmp_path / "clock"
    source = Path(clock.__file__).with_name("clock_shim.c")
    options = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", f'-DCLOCK_FILE="{file}"']
    subprocess.run(["gcc", *options, "-o", str(library), str(source)], check=True)
    clock.write_clock(file, 0.0, 0.0)
    with subprocess.Popen(
        [sys.executable, "-c", PROBE, str(CLOCK_GETTIME[os.uname().machine])],
        env={"LD_PRELOAD": str(library)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdin and process.stdout

        def shown() -> float:
            assert process.stdin and process.stdout
            process.stdin.write("\n")
            return float(process.stdout.readline())

        assert shown() == pytest.approx(0.0, abs=0.5)
        clock.write_clock(file, -86_400.0, 0.0)
        assert shown() == pytest.approx(-86_400.0, abs=0.5)
        clock.write_clock(file, 2.5, 100_000.0)  # a tenth too fast
        first = shown()
        assert first > 2.4
        assert shown() > first
        process.stdin.close()
