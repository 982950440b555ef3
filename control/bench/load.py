"""``bench throughput``, ``bench latency`` and ``bench memory``: open loops on processes of this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from microchain.crypto.signatures import get_scheme
from rich.console import Console

from control.bench.local_run import local_run
from control.bench.resources import ResourceSampler, Usage
from control.conductor.run import Outcome
from control.conductor.summary import RateSummary
from control.errors import CheckFailed
from control.live import shown_seconds
from control.project import shown_path

__all__ = [
    "bench_latency",
    "bench_memory",
    "bench_throughput",
    "describe_growth",
    "measure_signature_check",
    "run_summary",
]

_MB = 1 << 20
_FLAT_MB_PER_HOUR = 2.0
"""Growth beyond this counts as not flat."""


def bench_throughput(console: Console, rate: float, seconds: float, validators: int) -> None:
    """Offer ``rate`` and print what was final each second, and its CPU as a multiple of a signature check."""
    sampler = ResourceSampler()
    check_us = measure_signature_check()
    outcome = _run_load(console, "bench-throughput", validators, "2M", rate, seconds, sampler)
    summary = run_summary(outcome)
    used = sampler.cpu_between(summary.measured_from_ns, summary.measured_to_ns)
    each_us = statistics.mean(used.values()) / summary.finalized_in_window * 1e6 if summary.finalized_in_window else 0.0
    reached = f"{summary.finalized_per_s:.0f} /s of {rate:g} /s offered, over {seconds:g} s"
    console.print(f"finalized on all {validators}: {reached}")
    console.print("  reach: ≥ 2000 /s for 60 s; then 5000")
    if each_us:
        console.print(
            f"CPU of one validator for each: {each_us:.0f} µs = {each_us / check_us:.1f} signature checks "
            f"(RSA-2048, {check_us:.1f} µs each, this machine, this run)"
        )
        console.print("  reach: ≤ 100 µs, then 60")
    _print_load(console, summary, sampler)


def bench_latency(console: Console, rate: float, seconds: float, validators: int) -> None:
    """Offer a light load evenly and print the time from the scheduled moment to finality."""
    sampler = ResourceSampler()
    outcome = _run_load(console, "bench-latency", validators, "2M", rate, seconds, sampler)
    summary = run_summary(outcome)
    console.print(f"{validators} validators, {rate:g} /s offered evenly for {seconds:g} s, submission to finality:")
    console.print(f"  on all validators p50 / p99: {_ms(summary.all_p50_ms)} / {_ms(summary.all_p99_ms)} ms")
    console.print(f"  on the first one  p50 / p99: {_ms(summary.first_p50_ms)} / {_ms(summary.first_p99_ms)} ms")
    console.print("  reach: ≤ 100 / 300 ms")
    _print_load(console, summary, sampler)


def bench_memory(console: Console, minutes: float, rate: float, block: str, validators: int) -> None:
    """Offer a light load for long and print how the resident memory of each validator developed."""
    sampler = ResourceSampler(interval_s=5.0)
    outcome = _run_load(console, "bench-memory", validators, block, rate, minutes * 60, sampler)
    summary = run_summary(outcome)
    console.print(f"{validators} validators, {block} blocks, {rate:g} /s for {shown_seconds(minutes * 60)}:")
    for name, samples in sampler.usage.items():
        measured = [s for s in samples if s.at >= summary.measured_from_ns]
        if len(measured) >= 2:
            console.print(f"  {name}: {describe_growth(measured)}")
    console.print("  reach: ≤ 64 MB with 128 KB blocks, ≤ 96 MB with 4 MB blocks after an hour, flat")
    _print_load(console, summary, sampler)


def describe_growth(samples: Sequence[Usage]) -> str:
    """Return memory at five moments, the greatest, and the slope over the second half of the time."""
    moments = [samples[round(index * (len(samples) - 1) / 4)] for index in range(5)]
    series = " → ".join(f"{s.rss / _MB:.1f}" for s in moments)
    half = samples[len(samples) // 2 :]
    hours = [(s.at - half[0].at) / 3.6e12 for s in half]
    if len(half) < 2 or hours[-1] == 0:
        return f"{series} MB"
    slope = statistics.linear_regression(hours, [s.rss / _MB for s in half]).slope
    flat = "flat" if slope <= _FLAT_MB_PER_HOUR else "not flat"
    greatest = max(s.rss for s in samples) / _MB
    return f"{series} MB, at most {greatest:.1f}; second half {slope:+.1f} MB/h: {flat}"


def measure_signature_check(scheme: str = "rsa-2048", seconds: float = 0.5) -> float:
    """Return the median µs of one check of a signature over 32 bytes, one after the other in this process."""
    key, verify = get_scheme(scheme).generate(), get_scheme(scheme).verify
    message = bytes(32)
    signature, public_key = key.sign(message), key.public_key
    samples = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter_ns()
        for _ in range(20):
            verify(public_key, message, signature)
        samples.append((time.perf_counter_ns() - began) / 20_000)
    return statistics.median(samples)


def _run_load(
    console: Console, name: str, validators: int, block: str, rate: float, seconds: float, sampler: ResourceSampler
) -> Outcome:
    spec: dict[str, Any] = {
        "name": name,
        "validators": validators,
        "block_bytes": block,
        "transaction_bytes": "1K",
        "workload": {"kind": "rate", "rate": rate, "duration_s": seconds, "warmup_s": 5},
        "telemetry": {"sample": min(1.0, 20.0 / rate)},
    }
    with local_run(spec) as local:
        (cell,) = local.run.cells()
        console.print(f"{cell.id}: {rate:g} /s for {shown_seconds(seconds)} …")
        outcome = local.run_cell(cell, sampler)
        console.print(f"run: {shown_path(local.run.path)}")
        return outcome


def _print_load(console: Console, summary: RateSummary, sampler: ResourceSampler) -> None:
    greatest = max((s.rss for samples in sampler.usage.values() for s in samples), default=0)
    console.print(
        f"{summary.submitted} submitted, {summary.accepted} accepted, {summary.finalized} final on all, "
        f"{summary.retries} batches sent again; generator late by p99 {_ms(summary.lateness_p99_ms)} ms; "
        f"greatest RSS {greatest / _MB:.1f} MB"
    )


def run_summary(outcome: Outcome) -> RateSummary:
    """Return what became of a load; CheckFailed if there was none."""
    if not isinstance(outcome.summary, RateSummary):
        raise CheckFailed(f"{outcome.cell} reported no load")
    return outcome.summary


def _ms(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"
