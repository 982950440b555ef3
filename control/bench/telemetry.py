"""``bench telemetry``: what telemetry costs a validator, and whether a server's outage costs points."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from control.bench.load import run_summary
from control.bench.local_run import LocalRun, local_run
from control.bench.resources import ResourceSampler
from control.cells import Cell
from control.errors import CheckFailed
from control.influx.binary import find_binary
from control.influx.columns import read_spool
from control.influx.comparison import compare
from control.influx.connection import Connection, load_connection
from control.influx.process import InfluxProcess
from control.influx.provision import provision
from control.influx.store import Store
from control.influx.wish import Wish
from control.live import shown_seconds
from control.local_cluster import LocalCluster, Variant
from control.project import ROOT, shown_path

__all__ = ["assign_roles", "bench_telemetry", "compute_shares"]

Role = Literal["silent", "spool", "streaming"]
_DESCRIPTIONS: dict[Role, str] = {
    "silent": "without telemetry",
    "spool": "writing the spool",
    "streaming": "and streaming it",
}
ROLES: tuple[Role, ...] = tuple(_DESCRIPTIONS)
WARMUP_S = 5.0
_SILENT = Path(__file__).with_name("silent_node.py")


def bench_telemetry(console: Console, rate: float, seconds: float, outage_s: float, version: int | None) -> None:
    """Print the share of CPU that telemetry has, side by side with validators that have none; then cut the server off.

    CheckFailed if there is no InfluxDB server to stream to, a cell fails, or points are lost.
    """
    spec: dict[str, Any] = {
        "name": "bench-telemetry",
        "validators": 2 * len(ROLES),
        "block_bytes": "128K",
        "transaction_bytes": "1K",
        "workload": {"kind": "rate", "rate": rate, "duration_s": seconds, "warmup_s": WARMUP_S},
        "repeats": len(ROLES) + 1,
    }
    with _server(version) as (server, connection), local_run(spec) as local:
        console.print(f"InfluxDB {connection.version}, a process of this machine too; {rate:g} /s, all of them traced")
        *measured, last = local.run.cells()
        turns = []
        for turn, cell in enumerate(measured):
            console.print(f"{cell.id}: {shown_seconds(seconds)} …")
            turns.append(_measure(local, cell, turn, connection))
        _print_shares(console, turns)
        console.print(f"{last.id}: {shown_seconds(seconds)}, the server killed for {shown_seconds(outage_s)} …")
        lost, points = _cut_off(local, last, server, connection, seconds, outage_s)
        console.print(f"{lost} of {points} points lost across the outage, before anything is backfilled")
        console.print("  reach: 0")
        console.print(f"run: {shown_path(local.run.path)}")
    if lost:
        raise CheckFailed(f"{lost} points did not arrive")


def assign_roles(names: list[str], turn: int) -> dict[str, Role]:
    """Give every role to a third of the validators; over three turns each validator has had every role."""
    return {name: ROLES[(index + turn) % len(ROLES)] for index, name in enumerate(names)}


def compute_shares(turns: list[dict[Role, list[float]]]) -> dict[Role, float]:
    """Return which share of a validator's CPU its role costs, 1 - silent / role: the median of all turns.

    Only validators of one turn, which did the same at the same time, are compared with each other.
    """
    return {
        role: statistics.median(1 - statistics.mean(turn["silent"]) / statistics.mean(turn[role]) for turn in turns)
        for role in ROLES
        if role != "silent"
    }


def _measure(local: LocalRun, cell: Cell, turn: int, connection: Connection) -> dict[Role, list[float]]:
    """Run one cell; the CPU seconds of each role's validators for each second of load."""
    roles = assign_roles(list(cell.validators), turn)
    variants: dict[Role, Variant] = {
        "silent": Variant(program=_SILENT),
        "spool": Variant(),
        "streaming": _streaming(local, connection),
    }
    local.cluster.variants = {name: variants[role] for name, role in roles.items()}
    sampler = ResourceSampler()
    summary = run_summary(local.run_cell(cell, sampler))
    span = (summary.measured_to_ns - summary.measured_from_ns) / 1e9
    used: dict[Role, list[float]] = {role: [] for role in ROLES}
    for name, cpu_s in sampler.cpu_between(summary.measured_from_ns, summary.measured_to_ns).items():
        used[roles[name]].append(cpu_s / span)
    return used


def _print_shares(console: Console, turns: list[dict[Role, list[float]]]) -> None:
    shares = compute_shares(turns)
    for role, what in _DESCRIPTIONS.items():
        samples = [sample for turn in turns for sample in turn[role]]
        spread = f"{min(samples) * 100:.2f} to {max(samples) * 100:.2f}"
        share = f", of which telemetry {shares[role] * 100:.1f} %" if role in shares else ""
        console.print(
            f"  {what}: {statistics.median(samples) * 100:.2f} % of a core (median of {len(samples)}, {spread}){share}"
        )
    console.print("  reach: < 5 % of a validator's CPU")


def _cut_off(
    local: LocalRun, cell: Cell, server: InfluxProcess, connection: Connection, seconds: float, outage_s: float
) -> tuple[int, int]:
    """Run a cell whose validators all stream, and kill the server meanwhile; lost points, and all."""
    local.cluster.variants = dict.fromkeys(cell.validators, _streaming(local, connection))

    async def outage(cluster: LocalCluster) -> None:
        await asyncio.sleep(WARMUP_S + seconds / 3)
        await asyncio.to_thread(server.kill)
        try:
            await asyncio.sleep(outage_s)
        finally:
            await asyncio.to_thread(server.start)

    local.run_cell(cell, outage)
    server.start()
    lost = points = 0
    with Store(connection) as store:
        for name in cell.validators:
            spool = read_spool(local.run.cell(cell.id) / "nodes" / name / "spool", cell.run, cell.id, name)
            points += spool.count_points()[0]
            found = store.read(cell.run, cell.id, name, lambda columns, spool=spool: compare(spool, columns))  # type: ignore[misc]
            lost += sum(times.size for times in found.wanted().values())
    return lost, points


def _streaming(local: LocalRun, connection: Connection) -> Variant:
    token_file = local.cluster.root / "influx.token"
    token_file.touch(mode=0o600)
    token_file.write_text(connection.write_token)
    server = f'url = "{connection.url}"\norg = "{connection.org}"\nbucket = "{connection.bucket}"\n'
    return Variant(sections=f'[influx]\n{server}token_file = "{token_file}"\n')


@contextmanager
def _server(version: int | None) -> Iterator[tuple[InfluxProcess, Connection]]:
    """A server of its own, gone afterwards."""
    found = find_binary(version)
    if found is None:
        raise CheckFailed("there is no InfluxDB server to stream to; `./testbed influx build` makes one")
    binary, major = found
    place = ROOT / ".cache" / "bench"
    place.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(dir=place))
    server = InfluxProcess(home=home / "influxdb", binary=binary, major=major, auth=True)
    try:
        server.start()
        provision(Wish(url=server.url), home / "connection.json")
        yield server, load_connection(home / "connection.json")
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
