"""Real validators as processes: a cell from its genesis to its digests, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psutil
import pytest

from control.conductor.run import conduct
from control.errors import CheckFailed
from control.genesis import write_genesis
from control.local_cluster import LocalCluster
from control.plan import create_run
from control.rundir import RunDirectory
from control.spec_reader import load_experiment
from tests.control.deployment import SPEC, write_spec


def make_run(root: Path, cluster: LocalCluster) -> RunDirectory:
    spec = write_spec(root, SPEC)
    return create_run(root / "runs" / "one", spec, load_experiment(spec), "test", cluster.deployment())


def test_a_cell_runs_on_real_validators_and_leaves_digests_that_agree(tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "cluster", 4, "ed25519") as cluster:
        run = make_run(tmp_path, cluster)
        (cell,) = run.cells()
        directory = run.cell(cell.id)
        write_genesis(directory, cluster.endpoints)
        with cluster.running(cell, directory):
            pids = [process.pid for process in cluster.processes.values()]
            outcome = asyncio.run(conduct(cell, directory, cluster.deployment(), ready_timeout_s=60))
        assert (outcome.status, outcome.message) == ("ok", "")
        assert not any(psutil.pid_exists(pid) for pid in pids)
    digests = [json.loads((directory / "nodes" / name / "digest.json").read_text()) for name in cell.validators]
    chains = [[block[:3] for block in digest["blocks"]] for digest in digests]
    shortest = min(len(chain) for chain in chains)
    assert all(chain[:shortest] == chains[0][:shortest] for chain in chains)
    assert sum(block[2] for block in chains[0]) == 4 * 8
    assert run.is_cell_sealed(cell.id)
    assert all(list((directory / "nodes" / name / "spool").glob("*.lp")) for name in cell.validators)


def test_a_cell_that_fails_is_collected_but_not_sealed(tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "cluster", 4, "ed25519") as cluster:
        run = make_run(tmp_path, cluster)
        (cell,) = run.cells()
        write_genesis(run.cell(cell.id), cluster.endpoints)
        with pytest.raises(CheckFailed, match="on purpose"), cluster.running(cell, run.cell(cell.id)):
            raise CheckFailed("on purpose")
        assert cluster.processes == {}
    assert not run.is_cell_sealed(cell.id)
    assert (run.cell(cell.id) / "nodes" / "validator-1" / "config.toml").exists()
