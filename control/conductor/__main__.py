"""``python -m control.conductor --cell DIR --endpoints FILE``: runs one cell whose validators have been started.

Exit code 0 if the cell was completed and drained, 1 if it failed (the reason is printed and in outcome.json), 2 if the
arguments make no sense.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from control.cells import Cell
from control.conductor.run import Outcome, conduct
from control.errors import UsageError
from control.inventory import Deployment, read_deployment
from control.rundir import read_cell

READY_TIMEOUT_S = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.conductor", description=__doc__)
    parser.add_argument("--cell", type=Path, required=True, help="the cell's directory in the run directory")
    parser.add_argument("--endpoints", type=Path, required=True, help="endpoints.json of the deployment")
    parser.add_argument(
        "--ready-timeout", type=float, default=READY_TIMEOUT_S, metavar="S", help="seconds to wait until all are ready"
    )
    options = parser.parse_args(arguments)
    try:
        cell, deployment = read_cell(options.cell), read_deployment(options.endpoints)
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    logging.basicConfig(
        filename=options.cell / "conductor.log", level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    outcome = asyncio.run(_conduct(cell, options.cell.resolve(), deployment, options.ready_timeout))
    if outcome.status == "ok":
        print(f"{cell.id}: done in {outcome.seconds:.1f} s")
        return 0
    print(f"{cell.id}: failed: {outcome.message}", file=sys.stderr)
    return 1


async def _conduct(cell: Cell, directory: Path, deployment: Deployment, ready_timeout_s: float) -> Outcome:
    """Conduct in a task that SIGINT and SIGTERM cancel, so that an interrupted cell still has its outcome."""
    task = asyncio.create_task(conduct(cell, directory, deployment, ready_timeout_s=ready_timeout_s))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main())
