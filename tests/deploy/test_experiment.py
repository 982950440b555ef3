"""An experiment by its playbook, run for real: a cell that fails, the other, and the run continued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.deploy.testbed_copy import TestbedCopy, listen

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]

_EXPERIMENT = """\
name: two-cells
description: Five validators, then four.
validators: [5, 4]
block_bytes: 8K
transaction_bytes: 1K
workload:
  kind: rounds
  rounds: 10
  warmup: 1
"""


def _cells(run: Path) -> tuple[Path, Path]:
    """The cells' directories: of five validators, of four."""
    (five,) = run.glob("cells/k5-*")
    (four,) = run.glob("cells/k4-*")
    return five, four


def _outcome(cell: Path) -> dict[str, object]:
    outcome: dict[str, object] = json.loads((cell / "outcome.json").read_bytes())
    return outcome


def test_a_failed_cell_leaves_the_others_alone_and_is_run_when_the_run_is_continued(deployed: TestbedCopy) -> None:
    (deployed.root / "experiments" / "two-cells.yml").write_text(_EXPERIMENT)
    run = deployed.root / "runs" / "mine"
    variables = ["-e", "experiment=experiments/two-cells.yml", "-e", "run_dir=runs/mine", "-e", "ready_timeout_s=15"]

    with listen(deployed.base_port + 5):  # the fifth validator can't listen for its peers
        invalid = deployed.play("experiment", *variables)
    assert invalid.code == 2
    assert "The run is INVALID" in invalid.text, invalid.output
    five, four = _cells(run)
    assert _outcome(four)["status"] == "ok"
    assert (four / "sealed").exists()
    assert _outcome(five)["status"] == "failed"
    assert "validator-5" in str(_outcome(five)["message"])
    assert not (five / "sealed").exists()
    assert "in use" in (five / "nodes" / "validator-5" / "node.log").read_text()
    assert not (run / "SHA256SUMS").exists()

    kept = (four / "sealed").stat().st_mtime_ns
    continued = deployed.play("experiment", *variables)
    assert continued.code == 0, continued.output
    assert _outcome(five)["status"] == "ok"
    assert (five / "attempts" / "1" / "outcome.json").exists()
    assert (four / "sealed").stat().st_mtime_ns == kept
    assert (run / "SHA256SUMS").exists()
    assert json.loads((run / "verdict.json").read_bytes())["verdict"] in ("VALID", "SUSPECT")
    assert (run / "report.html").exists()
    for name in ("validator-1", "validator-2", "validator-5"):
        collected = five / "nodes" / name
        assert {"config.toml", "digest.json", "node.log", "spool"} <= {path.name for path in collected.iterdir()}
        assert any((collected / "spool").glob("*.lp"))

    # What the run left on the host is gone, and reset has little to do; keys and programs stay.
    assert not [path for path in deployed.deployed.glob("validators/*/data/*/*") if path.is_file()]
    keys = {path: path.read_bytes() for path in deployed.deployed.glob("validators/*/keys/*")}
    reset = deployed.play("reset")
    assert reset.code == 0, reset.output
    assert {path.name for path in deployed.deployed.glob("validators/validator-1/*")} == {"keys"}
    assert {path: path.read_bytes() for path in keys} == keys
    assert deployed.play("deploy").recap["local"]["changed"] == 0
    assert run.exists()


def test_an_experiment_file_with_a_mistake_ends_with_its_line(deployed: TestbedCopy) -> None:
    mistaken = deployed.root / "experiments" / "mistaken.yml"
    mistaken.write_text(_EXPERIMENT.replace("warmup", "wramup"))
    refused = deployed.play("experiment", "-e", "experiment=experiments/mistaken.yml")
    assert refused.code == 2
    assert "experiments/mistaken.yml:9: unknown key" in refused.text
    assert "did you mean ''warmup''" in refused.text
    assert not list((deployed.root / "runs").glob("*two-cells*"))
