"""``python -m analysis RUN_DIR``: print the tables and the verdict of a run, write verdict.json and tables.txt.

Exit code: 0 VALID or SUSPECT, 1 INVALID, 2 if the path is no run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from analysis.report import PLAIN_WIDTH, analyse, write_report
from analysis.run import NotARun, load
from analysis.verdict import Level

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Analyse a run: tables and verdict.")
    parser.add_argument("run_dir", type=Path, help="a directory under runs/")
    options = parser.parse_args(arguments)
    try:
        report = analyse(load(options.run_dir))
    except NotARun as error:
        print(f"analysis: {error}; choose one under runs/", file=sys.stderr)
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(*report.renderables(), sep="\n")
    try:
        write_report(report, options.run_dir)
    except OSError as error:
        print(f"analysis: the report could not be written: {error}", file=sys.stderr)
        return 1
    return 1 if report.verdict.level is Level.INVALID else 0


if __name__ == "__main__":
    sys.exit(main())
