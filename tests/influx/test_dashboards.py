"""The dashboard template on real servers: installed, again, repaired, removed; and where that can't be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.errors import UsageError
from control.influx import dashboards
from control.influx.connection import Connection
from control.influx.dashboard_files import build_template, read_panels
from control.influx.transport import Server, ServerError
from tests.influx.servers import InfluxServer

on_2 = pytest.mark.parametrize("shared_process", ["2.7"], indirect=True)
on_1 = pytest.mark.parametrize("shared_process", ["1.8"], indirect=True)


class Api:
    """The 2.x API by the administrator's token."""

    def __init__(self, connection: Connection) -> None:
        self._server = Server(url=connection.url, token=connection.admin_token, ca=connection.ca)

    def get(self, path: str) -> Any:
        return json.loads(self._server.request("GET", path))

    def call(self, method: str, path: str, body: object = None) -> Any:
        return json.loads(self._server.request(method, path, body=body) or b"null")

    def dashboards(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/api/v2/dashboards?limit=100")["dashboards"]
        return [one for one in found if one["name"] == "Microchain testbed"]

    def variables(self) -> dict[str, Any]:
        found = self.get("/api/v2/variables")["variables"]
        return {one["name"]: one for one in found if one["name"].startswith("microchain_")}


@pytest.fixture
def connection(influx_server: InfluxServer) -> Iterator[Connection]:
    """A server without our dashboard, before and after."""
    connection = influx_server.connection
    dashboards.remove(connection)
    yield connection
    dashboards.remove(connection)


@on_2
def test_all_panels_and_variables_appear(connection: Connection) -> None:
    assert dashboards.install(connection).changed
    api = Api(connection)
    (board,) = api.dashboards()
    views = [api.get(f"{cell['links']['self']}/view") for cell in board["cells"]]
    assert sorted(view["name"] for view in views) == sorted(panel.title for panel in read_panels())
    charts = {chart["name"]: chart for chart in build_template()[-1]["spec"]["charts"]}
    for view in views:
        assert view["properties"]["queries"][0]["text"] == charts[view["name"]]["queries"][0]["query"].rstrip()
    variables = api.variables()
    assert set(variables) == {"microchain_bucket", "microchain_run", "microchain_cell", "microchain_validator"}
    assert variables["microchain_bucket"]["arguments"]["values"] == [connection.bucket]


@on_2
def test_a_second_installation_changes_nothing(connection: Connection) -> None:
    dashboards.install(connection)
    api = Api(connection)
    before = api.dashboards(), api.variables(), api.get(f"/api/v2/stacks?orgID={api.dashboards()[0]['orgID']}")
    assert not dashboards.install(connection).changed
    assert not dashboards.install(connection, check=True).changed
    after = api.dashboards(), api.variables(), api.get(f"/api/v2/stacks?orgID={api.dashboards()[0]['orgID']}")
    assert after == before


@on_2
def test_a_check_changes_nothing(connection: Connection) -> None:
    assert dashboards.install(connection, check=True).changed
    assert not dashboards.remove(connection, check=True).changed
    assert Api(connection).dashboards() == []
    dashboards.install(connection)
    assert dashboards.remove(connection, check=True).changed
    assert len(Api(connection).dashboards()) == 1


@on_2
def test_what_somebody_deleted_comes_back(connection: Connection) -> None:
    dashboards.install(connection)
    api = Api(connection)
    api.call("DELETE", f"/api/v2/variables/{api.variables()['microchain_cell']['id']}")
    assert dashboards.install(connection).changed
    assert "microchain_cell" in api.variables()
    api.call("DELETE", f"/api/v2/dashboards/{api.dashboards()[0]['id']}")
    assert dashboards.install(connection).changed
    assert len(api.dashboards()) == 1


@on_2
def test_another_template_replaces_the_one_that_is_there(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(bucket: str) -> list[dict[str, Any]]:
        template = build_template(bucket)
        template[-1]["spec"]["charts"] = template[-1]["spec"]["charts"][:3]
        return template

    with monkeypatch.context() as patched:
        patched.setattr(dashboards, "build_template", older)
        dashboards.install(connection)
    api = Api(connection)
    assert len(api.dashboards()[0]["cells"]) == 3
    assert dashboards.install(connection).changed
    (board,) = api.dashboards()
    assert len(board["cells"]) == len(read_panels())


@on_2
def test_removal_leaves_what_is_not_ours(connection: Connection) -> None:
    api = Api(connection)
    dashboards.install(connection)
    organisation = api.dashboards()[0]["orgID"]
    theirs = api.call("POST", "/api/v2/dashboards", {"orgID": organisation, "name": "Microchain testbed"})
    try:
        assert dashboards.remove(connection).changed
        assert [one["id"] for one in api.dashboards()] == [theirs["id"]]
        assert api.variables() == {}
        assert api.get(f"/api/v2/stacks?orgID={organisation}")["stacks"] == []
        assert not dashboards.remove(connection).changed
    finally:
        api.call("DELETE", f"/api/v2/dashboards/{theirs['id']}")


@on_2
def test_a_token_that_may_not_is_an_error_in_one_sentence(connection: Connection) -> None:
    with pytest.raises(ServerError, match=r"refused with|no organisation"):
        dashboards.install(msgspec.structs.replace(connection, admin_token=connection.write_token))
    with pytest.raises(UsageError, match="has no admin_token"):
        dashboards.install(msgspec.structs.replace(connection, admin_token=""))
    with pytest.raises(ServerError, match=r"no organisation 'nobody'|refused"):
        dashboards.install(msgspec.structs.replace(connection, org="nobody"))
    assert Api(connection).dashboards() == []


@on_2
def test_who_asks_for_a_server_gets_the_dashboard_or_a_reason(connection: Connection) -> None:
    said: list[str] = []
    dashboards.offer(connection, said.append)
    dashboards.offer(connection, said.append)
    dashboards.offer(msgspec.structs.replace(connection, admin_token=""), said.append)
    assert said[0] == "dashboard 'Microchain testbed' installed"
    assert len(said) == 2
    assert "has no admin_token" in said[1]


@on_1
def test_a_1_8_server_has_none_and_the_answer_says_so(
    influx_server: InfluxServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboards.main(["install", "--connection", str(influx_server.connection_file)]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome == {"changed": False, "remark": dashboards.install(influx_server.connection).remark}
    assert "Grafana" in outcome["remark"]
    assert not dashboards.remove(influx_server.connection).changed


def test_errors_of_the_command_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboards.main(["install", "--connection", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    file = tmp_path / "connection.json"
    closed = {"url": "http://127.0.0.1:1", "version": "2.7.12", "org": "o", "bucket": "b", "admin_token": "secret"}
    file.write_text(json.dumps(closed))
    file.chmod(0o600)
    assert dashboards.main(["install", "--connection", str(file)]) == 3
    told = capsys.readouterr().err
    assert "can't be reached" in told
    assert "secret" not in told
