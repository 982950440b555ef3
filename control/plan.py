"""Plans a run: ``python -m control.plan EXPERIMENT --inventory NAME`` makes the run directory and prints its path.

Given the directory of a run of the same experiment, it continues that run: sealed cells stay as they are.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from control.cells import Cell, expand
from control.environment import describe_environment
from control.errors import ControlError, UsageError
from control.inventory import Deployment, read_deployment
from control.progress import Progress
from control.project import ROOT, control_directory, inventory_directory, shown_path
from control.rundir import RunDirectory, new_run_name, write_json
from control.spec import Experiment
from control.spec_reader import load_experiment

__all__ = ["create_run", "main", "plan"]


def plan(experiment_file: Path, inventory: str, run_dir: Path | None = None, *, root: Path = ROOT) -> RunDirectory:
    """Make (or continue) a run directory and return it.

    SpecError for the experiment file; UsageError if the deployment can't run it or ``run_dir`` holds another run.
    """
    experiment = load_experiment(experiment_file, shown_path(experiment_file))
    inventory_directory(inventory, root)
    if run_dir is not None and (run_dir / "resolved.json").exists():
        return _continue_run(RunDirectory(run_dir), experiment, inventory)
    if run_dir is not None and run_dir.exists() and any(run_dir.iterdir()):
        raise UsageError(f"{run_dir} is not empty and no run; give a new directory or none")
    deployment = read_deployment(control_directory(inventory, root) / "endpoints.json")
    target = run_dir or root / "runs" / new_run_name(experiment.name, datetime.now())
    return create_run(target, experiment_file, experiment, inventory, deployment, root=root)


def _check_deployment(experiment: Experiment, deployment: Deployment, inventory: str, file: str) -> None:
    """UsageError if the deployment has too few validators for every cell, or too few devices."""
    deployed, least = len(deployment.select(experiment.hosts)), min(experiment.validators)
    if deployed < least:
        on = "" if experiment.hosts == "all" else f" on {experiment.hosts}"
        others = len(deployment.endpoints)
        hint = f"; with 'hosts: all' there are {others}" if others >= least else ""
        raise UsageError(
            f"{file}: {least} validators{on} are asked for at least, and inventory '{inventory}' has {deployed} "
            f"deployed: no cell can run. Deploy {least - deployed} more{hint}"
        )
    if experiment.devices > len(deployment.devices):
        raise UsageError(
            f"{file}: {experiment.devices} devices are asked for, and inventory '{inventory}' has keys for "
            f"{len(deployment.devices)}; lower 'devices', or deploy more"
        )


def create_run(
    target: Path,
    experiment_file: Path,
    experiment: Experiment,
    inventory: str,
    deployment: Deployment,
    *,
    root: Path = ROOT,
) -> RunDirectory:
    """Make a run directory. UsageError if the deployment has too little for the experiment.

    A cell that needs more validators than are deployed is marked as failed, with the arithmetic; the others can run.
    Everything is written beside the target and moved there, so that no half-made run directory is ever seen.
    """
    _check_deployment(experiment, deployment, inventory, shown_path(experiment_file))
    names = [endpoint.name for endpoint in deployment.select(experiment.hosts)]
    cells = expand(experiment, target.name, names, deployment.signature)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    shutil.copyfile(experiment_file, draft / "spec.yml")
    write_json(draft / "resolved.json", experiment)
    write_json(draft / "cells.json", cells)
    write_json(draft / "inventory.json", _describe_inventory(inventory, deployment))
    write_json(draft / "environment.json", describe_environment(root))
    for cell in cells:
        directory = draft / "cells" / cell.id
        directory.mkdir(parents=True)
        write_json(directory / "cell.json", cell)
        if cell.refused:
            write_json(directory / "outcome.json", _refusal(cell))
    if target.exists():
        target.rmdir()
    draft.rename(target)
    run = RunDirectory(target)
    for index, cell in enumerate(cells, 1):
        run.report(Progress(cell=cell.id, phase="planned", done=index, total=len(cells)))
        if cell.refused:
            run.report(Progress(cell=cell.id, phase="failed", message=cell.refused))
    return run


def _refusal(cell: Cell) -> dict[str, object]:
    """``outcome.json`` of a cell that planning refused."""
    return {"cell": cell.id, "status": "failed", "refused": True, "message": cell.refused}


def _describe_inventory(inventory: str, deployment: Deployment) -> dict[str, object]:
    return {
        "name": inventory,
        "signature": deployment.signature,
        "validators": [
            {"name": e.name, "host": e.host, "kind": e.kind, "api": e.api, "peer": e.peer} for e in deployment.endpoints
        ],
        "devices": [device.name for device in deployment.devices],
    }


def _continue_run(run: RunDirectory, experiment: Experiment, inventory: str) -> RunDirectory:
    """Check that ``run`` is a run of this very experiment on this inventory, and report its open cells."""
    try:
        before = msgspec.json.decode((run.path / "resolved.json").read_bytes(), type=Experiment)
        planned_on = msgspec.json.decode((run.path / "inventory.json").read_bytes())["name"]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError) as error:
        raise UsageError(f"{run.path} is a damaged run and can't be continued: {error}") from None
    changed = [key for key in Experiment.__struct_fields__ if getattr(before, key) != getattr(experiment, key)]
    if changed:
        raise UsageError(
            f"{run.path} is a run of another experiment: {', '.join(changed)} differ; start a new run instead"
        )
    if planned_on != inventory:
        raise UsageError(f"{run.path} was planned on inventory '{planned_on}', not '{inventory}'")
    cells = run.cells()
    for index, cell in enumerate(cells, 1):
        if not run.is_cell_sealed(cell.id) and not cell.refused:
            run.checksums.unlink(missing_ok=True)
            run.report(Progress(cell=cell.id, phase="planned", done=index, total=len(cells), message="continued"))
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.plan", description=__doc__)
    parser.add_argument("experiment", type=Path, help="experiment file, such as experiments/demo.yml")
    parser.add_argument("--inventory", default="local", help="name of a directory under inventory/ (local)")
    parser.add_argument("--run-dir", type=Path, help="directory to make or continue (default: a new one in runs/)")
    options = parser.parse_args(arguments)
    try:
        run = plan(options.experiment, options.inventory, options.run_dir)
    except ControlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for cell in run.cells():
        if cell.refused:
            print(f"{cell.id} is not run: {cell.refused}", file=sys.stderr)
    print(run.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
