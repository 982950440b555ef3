"""Role dashboards by its playbook, for real: InfluxDB and Grafana's directory, again, check mode, removal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from control.influx.dashboard_files import GRAFANA
from control.playbooks import ansible_environment
from control.project import ROOT
from tests.influx.servers import InfluxServer

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(600)]


def play(server: InfluxServer, grafana: Path, *arguments: str) -> tuple[int, str]:
    """Run the playbook; how many changes its recap counts, and its output."""
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    variables = {"dashboards_connection": str(server.connection_file), "dashboards_grafana_dir": str(grafana)}
    done = subprocess.run(
        [program, "playbooks/dashboards.yml", "-i", "inventory/local", "-e", json.dumps(variables), *arguments],
        cwd=ROOT,
        env=ansible_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (changed,) = re.findall(r"^local +: ok=\d+ +changed=(\d+)", done.stdout, re.MULTILINE)
    return int(changed), done.stdout


@pytest.mark.parametrize("shared_process", ["2.7"], indirect=True)
def test_role_brings_both_dashboards_once_and_takes_them_away(influx_server: InfluxServer, tmp_path: Path) -> None:
    connection = influx_server.connection
    grafana = tmp_path / "grafana provisioning"
    grafana.mkdir()
    (grafana / "datasources").mkdir()
    theirs = grafana / "datasources" / "theirs.yml"
    theirs.write_text("apiVersion: 1\n")

    changed, _ = play(influx_server, grafana, "--check")
    assert changed
    assert [path for path in grafana.rglob("*") if path.is_file()] == [theirs]

    changed, output = play(influx_server, grafana, "--diff", "-v")
    assert changed
    tokens = {connection.read_token, connection.write_token, connection.admin_token}
    assert not any(token in output for token in tokens if token)

    token_file = grafana / "microchain.token"
    assert token_file.read_text() == connection.read_token
    assert token_file.stat().st_mode & 0o777 == 0o600
    others = b"".join(path.read_bytes() for path in grafana.rglob("*") if path.is_file() and path != token_file)
    assert not any(token.encode() in others for token in tokens if token)
    (source,) = yaml.safe_load((grafana / "datasources" / "microchain.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["jsonData"]["version"]) == ("influxdb", connection.url, "Flux")
    assert source["jsonData"]["organization"] == connection.org
    assert source["jsonData"]["defaultBucket"] == connection.bucket
    assert source["secureJsonData"] == {"token": f"$__file{{{token_file}}}"}
    (provider,) = yaml.safe_load((grafana / "dashboards" / "microchain.yml").read_text())["providers"]
    assert (Path(provider["options"]["path"]) / "testbed.json").read_bytes() == GRAFANA.read_bytes()

    changed, output = play(influx_server, grafana)
    assert changed == 0, output

    changed, _ = play(influx_server, grafana, "-e", "dashboards_state=absent")
    assert changed
    assert [path for path in grafana.rglob("*") if path.is_file()] == [theirs]
    changed, output = play(influx_server, grafana, "-e", "dashboards_state=absent")
    assert changed == 0, output
