"""A host's wall clock, wrong by an offset and a drift: a preloaded library adds both to what the machine's clock says.

The machine's clock is never touched. A file of three integers, mapped by every process of the host, is changed live.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import shutil
import struct
import time
from pathlib import Path

from emulator.commands import run
from emulator.errors import UsageError
from emulator.foreign import is_foreign
from emulator.settings import Settings

__all__ = ["CLOCK_FILE", "SHIM", "decode_clock", "encode_clock", "install_shim", "read_clock", "write_clock"]

CLOCK_FILE = "clock"
SHIM = "/usr/lib/testbed-emulator/clock.so"

_SOURCE = Path(__file__).with_name("clock_shim.c")
_FORM = struct.Struct("=qqq")  # as struct skew in clock_shim.c: offset in ns, drift in parts per 10^9, since when in ns
_MOST_OFFSET_S = 10 * 365 * 86400.0
_MOST_DRIFT_PPM = 100_000.0


def encode_clock(offset_s: float, drift_ppm: float, since_ns: int) -> bytes:
    """Return the file's content; UsageError for what no clock shows. Drift begins at ``since_ns`` (monotonic)."""
    if not abs(offset_s) <= _MOST_OFFSET_S:
        raise UsageError(f"a clock off by {offset_s:g} s: choose within ten years")
    if not abs(drift_ppm) <= _MOST_DRIFT_PPM:
        raise UsageError(f"a drift of {drift_ppm:g} ppm: choose within {_MOST_DRIFT_PPM:g}")
    return _FORM.pack(round(offset_s * 1e9), round(drift_ppm * 1e3), since_ns)


def decode_clock(content: bytes, now_ns: int) -> tuple[float, float]:
    """Return offset now (seconds) and drift (ppm)."""
    offset_ns, ppb, since_ns = _FORM.unpack_from(content)
    return (offset_ns + (now_ns - since_ns) * ppb / 1e9) / 1e9, ppb / 1e3


def write_clock(path: Path, offset_s: float, drift_ppm: float) -> None:
    """Change a host's clock in place: a new file would not be the one that its processes look at."""
    content = encode_clock(offset_s, drift_ppm, time.monotonic_ns())
    if not path.exists():
        path.write_bytes(content.ljust(mmap.PAGESIZE, b"\0"))
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), mmap.PAGESIZE) as page:
        page[: _FORM.size] = content


def read_clock(path: Path) -> tuple[float, float]:
    """Return offset now and drift of a host's clock."""
    return decode_clock(path.read_bytes(), time.monotonic_ns())


def install_shim(settings: Settings, machine: str) -> Path | None:
    """Return the library for a processor, compiled once; None where there is no C compiler for it."""
    compiler = f"{machine}-linux-gnu-gcc" if is_foreign(machine) else "gcc"
    version = hashlib.sha256(f"{machine} ".encode() + _SOURCE.read_bytes()).hexdigest()[:16]
    library = settings.images / f"clock-{version}.so"
    if not library.exists() and not shutil.which(compiler):
        return None
    with library.with_suffix(".lock").open("w") as lock:  # of two at once the second finds it done
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            draft = library.with_suffix(".new")
            run(compiler, "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(draft), str(_SOURCE))
            draft.replace(library)
    return library
