"""An experiment that streams to a real server: what collect makes of it, and what nobody may find afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.deploy.testbed_copy import TestbedCopy
from tests.influx.servers import InfluxServer

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]

_EXPERIMENT = """\
name: streamed
description: Two cells of four validators.
validators: 4
block_bytes: [8K, 16K]
transaction_bytes: 1K
workload: {kind: rounds, rounds: 10, warmup: 1}
"""


def _record(cell: Path) -> dict[str, object]:
    record: dict[str, object] = json.loads((cell / "influxdb.json").read_bytes())
    return record


def test_an_experiment_ends_with_the_same_points_in_influxdb_and_in_its_spools(
    deployed: TestbedCopy, influx_server: InfluxServer
) -> None:
    (deployed.root / "experiments" / "streamed.yml").write_text(_EXPERIMENT)
    name = f"streamed-{influx_server.process.major}"
    variables = ["-e", "experiment=experiments/streamed.yml", "-e", f"run_dir=runs/{name}"]
    done = deployed.play("experiment", *variables, "-e", f"influxdb_connection={influx_server.connection_file}", "-vvv")
    assert done.code == 0, done.output
    run = deployed.root / "runs" / name
    cells = sorted(run.glob("cells/*"))
    assert len(cells) == 2
    lines = sum(path.read_bytes().count(b"\n") for path in run.glob("cells/*/**/*.lp"))
    assert sum(int(str(_record(cell)["points"])) for cell in cells) == lines
    for cell in cells:
        record = _record(cell)
        assert (record["equal"], record["differences"], record["error"]) == (True, [], "")
        client = sum(path.read_bytes().count(b"\n") for path in cell.glob("client/*.lp"))
        assert record["backfilled"] == client > 0, record  # the validators' own shippers brought all of theirs
        assert (cell / "sealed").exists()
    progress = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    compared = sorted(step["cell"] for step in progress if step["phase"] == "compared")
    assert compared == [cell.name for cell in cells]
    assert "influxdb.json" not in (run / "SHA256SUMS").read_text()
    verdict = json.loads((run / "verdict.json").read_bytes())
    assert not [reason for reason in verdict["reasons"] if "InfluxDB" in reason["text"]]

    connection = influx_server.connection
    for secret in (connection.write_token, connection.read_token, connection.admin_token):
        password = secret.rpartition(":")[2]
        assert password not in done.output
        assert not [path for path in run.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]


def test_a_server_that_is_away_makes_a_run_suspect_and_no_worse(
    deployed: TestbedCopy, influx_server: InfluxServer
) -> None:
    (deployed.root / "experiments" / "streamed.yml").write_text(_EXPERIMENT.replace("[8K, 16K]", "8K"))
    name = f"away-{influx_server.process.major}"
    variables = ["-e", "experiment=experiments/streamed.yml", "-e", f"run_dir=runs/{name}"]
    influx_server.stop()
    done = deployed.play("experiment", *variables, "-e", f"influxdb_connection={influx_server.connection_file}")
    assert done.code == 0, done.output
    run = deployed.root / "runs" / name
    (cell,) = run.glob("cells/*")
    assert "can't be reached" in str(_record(cell)["error"])
    assert json.loads((run / "verdict.json").read_bytes())["verdict"] == "SUSPECT"

    influx_server.start()
    connection = str(influx_server.connection_file)
    answer = deployed.testbed("influx", "backfill", name, "--connection", connection)
    assert "InfluxDB equals the spools" in answer
    assert _record(cell)["equal"] is True
    assert "InfluxDB" not in (run / "verdict.json").read_text()
    assert "files are as they were sealed" in deployed.testbed("runs", "show", name)
