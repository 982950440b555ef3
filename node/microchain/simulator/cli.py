"""The simulator's command line: thousands of schedules, or one told in full."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from multiprocessing import get_context
from statistics import quantiles

from microchain.simulator.scenario import EngineName, create_scenario
from microchain.simulator.simulation import Report, Simulation, run_scenario

__all__ = ["main", "summarize"]


def _parse_seeds(text: str) -> range:
    first, _, last = text.partition(":")
    try:
        seeds = range(int(first), int(last)) if last else range(int(first))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range of seeds; write 0:5000 or 200") from None
    if not seeds:
        raise argparse.ArgumentTypeError(f"{text!r} contains no seed; write FIRST:END with FIRST < END")
    return seeds


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seeds", type=_parse_seeds, default=range(200), help="FIRST:END, without END; default 0:200")
    which.add_argument("--seed", type=int, help="run this one and print its report")
    parser.add_argument("--engine", choices=("microchain", "pbft"), default="microchain", help="default microchain")
    parser.add_argument("--nodes", type=int, help="members of each committee; default: by seed, 4 to 10")
    parser.add_argument("--jobs", type=int, default=1, help="processes; default 1")
    parser.add_argument("--trace", action="store_true", help="with --seed: print every event and action")
    return parser


def _run_one(arguments: tuple[int, int | None, EngineName]) -> Report:
    return run_scenario(*arguments)


def _print_report(report: Report) -> None:
    print(f"seed {report.seed}: {report.description}")
    print(
        f"  {report.virtual_s:.1f} s virtual, {report.cpu_s:.2f} s of CPU, {report.events} events, "
        f"{report.messages} messages, height {report.height}, {report.dynasties} dynasties, trace {report.trace}"
    )
    print(
        f"  transactions: {report.acknowledged} acknowledged, {report.finalized} finalized, {report.expired} expired, "
        f"{report.excused} lost with their entry node's crash"
    )
    for violation in report.violations:
        print(f"  VIOLATION {violation}")
    if report.stall:
        print(f"  STALL {report.stall}")
    if report.recovery_s is not None:
        print(f"  recovered {report.recovery_s:.2f} s after healing")


def _run_verbosely(seed: int, nodes: int | None, engine: EngineName, trace: bool) -> int:
    simulation = Simulation(create_scenario(seed, nodes, engine))
    if trace:
        simulation.world.narrate = print
        for fault in simulation.scenario.faults:
            print(fault)
    report = simulation.run()
    _print_report(report)
    return 0 if report.is_good else 1


def _collect(results: Iterable[Report], total: int, options: str) -> list[Report]:
    reports: list[Report] = []
    for report in results:
        reports.append(report)
        if not report.is_good:
            print(f"\r{'':60}\r", end="")
            _print_report(report)
            print(f"  replay: python -m microchain.simulator --seed {report.seed}{options} --trace")
        if sys.stdout.isatty() or len(reports) % 100 == 0 or len(reports) == total:
            end = "" if sys.stdout.isatty() else "\n"
            print(f"\r{len(reports)}/{total} schedules, {sum(not r.is_good for r in reports)} bad", end=end, flush=True)
    print()
    return reports


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def summarize(reports: list[Report]) -> str:
    """Return the summary of many runs, as text."""
    recoveries = sorted(r.recovery_s for r in reports if r.recovery_s is not None)
    virtual, cpu = sum(r.virtual_s for r in reports), sum(r.cpu_s for r in reports)
    lines = [
        f"schedules   {len(reports)}",
        f"violations  {sum(bool(r.violations) for r in reports)}",
        f"stalls      {sum(bool(r.stall) for r in reports)}",
    ]
    if recoveries:
        shown = ", ".join(f"p{p} {_percentile(recoveries, p):.1f} s" for p in (50, 95))
        lines.append(f"recovery    {shown}, max {recoveries[-1]:.1f} s (virtual; healing to new finality everywhere)")
    lines.append(
        f"time        {virtual:.0f} s virtual in {cpu:.0f} s of CPU: {virtual / cpu:.0f} x real time on one core"
    )
    lines.append(f"work        {sum(r.events for r in reports)} events, {sum(r.messages for r in reports)} messages")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 0 if all went well, 1 if any run broke a rule or stalled."""
    options = _create_parser().parse_args(arguments)
    if options.seed is not None:
        return _run_verbosely(options.seed, options.nodes, options.engine, options.trace)
    tasks = [(seed, options.nodes, options.engine) for seed in options.seeds]
    shown = f" --nodes {options.nodes}" if options.nodes else ""
    shown += f" --engine {options.engine}" if options.engine != "microchain" else ""
    if options.jobs > 1:
        with get_context("spawn").Pool(options.jobs) as pool:
            reports = _collect(pool.imap_unordered(_run_one, tasks, chunksize=4), len(tasks), shown)
    else:
        reports = _collect(map(_run_one, tasks), len(tasks), shown)
    print(summarize(reports))
    return 0 if all(report.is_good for report in reports) else 1
