"""Provisioning on real servers: rights no larger than needed, retention, done again, mended, secrets kept, TLS."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from msgspec.structs import replace

from control.errors import ControlError, UsageError
from control.influx import certificate
from control.influx.connection import Connection, load_connection, save_connection
from control.influx.provision import provision, verify
from control.influx.transport import Server, ServerError
from control.influx.wish import Wish
from control.project import ROOT
from tests.influx.servers import GENERATIONS, InfluxServer, start_server

POINT = "m,run=r value=1i 1700000000000000000"


def wish(server: InfluxServer, retention_s: int | None = None) -> Wish:
    connection = server.connection
    org = connection.org if connection.major == 2 else "testbed"
    bucket = connection.bucket.partition("/")[0]
    return Wish(url=connection.url, org=org, bucket=bucket, retention_s=retention_s, ca=connection.ca)


def read_retention(server: InfluxServer) -> int:
    """What the server itself says, in seconds; 0 for ever."""
    connection = server.connection
    admin = Server(url=connection.url, token=connection.admin_token, ca=connection.ca)
    if connection.major == 1:
        database = connection.bucket.partition("/")[0]
        answer = json.loads(admin.request("POST", "/query", form={"q": f'SHOW RETENTION POLICIES ON "{database}"'}))
        (policy,) = answer["results"][0]["series"][0]["values"]
        return {"0s": 0, "720h0m0s": 30 * 86400, "1h0m0s": 3600}[policy[1]]
    (bucket,) = json.loads(admin.request("GET", "/api/v2/buckets", query={"name": connection.bucket}))["buckets"]
    return sum(int(rule["everySeconds"]) for rule in bucket["retentionRules"])


def test_what_is_written_can_be_read_also_after_a_restart(influx_server: InfluxServer) -> None:
    influx_server.write([POINT, "m,run=r value=2i 1700000000000000001"])
    assert influx_server.count() == 2
    influx_server.stop()
    influx_server.start()
    assert influx_server.count() == 2


def test_the_write_token_cant_read(influx_server: InfluxServer) -> None:
    influx_server.write(POINT)
    with influx_server.client("write") as client, pytest.raises(ApiException):
        client.query_api().query(f'from(bucket: "{influx_server.connection.bucket}") |> range(start: 0)')


def test_the_read_token_cant_write(influx_server: InfluxServer) -> None:
    with influx_server.client("read") as client, pytest.raises(ApiException) as refused:
        client.write_api(write_options=SYNCHRONOUS).write(bucket=influx_server.connection.bucket, record=POINT)
    assert refused.value.status == 403


def test_neither_token_reaches_another_bucket(influx_server: InfluxServer, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    admin = influx_server.connection.admin_token
    elsewhere = replace(wish(influx_server), bucket=wish(influx_server).bucket + "-other")
    provision(elsewhere, other, admin)
    stranger = InfluxServer(influx_server.process, other)
    stranger.write(POINT)
    bucket = load_connection(other).bucket
    with influx_server.client("write") as client, pytest.raises(ApiException):
        client.write_api(write_options=SYNCHRONOUS).write(bucket=bucket, record=POINT)
    with influx_server.client("read") as client, pytest.raises(ApiException):
        client.query_api().query(f'from(bucket: "{bucket}") |> range(start: 0)')


def test_neither_token_may_administer(influx_server: InfluxServer) -> None:
    connection = influx_server.connection
    for token in (connection.write_token, connection.read_token):
        server = Server(url=connection.url, token=token)
        with pytest.raises(ServerError):
            if connection.major == 1:
                answer = server.request("POST", "/query", form={"q": "CREATE DATABASE mine"})
                assert b"error" not in answer
            else:
                server.request("POST", "/api/v2/orgs", body={"name": "mine"})


def test_done_again_it_changes_nothing(influx_server: InfluxServer) -> None:
    before = influx_server.connection_file.read_bytes()
    assert provision(wish(influx_server), influx_server.connection_file) == []
    assert influx_server.connection_file.read_bytes() == before


def test_the_connection_file_is_its_owners_alone(influx_server: InfluxServer) -> None:
    assert influx_server.connection_file.stat().st_mode & 0o777 == 0o600
    connection = influx_server.connection
    tokens = {connection.write_token, connection.read_token, connection.admin_token}
    assert len(tokens) == 3
    assert min(map(len, tokens)) >= 32
    assert not any(token in repr(connection) for token in tokens)


def test_retention_is_set_changed_and_left_alone(influx_server: InfluxServer) -> None:
    assert read_retention(influx_server) == 0
    file = influx_server.connection_file
    assert provision(wish(influx_server, 30 * 86400), file) == ["retention"]
    assert read_retention(influx_server) == 30 * 86400
    assert provision(wish(influx_server, 30 * 86400), file) == []
    assert provision(wish(influx_server), file) == []
    assert read_retention(influx_server) == 30 * 86400
    assert provision(wish(influx_server, 0), file) == ["retention"]
    assert read_retention(influx_server) == 0


def test_a_revoked_token_is_replaced_and_only_that_one(influx_server: InfluxServer) -> None:
    before = influx_server.connection
    influx_server.revoke_write_token()
    with pytest.raises(ApiException) as refused:
        influx_server.write(POINT)
    assert refused.value.status == 401
    assert provision(wish(influx_server), influx_server.connection_file) == ["write token"]
    influx_server.write(POINT)
    after = influx_server.connection
    assert after.write_token != before.write_token
    assert replace(after, write_token=before.write_token) == before
    assert influx_server.count() == 1


def test_a_token_with_more_rights_than_needed_is_replaced(influx_server: InfluxServer) -> None:
    before = influx_server.connection
    broad = replace(before, read_token=before.admin_token)
    if before.major == 1:
        user, admin = before.read_token.partition(":")[0], Server(url=before.url, token=before.admin_token)
        admin.request("POST", "/query", form={"q": f'GRANT ALL ON "{before.bucket.partition("/")[0]}" TO "{user}"'})
        broad = before
    else:
        # Deleting the operator's own would lock us out, so one like it.
        with influx_server.client("admin") as client:
            organisation = client.organizations_api().find_organizations(org=before.org)[0]
            permissions = client.authorizations_api().find_authorizations()[0].permissions
            made = client.authorizations_api().create_authorization(organisation.id, permissions)
        broad = replace(before, read_token=made.token)
    save_connection(influx_server.connection_file, broad)
    assert provision(wish(influx_server), influx_server.connection_file) == ["read token"]
    with influx_server.client("read") as client, pytest.raises(ApiException):
        client.write_api(write_options=SYNCHRONOUS).write(bucket=before.bucket, record=POINT)
    verify(influx_server.connection)
    with pytest.raises(ServerError, match="read token may not read"):
        verify(broad if before.major == 2 else replace(before, read_token=before.write_token))


def test_a_lost_connection_file_needs_the_operators_token(influx_server: InfluxServer, tmp_path: Path) -> None:
    known = influx_server.connection
    lost = tmp_path / "lost.json"
    with pytest.raises(ServerError, match=r"--token-file or \$INFLUX_TOKEN"):
        provision(wish(influx_server), lost)
    assert not lost.exists()
    with pytest.raises(ServerError, match=r"--token-file or \$INFLUX_TOKEN"):
        provision(wish(influx_server), lost, "someone:else")
    provision(wish(influx_server), lost, known.admin_token)
    verify(load_connection(lost))


def test_verify_says_which_token_is_wrong(influx_server: InfluxServer) -> None:
    connection = influx_server.connection
    verify(connection)
    with pytest.raises(ServerError, match="the write token may not write"):
        verify(replace(connection, write_token=connection.read_token))
    with pytest.raises(ServerError, match="the read token may not read"):
        verify(replace(connection, read_token="nobody:nothing"))
    other = "2.7.12" if connection.major == 1 else "1.8.10"
    with pytest.raises(UsageError, match=f"not {other}"):
        verify(replace(connection, version=other))
    assert influx_server.count() == 0  # nothing was written to find out


def test_as_a_program_it_says_what_changed_and_no_secret(influx_server: InfluxServer, tmp_path: Path) -> None:
    output = tmp_path / "made.json"
    known = influx_server.connection
    token = tmp_path / "token"
    token.write_text(known.admin_token + "\n")
    place = wish(influx_server)
    command = [sys.executable, "-m", "control.influx.provision", "--url", place.url, "--org", place.org]
    command += ["--bucket", place.bucket, "--output", str(output), "--retention", "7200", "--token-file", str(token)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["changed"] == ["retention", "write token", "read token"]
    made = load_connection(output)
    assert not any(
        secret in done.stdout + done.stderr for secret in (made.write_token, made.read_token, made.admin_token)
    )
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == {"changed": []}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_over_tls_only_our_authority_is_believed(generation: str, tmp_path: Path) -> None:
    assert certificate.issue(tmp_path / "state", ["127.0.0.1"])
    assert not certificate.issue(tmp_path / "state", ["127.0.0.1"])
    assert certificate.issue(tmp_path / "other", ["127.0.0.1"])
    ca = tmp_path / "state" / "authority" / "ca.crt"
    files = tmp_path / "state" / "influxdb"
    process = start_server(
        tmp_path / "home", generation, certificate=files / "tls.crt", key=files / "tls.key", ca=str(ca)
    )
    try:
        place = Wish(url=process.url, ca=str(ca))
        output = tmp_path / "connection.json"
        assert provision(place, output) == (["setup", *["bucket"] * (generation == "1.8"), "write token", "read token"])
        server = InfluxServer(process, output)
        assert server.connection.url.startswith("https://")
        server.write(POINT)
        assert server.count() == 1
        for stranger in ("", str(tmp_path / "other" / "authority" / "ca.crt")):
            with pytest.raises(ServerError, match="CERTIFICATE_VERIFY_FAILED"):
                provision(replace(place, ca=stranger), tmp_path / "stranger.json")
            with pytest.raises(ServerError, match="CERTIFICATE_VERIFY_FAILED"):
                verify(replace(server.connection, ca=stranger))
        certificate.issue(tmp_path / "state", ["127.0.0.1", "127.0.0.2"])
    finally:
        process.stop()


def test_a_server_without_authentication_has_no_tokens(tmp_path: Path) -> None:
    process = start_server(tmp_path / "home", "1.8", auth=False)
    try:
        output = tmp_path / "connection.json"
        assert provision(Wish(url=process.url, retention_s=3600), output) == ["bucket"]
        connection = load_connection(output)
        assert (connection.org, connection.bucket) == ("-", "microchain/autogen")
        assert (connection.write_token, connection.read_token, connection.admin_token) == ("", "", "")
        assert read_retention(InfluxServer(process, output)) == 3600
        verify(connection)
        InfluxServer(process, output).write("m,run=r value=1i")  # now, or the retention would refuse it
        assert InfluxServer(process, output).count() == 1
    finally:
        process.stop()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bucket": 'x" |> drop()'}, "is no name for a bucket"),
        ({"bucket": "_monitoring"}, "is no name for a bucket"),
        ({"org": "a/b"}, "is no name for an organisation"),
        ({"retention_s": 60}, "is too short"),
    ],
)
def test_what_a_server_would_stumble_over_is_refused_first(
    change: dict[str, str | int], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=sentence):
        provision(replace(Wish(url="http://127.0.0.1:1"), **change), tmp_path / "connection.json")


def test_without_a_server_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=r"http://127.0.0.1:1 can't be reached: .*refused"):
        provision(Wish(url="http://127.0.0.1:1"), tmp_path / "connection.json")


def test_an_interrupted_setup_is_continued(own_influx_server: InfluxServer, tmp_path: Path) -> None:
    """The token is on disk before the server knows it, so what was begun can be ended."""
    known = own_influx_server.connection
    begun = Connection(
        url=known.url, version=known.version, org=known.org, bucket=known.bucket, admin_token=known.admin_token
    )
    save_connection(tmp_path / "begun.json", begun)
    assert provision(wish(own_influx_server), tmp_path / "begun.json") == ["write token", "read token"]
    verify(load_connection(tmp_path / "begun.json"))
