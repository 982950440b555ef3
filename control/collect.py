"""``python -m control.collect --cell DIR``: takes what the hosts sent for a cell into the run directory, and seals it.

What hosts send is read as from strangers: regular files of known names, up to a size. A cell that failed keeps what
could be had of it, and stays open, so that the run can be continued.

With ``--influxdb FILE`` InfluxDB is given what it lacks of the cell's points, and compared. That fails no cell.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tarfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from control.cells import Cell
from control.errors import ControlError
from control.progress import Progress
from control.rundir import RunDirectory, read_cell, write_json

__all__ = ["CollectError", "collect_cell", "compare_cell", "main"]

_COMPARING_S = 2.0
"""How often a long comparison is reported."""

MAX_FILE = 1 << 30
MAX_FILES = 512
_KNOWN = re.compile(
    r"config\.toml|digest\.json|node\.log(\.1)?|shipper\.json|rejected\.lp|spool/[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
)


class CollectError(ControlError):
    """What a host sent can't be used; the message says why."""


def collect_cell(directory: Path, archives: Sequence[Path], failure: str = "") -> bool:
    """Unpack the archives to ``nodes/NAME`` and seal the cell if it was completed; return whether it is sealed.

    ``failure`` is what went wrong before or beside the conductor. An archive that holds what none of ours does is
    refused, and the cell with it. Archives are removed when their content is safe.
    """
    cell = read_cell(directory)
    run = RunDirectory(directory.parent.parent)
    draft = directory / ".nodes"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        for archive in archives:
            _unpack(archive, draft, cell)
    except CollectError as error:
        failure = "; ".join(filter(None, (failure, str(error))))
    nodes = directory / "nodes"
    if any(draft.iterdir()) or not nodes.exists():
        shutil.rmtree(nodes, ignore_errors=True)
        draft.rename(nodes)
    shutil.rmtree(directory / "collected", ignore_errors=True)
    lacking = [name for name in cell.validators if not (nodes / name / "digest.json").exists()]
    message = f"no ledger digest of {', '.join(lacking)}" if lacking else ""
    done = len(cell.validators) - len(lacking)
    run.report(Progress(cell=cell.id, phase="collected", done=done, total=len(cell.validators), message=message))
    if failure or message or not _is_complete(directory):
        _record_failure(run, cell, directory, failure or message)
        return False
    (directory / "sealed").write_text(f"{datetime.now(UTC).isoformat(timespec='seconds')}\n", encoding="ascii")
    run.report(Progress(cell=cell.id, phase="sealed"))
    return True


def compare_cell(directory: Path, connection_file: Path) -> None:
    """Compare InfluxDB with the cell's spools, backfill it, and report what came of it."""
    from control.influx.reconcile import reconcile_cell  # takes a second to import, and only some runs use InfluxDB

    cell = read_cell(directory)
    run = RunDirectory(directory.parent.parent)
    reported = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= _COMPARING_S:
            reported = time.monotonic()
            run.report(Progress(cell=cell.id, phase="comparing", done=done, total=total))

    found = reconcile_cell(directory, connection_file, report)
    run.report(Progress(cell=cell.id, phase="compared", message=str(found)))


def _unpack(path: Path, target: Path, cell: Cell) -> None:
    try:
        with tarfile.open(path, "r:gz") as archive:
            for number, member in enumerate(archive, 1):
                if number > MAX_FILES:
                    raise CollectError(f"{path.name} holds more than {MAX_FILES} files")
                if member.isdir():
                    continue
                place = PurePosixPath(member.name)
                inner = str(PurePosixPath(*place.parts[1:]))
                if place.parts[0] not in cell.validators or not _KNOWN.fullmatch(inner) or not member.isreg():
                    raise CollectError(f"{path.name} holds {member.name!r}, which no archive of a cell has")
                if member.size > MAX_FILE:
                    raise CollectError(f"{path.name}: {member.name} has {member.size} bytes, {MAX_FILE} are the limit")
                source = archive.extractfile(member)
                if source is not None:
                    _write(target / member.name, source)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CollectError(f"{path.name} can't be unpacked: {error}") from None


def _write(path: Path, source: IO[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def _is_complete(directory: Path) -> bool:
    """Whether the conductor said that the cell was done."""
    return _read_outcome(directory).get("status") == "ok"


def _read_outcome(directory: Path) -> dict[str, object]:
    try:
        return msgspec.json.decode((directory / "outcome.json").read_bytes(), type=dict[str, object])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def _record_failure(run: RunDirectory, cell: Cell, directory: Path, failure: str) -> None:
    """Say in outcome.json and in the progress what went wrong, unless the conductor has said so."""
    outcome = _read_outcome(directory)
    if outcome.get("status") == "failed":
        return
    message = failure or "the conductor left no outcome; see conductor.log"
    write_json(directory / "outcome.json", {"cell": cell.id, **outcome, "status": "failed", "message": message})
    run.report(Progress(cell=cell.id, phase="failed", message=message))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.collect", description=__doc__)
    parser.add_argument("--cell", type=Path, required=True, help="the cell's directory in the run directory")
    parser.add_argument("--failure", default="", help="what went wrong with the cell")
    parser.add_argument("--influxdb", type=Path, metavar="FILE", help="connection file of the server to compare with")
    options = parser.parse_args(arguments)
    directory = options.cell.resolve()
    try:
        sealed = collect_cell(directory, sorted((directory / "collected").glob("*.tar.gz")), options.failure)
        if options.influxdb is not None:
            compare_cell(directory, options.influxdb)
    except ControlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("sealed" if sealed else "open")
    return 0


if __name__ == "__main__":
    sys.exit(main())
