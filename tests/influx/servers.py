"""Real InfluxDB servers for tests, of both generations.

``influx_server`` runs a test against 1.8 and against 2.7: a database of its own on a server that the tests of a worker
share, with tokens that may only write and only read. It may be stopped and started; afterwards it runs again.
``own_influx_server`` is the same with a process and data directory of its own, for tests that damage it::

    def test_something(influx_server: InfluxServer) -> None:
        influx_server.write("m,run=r value=1i 1")
        influx_server.stop()

The binaries are those that ``./testbed influx build`` makes; without them these tests are skipped.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from control.influx.binary import find_built
from control.influx.connection import Connection, load_connection
from control.influx.process import InfluxProcess
from control.influx.provision import provision
from control.influx.transport import Server
from control.influx.wish import Wish

if TYPE_CHECKING:  # slow to import, and this module is loaded for every test
    from influxdb_client.client.influxdb_client import InfluxDBClient

__all__ = ["GENERATIONS", "InfluxServer", "influx_server", "own_influx_server", "start_server"]

GENERATIONS = ("1.8", "2.7")


@dataclass
class InfluxServer:
    """A running server, and a database on it."""

    process: InfluxProcess
    connection_file: Path

    @property
    def connection(self) -> Connection:
        return load_connection(self.connection_file)

    @property
    def generation(self) -> str:
        """``1.8`` or ``2.7``."""
        return GENERATIONS[self.process.major - 1]

    def start(self) -> None:
        """Start it again, at the same address; it is ready on return."""
        self.process.start(self.connection.ca)

    def stop(self) -> None:
        """End it in order; its data stays."""
        self.process.stop()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()

    def write(self, lines: str | list[str]) -> None:
        """Write line protocol (ns) with the write token."""
        from influxdb_client.client.write_api import SYNCHRONOUS

        with self.client("write") as client:
            writer = client.write_api(write_options=SYNCHRONOUS)
            writer.write(bucket=self.connection.bucket, record=lines)

    def query(self, flux: str) -> list[dict[str, Any]]:
        """Run Flux with the read token; the rows of all tables. ``{bucket}`` stands for the bucket's name."""
        with self.client("read") as client:
            tables = client.query_api().query(flux.replace("{bucket}", self.connection.bucket))
        return [dict(record.values) for table in tables for record in table.records]

    def count(self) -> int:
        """How many field values the database holds."""
        rows = self.query('from(bucket: "{bucket}") |> range(start: 0, stop: 2200-01-01T00:00:00Z) |> count()')
        return sum(int(row["_value"]) for row in rows)

    def client(self, right: str) -> InfluxDBClient:
        """A client with the ``write``, ``read`` or ``admin`` token."""
        from influxdb_client.client.influxdb_client import InfluxDBClient

        connection = self.connection
        token = getattr(connection, f"{right}_token")
        return InfluxDBClient(
            connection.url, token=token, org=connection.org, ssl_ca_cert=connection.ca or None, timeout=30_000
        )

    def revoke_write_token(self) -> None:
        """Take the write token's right away; the connection file keeps it."""
        connection = self.connection
        if self.process.major == 1:
            user = connection.write_token.partition(":")[0]
            Server(url=connection.url, token=connection.admin_token, ca=connection.ca).request(
                "POST", "/query", form={"q": f'DROP USER "{user}"'}
            )
            return
        with self.client("admin") as client:
            api = client.authorizations_api()
            for one in api.find_authorizations():
                if one.token == connection.write_token:
                    api.delete_authorization(one)

    def renew_tokens(self) -> None:
        """Make new tokens for those that do not work any more, and write them to the connection file."""
        connection = self.connection
        bucket = connection.bucket.partition("/")[0]
        org = "testbed" if self.process.major == 1 else connection.org
        provision(Wish(url=self.process.url, org=org, bucket=bucket, ca=connection.ca), self.connection_file)


def start_server(
    home: Path,
    generation: str,
    *,
    auth: bool = True,
    certificate: Path | None = None,
    key: Path | None = None,
    ca: str = "",
) -> InfluxProcess:
    """Start a server below ``home``, 1.8 with authentication; skips the test if none was built."""
    major = int(generation[0])
    binary = find_built(major)
    if binary is None:
        pytest.skip(f"no InfluxDB {generation}: `./testbed influx build --version {major}` makes one")
    process = InfluxProcess(
        home=home, binary=binary, major=major, auth=auth, certificate=str(certificate or ""), key=str(key or "")
    )
    process.start(ca)
    return process


@pytest.fixture(scope="session", params=GENERATIONS)
def shared_process(request: pytest.FixtureRequest) -> Iterator[InfluxProcess]:
    """One server of each generation for all tests of a worker."""
    # Not of tmp_path_factory: pytest keeps those, and these are large.
    home = Path(tempfile.mkdtemp(prefix="testbed-influxdb-"))
    process = None
    try:
        process = start_server(home / "server", request.param)
        yield process
    finally:
        if process:
            process.stop()
        shutil.rmtree(home)


@pytest.fixture
def influx_server(shared_process: InfluxProcess, tmp_path: Path) -> Iterator[InfluxServer]:
    """A fresh database with its tokens, on a shared server of each generation."""
    shared_process.start()
    admin = shared_process.home / "connection.json"
    if not admin.exists():
        provision(Wish(url=shared_process.url), admin)
    yield make_database(shared_process, tmp_path / "connection.json", load_connection(admin).admin_token)


@pytest.fixture(params=GENERATIONS)
def own_influx_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InfluxServer]:
    """A server of each generation with a process and data of its own."""
    process = start_server(tmp_path / "influxdb", request.param)
    try:
        yield make_database(process, tmp_path / "connection.json")
    finally:
        process.stop()


def make_database(process: InfluxProcess, connection_file: Path, admin_token: str = "") -> InfluxServer:
    """Provision a database with a name that no other test has."""
    bucket = f"test-{secrets.token_hex(6)}"
    provision(Wish(url=process.url, bucket=bucket), connection_file, admin_token)
    return InfluxServer(process, connection_file)
