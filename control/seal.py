"""``python -m control.seal RUN_DIR``: closes a run with checksums of everything raw, or checks those that are there.

Verdict, figures and tables are derived from the raw data and may be made again by a later analysis; Ansible's log is
written until after the seal; InfluxDB may be compared again. These are not in the checksums.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from control.errors import CheckFailed, ControlError
from control.progress import Progress
from control.rundir import ANSIBLE_LOG, RunDirectory, file_digest

__all__ = ["check_seal", "main", "seal"]

_NOT_SEALED = {"SHA256SUMS", "verdict.json", "figures.json", "tables.txt", "report.html", ANSIBLE_LOG}
_NOT_SEALED_OF_CELLS = "cells/*/influxdb.json"
_NOT_SEALED_FOLDERS = ("report", ".report.new")
_SHOWN = 10


def seal(run: RunDirectory) -> int:
    """Write ``SHA256SUMS`` and return how many files it lists; a run that has it already is checked instead."""
    cells = run.cells()
    if run.checksums.exists():
        return check_seal(run)
    done = sum(run.is_cell_sealed(cell.id) for cell in cells)
    run.report(Progress(phase="sealed", done=done, total=len(cells)))
    files = _raw_files(run)
    lines = [f"{file_digest(run.path / file)}  {file}\n" for file in files]
    temporary = run.checksums.with_name(".SHA256SUMS")
    temporary.write_text("".join(lines))
    temporary.replace(run.checksums)
    return len(files)


def check_seal(run: RunDirectory) -> int:
    """Return how many files are as they were sealed; CheckFailed names those that changed, went or came."""
    try:
        lines = run.checksums.read_text().splitlines()
        sealed = {file: digest for digest, _, file in (line.partition("  ") for line in lines)}
    except (OSError, UnicodeDecodeError) as error:
        raise CheckFailed(f"{run.path} is not sealed: {error}") from None
    there = _raw_files(run)
    wrong = [f"{file} is missing" for file in sealed if file not in there]
    wrong += [f"{file} was added" for file in there if file not in sealed]
    both = [file for file in there if file in sealed]
    wrong += [f"{file} was changed" for file in both if file_digest(run.path / file) != sealed[file]]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise CheckFailed(f"{run.path} is not as it was sealed: {'; '.join(wrong[:_SHOWN])}{more}")
    return len(sealed)


def _raw_files(run: RunDirectory) -> list[str]:
    """Return the sealed files' paths in the run directory, in order; links are not followed."""
    found = []
    for path in run.path.rglob("*"):
        file = path.relative_to(run.path).as_posix()
        derived = file in _NOT_SEALED or PurePosixPath(file).match(_NOT_SEALED_OF_CELLS)
        derived = derived or file.startswith(tuple(f"{folder}/" for folder in _NOT_SEALED_FOLDERS))
        if path.is_file() and not path.is_symlink() and not derived:
            found.append(file)
    return sorted(found)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.seal", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    options = parser.parse_args(arguments)
    try:
        count = seal(RunDirectory(options.run_dir))
    except ControlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{options.run_dir}: {count} files sealed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
