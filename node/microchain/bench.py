"""What this board's cryptography and disk cost: medians, with the machine they were measured on."""

from __future__ import annotations

import hashlib
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil
from msgspec import Struct

from microchain.consensus.sortition import compute_units
from microchain.crypto.merkle import merkle_root
from microchain.crypto.pvss import PvssKey, Statement, add_shares, check_deal, check_reveal, recover_secret
from microchain.crypto.signatures import SCHEMES
from microchain.crypto.vrf import VrfKey, verify_proof

__all__ = ["Figure", "Report", "format_report", "run_bench"]

_MESSAGE = bytes(range(32))
_MEMBERS = 16
_CREDIT = 100
"""The committee, and the credit of each of its members, that a dynasty's randomness is measured for."""
_MINIMUM_REPEATS = 5


class Figure(Struct, frozen=True):
    """One operation: the median of ``repeats`` measurements, in microseconds."""

    name: str
    median_us: float
    repeats: int


class Report(Struct, frozen=True):
    """All figures, and the environment they hold for."""

    environment: dict[str, str]
    figures: list[Figure]


def run_bench(directory: Path, *, seconds: float) -> Report:
    """Measure each operation for about ``seconds``; the disk's in a temporary folder in ``directory``."""
    with tempfile.TemporaryDirectory(prefix="microchain-bench-", dir=directory) as folder:
        figures = [
            _measure(name, operation, seconds)
            for name, operation in (_crypto_operations() | _randomness_operations()).items()
        ]
        figures += _measure_disk(Path(folder), seconds)
    return Report(_describe_environment(directory), figures)


def format_report(report: Report) -> str:
    """Return the report as a table."""
    lines = [f"{key + ':':<12} {value}" for key, value in report.environment.items()]
    lines += ["", f"{'operation':<32} {'median':>14} {'repeats':>8}"]
    lines += [f"{f.name:<32} {f.median_us:>11,.1f} µs {f.repeats:>8}" for f in report.figures]
    return "\n".join(lines)


def _crypto_operations() -> dict[str, Callable[[], object]]:
    operations: dict[str, Callable[[], object]] = {}
    for scheme in SCHEMES.values():
        key = scheme.generate()
        signature = key.sign(_MESSAGE)
        operations[f"{scheme.name} sign"] = partial(key.sign, _MESSAGE)
        operations[f"{scheme.name} verify"] = partial(scheme.verify, key.public_key, _MESSAGE, signature)
    small, large = os.urandom(1024), os.urandom(2 << 20)
    leaves = [small] * 2048
    vrf = VrfKey(os.urandom(32))
    proof, _ = vrf.prove(_MESSAGE)
    return operations | {
        "SHA-256 of 1 KB": partial(hashlib.sha256, small),
        "SHA-256 of 2 MB": partial(hashlib.sha256, large),
        "Merkle root of 2048 leaves of 1 KB": partial(merkle_root, leaves),
        "ECVRF prove": partial(vrf.prove, _MESSAGE),
        "ECVRF verify": partial(verify_proof, vrf.public_key, _MESSAGE, proof),
    }


def _randomness_operations() -> dict[str, Callable[[], object]]:
    """RandShare and sortition, each step alone and all that one member computes in a dynasty."""
    keys = [PvssKey(os.urandom(32)) for _ in range(_MEMBERS)]
    statement = Statement(_MESSAGE, tuple(key.public_key for key in keys), _MEMBERS // 2 + 1)
    deal = keys[0].deal(statement)
    reveals = [key.reveal(_MESSAGE, share) for key, share in zip(keys, deal.encrypted, strict=True)]
    shares = {number: reveal.share for number, reveal in enumerate(reveals, 1)}
    vrf = VrfKey(os.urandom(32))
    proof, output = vrf.prove(_MESSAGE)
    add = partial(add_shares.__wrapped__, deal.encrypted, deal.encrypted)  # without its memory of earlier sums
    own = (
        partial(keys[0].deal, statement),
        partial(keys[0].reveal, _MESSAGE, deal.encrypted[0]),
        partial(recover_secret, shares, statement.threshold),
        partial(vrf.prove, _MESSAGE),
    )
    of_each = (
        partial(check_deal, statement, deal),
        add,
        partial(check_reveal, _MESSAGE, keys[0].public_key, deal.encrypted[0], reveals[0]),
        partial(verify_proof, vrf.public_key, _MESSAGE, proof),
        partial(compute_units, output, _CREDIT, _MEMBERS * _CREDIT, _MEMBERS),
    )

    def dynasty() -> None:
        for step in (*own, *of_each * _MEMBERS):
            step()

    return {
        f"PVSS deal to {_MEMBERS}": own[0],
        f"PVSS check a deal to {_MEMBERS}": of_each[0],
        f"PVSS add a deal to {_MEMBERS}": add,
        "PVSS decrypt a share": own[1],
        "PVSS check a share": of_each[2],
        f"PVSS recover from {statement.threshold}": own[2],
        f"sortition of {_CREDIT} in {_MEMBERS * _CREDIT} units": of_each[4],
        f"one dynasty, member of {_MEMBERS}": dynasty,
    }


def _measure_disk(folder: Path, seconds: float) -> list[Figure]:
    page, block = os.urandom(4096), os.urandom(2 << 20)
    database = sqlite3.connect(folder / "bench.db", isolation_level=None)
    try:
        database.execute("PRAGMA page_size = 16384")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE vote (raw BLOB)")
        commit = _measure(
            "SQLite commit, FULL", partial(database.execute, "INSERT INTO vote VALUES (?)", (page[:600],)), seconds
        )
    finally:
        database.close()
    with (folder / "bench.bin").open("wb", buffering=0) as file:

        def write(data: bytes) -> None:
            file.seek(0)
            file.write(data)
            os.fsync(file.fileno())

        return [
            commit,
            _measure("write 4 KB and fsync", partial(write, page), seconds),
            _measure("write 2 MB and fsync", partial(write, block), seconds),
        ]


def _measure(name: str, operation: Callable[[], object], seconds: float) -> Figure:
    operation()
    samples: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while len(samples) < _MINIMUM_REPEATS or time.perf_counter_ns() < end:
        start = time.perf_counter_ns()
        operation()
        samples.append(time.perf_counter_ns() - start)
    return Figure(name, statistics.median(samples) / 1000, len(samples))


def _describe_environment(directory: Path) -> dict[str, str]:
    target = directory.resolve()
    mounts = [p for p in psutil.disk_partitions(all=True) if target.is_relative_to(p.mountpoint)]
    file_system = max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"
    return {
        "machine": f"{_processor_name()}, {os.cpu_count()} CPUs, {psutil.virtual_memory().total >> 20} MB",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "disk": f"{target} ({file_system})",
        "python": platform.python_version(),
        "libraries": ", ".join(
            [*(f"{name} {version(name)}" for name in ("cryptography", "PyNaCl")), f"SQLite {sqlite3.sqlite_version}"]
        ),
    }


def _processor_name() -> str:
    """The board's name where it says one (ARM), else the processor's."""
    board = Path("/proc/device-tree/model")
    if board.exists():
        return board.read_text(errors="replace").rstrip("\x00")
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
