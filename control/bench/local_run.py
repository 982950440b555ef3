"""Runs an experiment on processes of this machine, without Ansible, into a run directory like any other."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from control.cells import Cell
from control.conductor.run import Outcome, conduct
from control.errors import CheckFailed
from control.genesis import write_genesis
from control.local_cluster import LocalCluster
from control.plan import create_run
from control.playbooks import ansible_environment
from control.project import ROOT, RUNS
from control.rundir import RunDirectory, new_run_name
from control.seal import seal
from control.spec_reader import load_experiment

__all__ = ["LocalRun", "local_run"]

_READY_S = 60.0

Companion = Callable[[LocalCluster], Awaitable[None]]


class LocalRun:
    """A planned run and the cluster it runs on."""

    def __init__(self, run: RunDirectory, cluster: LocalCluster) -> None:
        self.run = run
        self.cluster = cluster

    def run_cell(self, cell: Cell, companion: Companion | None = None) -> Outcome:
        """Run one cell, with ``companion`` (cancelled at the end) beside it; CheckFailed if the cell fails."""
        directory = self.run.cell(cell.id)
        write_genesis(directory, self.cluster.endpoints)
        with self.cluster.running(cell, directory):
            outcome = asyncio.run(self._conduct(cell, directory, companion))
        if outcome.status != "ok":
            raise CheckFailed(f"{cell.id} failed: {outcome.message} ({directory})")
        return outcome

    async def _conduct(self, cell: Cell, directory: Path, companion: Companion | None) -> Outcome:
        beside = None if companion is None else asyncio.ensure_future(companion(self.cluster))
        try:
            return await conduct(cell, directory, self.cluster.deployment(), ready_timeout_s=_READY_S)
        finally:
            if beside is not None:
                beside.cancel()
                await asyncio.gather(beside, return_exceptions=True)

    def analyse(self) -> dict[str, Any]:
        """Seal and analyse the run; the figures by cell. CheckFailed if its verdict is INVALID."""
        seal(self.run)
        command = [sys.executable, "-m", "analysis", str(self.run.path)]
        done = subprocess.run(command, cwd=ROOT, env=ansible_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise CheckFailed(f"the analysis of {self.run.path} refused the run:\n{done.stdout[-4000:]}{done.stderr}")
        figures: dict[str, Any] = msgspec.json.decode((self.run.path / "figures.json").read_bytes())
        return figures


@contextmanager
def local_run(spec: dict[str, Any]) -> Iterator[LocalRun]:
    """Plan an experiment (the keys of an experiment file) for a cluster of its own, which is gone afterwards."""
    workspace_root = ROOT / ".cache" / "bench"
    workspace_root.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(dir=workspace_root))
    try:
        file = workspace / "spec.yml"
        file.write_text(yaml.safe_dump(spec, sort_keys=False))
        experiment = load_experiment(file)
        with LocalCluster(workspace / "cluster", max(experiment.validators)) as cluster:
            target = RUNS / new_run_name(experiment.name, datetime.now())
            yield LocalRun(create_run(target, file, experiment, "bench", cluster.deployment()), cluster)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
