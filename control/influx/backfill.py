"""``./testbed influx backfill RUN``: compares InfluxDB with the spools of a whole run again, and analyses it again."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
from rich.console import Console

from control.errors import CheckFailed, UsageError
from control.influx.connection import DEFAULT, load_connection
from control.namespace import enter_namespace
from control.playbooks import control_namespace
from control.project import inventory_directory, shown_path
from control.report import make_report
from control.rundir import RunDirectory
from control.runs import find_run

__all__ = ["add_parser"]

_SHOWN = 5


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to those of ``influx``."""
    parser = verbs.add_parser(
        "backfill",
        help="write what InfluxDB lacks of a run, and compare it with the run's spools",
        description="Write what InfluxDB lacks of a run from its spools, compare both, and analyse the run again.",
    )
    parser.add_argument("run_name", metavar="RUN", help="its name, a part of it, its directory, or 'last'")
    parser.add_argument(
        "--connection",
        type=Path,
        metavar="FILE",
        help=f"the server (the one deployed with the run's inventory, else {shown_path(DEFAULT)})",
    )
    parser.set_defaults(run=_backfill)


def _backfill(options: argparse.Namespace, console: Console) -> int:
    """Backfill every cell that has points; 1 for a verdict INVALID, CheckFailed if some cell is not equal now."""
    from control.influx.reconcile import reconcile_cell, spool_directories  # takes a second to import

    run = find_run(options.run_name)
    inventory = _read_inventory(run)
    connection = options.connection or _deployed(inventory) or DEFAULT
    load_connection(connection)
    if inventory:
        enter_namespace(control_namespace(inventory))
    unequal = []
    for cell in run.cells():
        directory = run.cell(cell.id)
        if not any(spool.is_dir() for spool in spool_directories(directory, cell).values()):
            console.print(f"{cell.id}: has no points", markup=False, soft_wrap=True)
            continue
        found = reconcile_cell(directory, connection)
        console.print(f"{cell.id}: {found}", markup=False, soft_wrap=True)
        for difference in found.differences[:_SHOWN]:
            console.print(f"  {difference}", markup=False, soft_wrap=True)
        if len(found.differences) > _SHOWN:
            console.print(f"  and more: {shown_path(directory / 'influxdb.json')}", markup=False, soft_wrap=True)
        if not found.equal:
            unequal.append(cell.id)
    code = make_report(run, console)
    if unequal:
        raise CheckFailed(f"InfluxDB does not hold what the spools hold of {', '.join(unequal)}")
    return code


def _read_inventory(run: RunDirectory) -> str:
    """Return the name of the inventory that a run was made on, if that is still here."""
    try:
        name = str(msgspec.json.decode((run.path / "inventory.json").read_bytes())["name"])
        inventory_directory(name)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, UsageError):
        return ""
    return name


def _deployed(inventory: str) -> Path | None:
    """Return the connection file of the server that was deployed with an inventory, if there is one."""
    path = DEFAULT.with_name(f"{inventory}.json")
    return path if inventory and path.exists() else None
