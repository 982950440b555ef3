"""``./testbed bench VERB``: arguments and dispatch."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

from rich.console import Console

from control.bench.analysis import bench_analysis
from control.bench.load import bench_latency, bench_memory, bench_throughput
from control.bench.rounds import bench_rounds
from control.environment import environment_line
from control.errors import CheckFailed
from control.playbooks import ansible_environment
from control.project import ROOT

__all__ = ["add_parser"]

_Bench = Callable[[argparse.Namespace, Console], None]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``bench`` and its own verbs."""
    bench = commands.add_parser("bench", help="measure this machine", description="Measure this machine.")
    verbs = bench.add_subparsers(metavar="VERB", required=True)

    rounds = verbs.add_parser("rounds", help="T_ct, T_bp, T_cf of 128 KB rounds with 4 and 16 validators")
    rounds.add_argument("--validators", type=int, nargs="+", default=[4, 16], metavar="K")
    rounds.add_argument("--rounds", type=int, default=40)
    _set(rounds, lambda o, c: bench_rounds(c, o.validators, o.rounds))

    throughput = verbs.add_parser("throughput", help="finalized transactions a second, and their CPU")
    throughput.add_argument("--rate", type=float, default=2500.0, help="offered a second (2500)")
    throughput.add_argument("--seconds", type=float, default=60.0)
    throughput.add_argument("--validators", type=int, default=5, metavar="K")
    _set(throughput, lambda o, c: bench_throughput(c, o.rate, o.seconds, o.validators))

    latency = verbs.add_parser("latency", help="submission to finality under a light load")
    latency.add_argument("--rate", type=float, default=100.0, help="offered a second (100)")
    latency.add_argument("--seconds", type=float, default=60.0)
    latency.add_argument("--validators", type=int, default=5, metavar="K")
    _set(latency, lambda o, c: bench_latency(c, o.rate, o.seconds, o.validators))

    memory = verbs.add_parser("memory", help="resident memory of validators over time")
    memory.add_argument("--minutes", type=float, default=60.0)
    memory.add_argument("--rate", type=float, default=100.0, help="offered a second (100)")
    memory.add_argument("--block", default="128K", help="block size (128K)")
    memory.add_argument("--validators", type=int, default=4, metavar="K")
    _set(memory, lambda o, c: bench_memory(c, o.minutes, o.rate, o.block, o.validators))

    analysis = verbs.add_parser("analysis", help="seconds and memory to analyse a run of a million points")
    analysis.add_argument("--points", type=int, default=1_000_000, metavar="N", help="about so many (1000000)")
    _set(analysis, lambda o, c: bench_analysis(c, o.points))

    recovery = verbs.add_parser("recovery", help="how soon the simulator's schedules recover: p50 and p95")
    recovery.add_argument("--seeds", default="0:200", metavar="FIRST:END")
    recovery.add_argument("--jobs", type=int, default=2)
    _set(recovery, lambda o, c: _run("microchain.simulator", "--seeds", o.seeds, "--jobs", str(o.jobs)))

    telemetry = verbs.add_parser("telemetry", help="CPU that telemetry costs, and points lost across an outage")
    telemetry.add_argument("--rate", type=float, default=100.0, help="offered a second (100)")
    telemetry.add_argument("--seconds", type=float, default=60.0, help="of each of four cells (60)")
    telemetry.add_argument("--outage", type=float, default=10.0, metavar="S", help="how long the server is gone (10)")
    telemetry.add_argument("--version", type=int, choices=(1, 2), help="of the InfluxDB server")
    _set(telemetry, lambda o, c: _bench_telemetry(c, o))

    crypto = verbs.add_parser("crypto", help="cryptography, fsync and disk of this machine")
    _set(crypto, lambda o, c: _run("microchain.cli", "bench", "--directory", str(ROOT / ".cache")))


def _set(parser: argparse.ArgumentParser, run: _Bench) -> None:
    parser.set_defaults(run=lambda options, console: _run_bench(run, options, console))


def _run_bench(run: _Bench, options: argparse.Namespace, console: Console) -> int:
    console.print(environment_line(), markup=False, soft_wrap=True)
    run(options, console)
    return 0


def _bench_telemetry(console: Console, options: argparse.Namespace) -> None:
    from control.bench.telemetry import bench_telemetry  # the libraries that read InfluxDB are slow to load

    bench_telemetry(console, options.rate, options.seconds, options.outage, options.version)


def _run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    code = subprocess.run(command, cwd=ROOT, env=ansible_environment(), check=False).returncode
    if code:
        raise CheckFailed(f"{module} ended with {code}")
