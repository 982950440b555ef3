"""Which server the demo streams to, and what is left running after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.errors import DeploymentFailed
from control.influx import demo, private
from control.influx.connection import Connection, save_connection
from control.influx.demo import server_for_demo
from control.influx.private import State

_GIVEN = Connection(url="http://127.0.0.1:1", version="2.7.12", org="o", bucket="b", write_token="given")
_OWN = Connection(url="http://127.0.0.1:2", version="1.8.10", org="-", bucket="b/autogen", write_token="own:x")


def _state(connection: Connection | None, problem: str, pid: int) -> State:
    return State(connection=connection, problem=problem, pid=pid, bytes=0)


class _Private:
    """Stands for the private server; ``did`` is what was asked of it."""

    def __init__(self, state: State) -> None:
        self.before = state
        self.did: list[str] = []
        self.failure: Exception | None = None

    def state(self) -> State:
        return self.before

    def up(self, *arguments: object) -> Connection:
        self.did.append("up")
        if self.failure:
            raise self.failure
        return _OWN

    def down(self) -> list[str]:
        self.did.append("down")
        return ["ended"]

    def find_running(self) -> None:
        return None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Private:
    stand = _Private(_state(None, "", 0))
    for name in ("state", "up", "down", "find_running"):
        monkeypatch.setattr(private, name, getattr(stand, name))
    monkeypatch.setattr(demo, "HOME", tmp_path)
    save_connection(tmp_path / "1" / "connection.json", _OWN)
    return stand


def _run(keep: bool = False) -> tuple[Connection | None, str]:
    said: list[str] = []
    with server_for_demo(said.append, lambda text: None, keep=keep) as connection:
        pass
    return connection, "\n".join(said)


def test_a_private_server_lasts_as_long_as_the_demo(server: _Private) -> None:
    connection, said = _run()
    assert connection == _OWN
    assert server.did == ["up", "down"]
    assert "streamed to InfluxDB 1.8.10 at http://127.0.0.1:2" in said


def test_it_is_ended_also_if_the_demo_fails(server: _Private) -> None:
    with pytest.raises(KeyboardInterrupt), server_for_demo(lambda text: None, lambda text: None, keep=False):
        raise KeyboardInterrupt
    assert server.did == ["up", "down"]


def test_it_is_left_running_on_request(server: _Private) -> None:
    _, said = _run(keep=True)
    assert server.did == ["up"]
    assert "`./testbed influx down` ends it" in said


@pytest.mark.parametrize("pid", [0, 17])
def test_a_server_in_use_is_taken_and_goes_on(server: _Private, pid: int) -> None:
    server.before = _state(_GIVEN, "", pid)
    assert _run()[0] == _GIVEN
    assert server.did == []


def test_one_that_was_running_without_a_connection_goes_on(server: _Private) -> None:
    server.before = _state(None, "no connection file", 17)
    assert _run()[0] == _OWN
    assert server.did == ["up"]


def test_a_private_server_that_ended_with_the_machine_is_started_again(server: _Private) -> None:
    server.before = _state(_OWN, "can't be reached", 0)
    assert _run()[0] == _OWN
    assert server.did == ["up", "down"]


def test_a_given_server_that_is_away_is_not_replaced(server: _Private) -> None:
    server.before = _state(_GIVEN, "can't be reached", 0)
    assert _run() == (None, "without InfluxDB: the server in use can't be used: can't be reached")
    assert server.did == []


@pytest.mark.parametrize("failure", [DeploymentFailed("there is no InfluxDB server here"), OSError("disk full")])
def test_without_any_server_one_line_says_so(server: _Private, failure: Exception) -> None:
    server.failure = failure
    assert _run() == (None, f"without InfluxDB: {failure}")
