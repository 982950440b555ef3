"""``python -m analysis RUN_DIR``: print the tables and the verdict of a run, write verdict.json and tables.txt.

With ``--report`` there is also ``report.html``, and figures and tables as files in ``report/``. With ``--source
influxdb`` and no report nothing is written. Exit code: 0 VALID or SUSPECT, 1 INVALID, 2 if the path is no run or the
source can't be read, 3 if there is a verdict (not INVALID) but the report could not be made.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from rich.console import Console

from analysis.report import PLAIN_WIDTH, Report, analyse, write_report
from analysis.run import NotARun, Run, load
from analysis.sources import SOURCES, SourceError
from analysis.verdict import Level

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Analyse a run: tables and verdict.")
    parser.add_argument("run_dir", type=Path, help="a directory under runs/")
    parser.add_argument("--report", action="store_true", help="write report.html, and report/ with figures and tables")
    parser.add_argument("--source", choices=SOURCES, default="spools", help="where the points are read from (spools)")
    parser.add_argument("--connection", type=Path, metavar="FILE", help="connection file of the InfluxDB server")
    options = parser.parse_args(arguments)
    try:
        run = load(options.run_dir, source=options.source, connection=options.connection)
        report = analyse(run)
    except NotARun as error:
        print(f"analysis: {error}; choose one under runs/", file=sys.stderr)
        return 2
    except SourceError as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(*report.renderables(), sep="\n")
    if run.source != "spools" and not options.report:  # the run's files are those of its record, the spools
        return 1 if report.verdict.level is Level.INVALID else 0
    try:
        write_report(report, options.run_dir)
    except OSError as error:
        print(f"analysis: the verdict could not be written: {error}", file=sys.stderr)
        return 1
    made = not options.report or _make_report(run, report)
    if report.verdict.level is not Level.INVALID and not made:
        return 3
    return 1 if report.verdict.level is Level.INVALID else 0


def _make_report(run: Run, report: Report) -> bool:
    """Write the report; whatever goes wrong in it, the verdict stands."""
    try:
        # Imported here: drawing costs a second, which an analysis without a report need not spend.
        from analysis.html import make_report

        print(f"report: {make_report(run, report)}")
    except Exception:
        traceback.print_exc()
        print("analysis: the report could not be made; the verdict and the tables stand", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
