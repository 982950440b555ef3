"""Role influxdb on this machine, run for real with both servers: deployed, again, changed, used, taken away."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from control.influx.binary import find_built
from control.influx.connection import Connection, load_connection
from control.influx.process import InfluxProcess
from control.influx.provision import verify
from control.influx.transport import Server, ServerError, probe_health
from tests.cluster import free_ports
from tests.deploy.testbed_copy import Play, TestbedCopy
from tests.influx.servers import GENERATIONS, InfluxServer

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]

POINT = "m,run=r value=1i 1700000000000000000"


@dataclass
class Desktop:
    """The local inventory with a database beside one validator."""

    project: TestbedCopy
    generation: str

    @property
    def root(self) -> Path:
        return self.project.root / ".cache" / "desktop" / "influxdb"

    @property
    def connection_file(self) -> Path:
        return self.project.root / ".cache" / "influxdb" / "desktop.json"

    @property
    def connection(self) -> Connection:
        return load_connection(self.connection_file)

    def play(self, name: str, *arguments: str) -> Play:
        return self.project.play(name, "-e", "validator_count=1", *arguments, inventory="desktop")

    def server(self) -> InfluxServer:
        unused = InfluxProcess(home=self.root, binary=Path("influxd"), major=int(self.generation[0]))
        return InfluxServer(unused, self.connection_file)

    def processes(self) -> list[str]:
        return [command for command in self.project.processes() if str(self.root) in command]


@pytest.fixture(params=GENERATIONS)
def desktop(project: TestbedCopy, request: pytest.FixtureRequest) -> Iterator[Desktop]:
    binary = find_built(int(request.param[0]))
    if binary is None:
        pytest.skip(f"no InfluxDB {request.param}: `./testbed influx build` makes one")
    hosts = (project.root / "inventory" / "local" / "hosts.yml").read_text().replace(".cache/local", ".cache/desktop")
    (port,) = free_ports(1)
    database = f"    local:\n      influxdb_binary: {binary}\n      influxdb_port: {port}\n"
    assert "influxdb:\n  hosts: {}\n" in hosts
    place = project.root / "inventory" / "desktop"
    place.mkdir(exist_ok=True)
    (place / "hosts.yml").write_text(hosts.replace("influxdb:\n  hosts: {}\n", f"influxdb:\n  hosts:\n{database}"))
    made = Desktop(project, request.param)
    yield made
    if made.root.parent.exists() or made.connection_file.exists():
        made.play("teardown")


def test_deployed_used_and_taken_away(desktop: Desktop) -> None:
    done = desktop.play("deploy", "-vvv")
    assert done.code == 0, done.output

    connection, server = desktop.connection, desktop.server()
    assert connection.url.startswith("https://127.0.0.1:")
    assert connection.version.startswith(desktop.generation)
    verify(connection)
    with pytest.raises(ServerError, match="CERTIFICATE_VERIFY_FAILED"):
        probe_health(Server(url=connection.url))
    server.write(POINT)
    for secret in (connection.write_token, connection.read_token, connection.admin_token):
        assert len(secret) >= 32
        assert secret not in done.output
    assert "PRIVATE KEY" not in done.output
    for path in (desktop.connection_file, desktop.root / "tls" / "tls.key"):
        assert path.stat().st_mode & 0o777 == 0o600

    again = desktop.play("deploy", "-e", "influxdb_retention_s=7200000")
    assert again.recap["local"]["changed"] == 1, again.output
    assert desktop.connection == connection
    status = desktop.play("status")
    assert f"{connection.version} at {connection.url}: pass" in status.text

    gone = desktop.play("teardown")
    assert gone.code == 0, gone.output
    assert desktop.processes() == []
    assert not desktop.root.exists()
    assert not desktop.connection_file.exists()


def test_check_mode_again_and_after_a_crash(desktop: Desktop) -> None:
    if desktop.generation == "1.8":
        pytest.skip("what is tested here is the same for both")
    foreseen = desktop.play("deploy", "--check")
    assert foreseen.code == 0, foreseen.output
    assert not desktop.root.exists()
    assert desktop.play("deploy").code == 0
    for arguments in ([], ["--check", "--diff"]):
        again = desktop.play("deploy", *arguments)
        assert again.code == 0, again.output
        assert again.recap["local"]["changed"] == 0, again.output
    server = desktop.server()
    server.write(POINT)
    os.kill(int((desktop.root / "supervisor" / "supervisord.pid").read_text()), signal.SIGKILL)
    server.process.kill()
    with pytest.raises(ServerError):
        probe_health(Server(url=desktop.connection.url, ca=desktop.connection.ca))
    back = desktop.play("deploy")
    assert back.code == 0, back.output
    assert server.count() == 1

    refused = desktop.play("deploy", "-e", "influxdb_binary=")
    assert refused.code == 2
    assert "one of influxdb_package_file, influxdb_repository and influxdb_binary" in refused.text
