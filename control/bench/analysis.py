"""``bench analysis``: what it costs to analyse a run of a million points."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from control.bench.synthetic_run import make_synthetic_run
from control.errors import CheckFailed
from control.playbooks import ansible_environment
from control.project import ROOT

__all__ = ["bench_analysis", "run_analysis"]

_REACH_S, _REACH_MB = 20, 1500
"""For a million points."""
_COMMANDS = {"tables and verdict": (), "the same and the report": ("--report",)}


def bench_analysis(console: Console, points: int) -> None:
    """Make a run of about ``points`` points, analyse it in a process of its own, print seconds and peak memory."""
    place = ROOT / ".cache" / "bench"
    place.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(dir=place))
    try:
        run = make_synthetic_run(workspace / "20260101-000000-bench-analysis-000000", points)
        lines, size = _count(run.path)
        cells = ", ".join(f"{len(cell.validators)} validators" for cell in run.cells())
        console.print(f"{lines} points, {size / 1e6:.0f} MB of spools; cells of {cells}, each on a host of its own")
        table = Table("python -m analysis", "wall", "CPU", "peak RSS", box=None, pad_edge=False)
        for name, arguments in _COMMANDS.items():
            wall, cpu, rss = run_analysis(run.path, *arguments)
            table.add_row(name, f"{wall:.1f} s", f"{cpu:.1f} s", f"{rss / 1e6:.0f} MB")
        console.print(table)
        console.print(f"  reach: ≤ {_REACH_S} s and {_REACH_MB} MB for 1000000 points")
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def run_analysis(run: Path, *arguments: str) -> tuple[float, float, int]:
    """Analyse a run; return seconds, CPU seconds and peak resident bytes. CheckFailed with its output if it fails."""
    command = [sys.executable, "-m", "analysis", str(run), *arguments]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=ansible_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace")[-4000:]
            raise CheckFailed(f"the analysis ended with {process.returncode}:\n{said}")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def _count(run: Path) -> tuple[int, int]:
    """Lines and bytes of all spools."""
    contents = [path.read_bytes() for path in run.rglob("*.lp")]
    return sum(content.count(b"\n") for content in contents), sum(map(len, contents))
