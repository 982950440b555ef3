"""``python -m control.genesis --cell DIR --endpoints FILE``: begins an attempt at a cell and writes its genesis.

The registry holds exactly the cell's validators and devices, from the bundles beside ``endpoints.json``. What an
earlier, failed attempt left is moved to ``attempts/N``; every attempt has a run id, hence a chain, of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from microchain.consensus.genesis import GenesisError, encode_genesis
from microchain.genesis_file import build_genesis
from microchain.keys import Bundle

from control.cells import Cell, compute_run_id
from control.errors import ControlError, UsageError
from control.inventory import Deployment, read_deployment
from control.progress import Progress
from control.rundir import RunDirectory, read_cell

__all__ = ["begin_attempt", "main", "write_genesis"]

_KEPT = {"cell.json", "attempts"}


def begin_attempt(directory: Path) -> int:
    """Move what an earlier attempt left out of the way; return this attempt's number, from 1."""
    attempts = directory / "attempts"
    left = [path for path in directory.iterdir() if path.name not in _KEPT]
    done = len(list(attempts.iterdir())) if attempts.is_dir() else 0
    if (directory / "sealed").exists():
        raise UsageError(f"{directory} is sealed: its cell is done and stays as it is")
    if left:
        done += 1
        target = attempts / str(done)
        target.mkdir(parents=True)
        for path in left:
            path.rename(target / path.name)
    return done + 1


def write_genesis(directory: Path, endpoints_file: Path) -> Path:
    """Begin an attempt and write ``genesis.json``; UsageError names a validator that is not deployed."""
    cell = read_cell(directory)
    deployment = read_deployment(endpoints_file)
    addresses = _find_addresses(cell, deployment)
    devices = [device.name for device in deployment.devices[: cell.devices]]
    bundles = [_read_bundle(endpoints_file.parent / "bundles" / f"{name}.json") for name in (*addresses, *devices)]
    attempt = begin_attempt(directory)
    try:
        genesis = build_genesis(cell.parameters, bundles, compute_run_id(cell.run, cell.id, attempt), addresses)
    except GenesisError as error:
        raise UsageError(f"cell {cell.id} has no genesis: {error}") from None
    path = directory / "genesis.json"
    path.write_bytes(encode_genesis(genesis))
    RunDirectory(directory.parent.parent).report(
        Progress(cell=cell.id, phase="genesis", message=f"attempt {attempt}, chain {genesis.chain_id().hex()[:16]}")
    )
    return path


def _find_addresses(cell: Cell, deployment: Deployment) -> dict[str, str]:
    """Return the peer address of each validator of the cell, by name."""
    peers = {endpoint.name: endpoint.peer for endpoint in deployment.endpoints}
    missing = [name for name in cell.validators if name not in peers]
    if missing:
        raise UsageError(f"cell {cell.id} needs {', '.join(missing)}, not deployed (any more); run './testbed deploy'")
    return {name: peers[name] for name in cell.validators}


def _read_bundle(path: Path) -> Bundle:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Bundle)
    except FileNotFoundError:
        raise UsageError(f"{path}: the keys of {path.stem} were not brought back; run './testbed deploy'") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no bundle of keys: {error}; run './testbed deploy'") from None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.genesis", description=__doc__)
    parser.add_argument("--cell", type=Path, required=True, help="the cell's directory in the run directory")
    parser.add_argument("--endpoints", type=Path, required=True, help="endpoints.json of the deployment")
    options = parser.parse_args(arguments)
    try:
        print(write_genesis(options.cell.resolve(), options.endpoints))
    except ControlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
