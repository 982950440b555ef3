"""Reads sizes, times, rates and shares as people write them; UsageError shows how. Pure."""

from __future__ import annotations

import re

from emulator.errors import UsageError

__all__ = [
    "read_bytes", "read_cpus", "read_delay", "read_disk", "read_ppm", "read_rate", "read_seconds", "read_share",
]  # fmt: skip

_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DISK_BYTES = 64 << 20, 4096 << 30
_MOST_DELAY_S = 10.0
_RATES = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


def read_bytes(text: str) -> int:
    """``512M`` or ``2G`` in bytes."""
    found = re.fullmatch(r"(\d{1,6})([KMG])", text)
    if not found:
        raise UsageError(f"'{text}': give a size such as 512M or 2G")
    return int(found[1]) * _BYTES[found[2]]


def read_seconds(text: str) -> float:
    """``20ms``, ``-2.5s`` or ``1d`` in seconds."""
    found = re.fullmatch(r"([+-]?\d{1,9}(?:\.\d{1,9})?)(us|ms|s|m|h|d)", text)
    if not found:
        raise UsageError(f"'{text}': give a time such as 20ms, -2.5s or 1d")
    return float(found[1]) * _SECONDS[found[2]]


def read_disk(text: str) -> int:
    """A size that a file system with a journal fits into, and that a file can have."""
    size = read_bytes(text)
    if not _DISK_BYTES[0] <= size <= _DISK_BYTES[1]:
        raise UsageError(f"a disk of {text}: give between 64M and 4096G")
    return size


def read_delay(text: str) -> float:
    """A time from nothing to what no link of a testbed exceeds, in seconds."""
    delay = read_seconds(text)
    if not 0 <= delay <= _MOST_DELAY_S:
        raise UsageError(f"a delay of {text}: give between 0ms and {_MOST_DELAY_S:g}s")
    return delay


def read_rate(text: str) -> float:
    """``40mbit`` in bit/s."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)(kbit|mbit|gbit)", text.lower())
    if not found:
        raise UsageError(f"'{text}': give a rate such as 500kbit or 40mbit")
    return float(found[1]) * _RATES[found[2]]


def read_share(text: str) -> float:
    """``1%`` or ``0.01`` as 0…1."""
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)(%?)", text)
    share = float(found[1]) / (100 if found[2] else 1) if found else 2.0
    if share > 1:
        raise UsageError(f"'{text}': give a share such as 1% or 0.01")
    return share


def read_cpus(text: str) -> float:
    """``4`` or ``0.5`` processors."""
    if not re.fullmatch(r"\d{1,3}(\.\d{1,3})?", text) or float(text) < 0.01:
        raise UsageError(f"'{text}': give a number of processors such as 4 or 0.5")
    return float(text)


def read_ppm(text: str) -> float:
    """``-50`` parts per million."""
    if not re.fullmatch(r"[+-]?\d{1,6}(\.\d{1,6})?", text):
        raise UsageError(f"'{text}': give parts per million such as 50 or -0.5")
    return float(text)
