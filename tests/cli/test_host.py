"""``microchain.host``: what a playbook asks of a host about streaming; the rest is tested by real deployments."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from microchain.config import load_config
from microchain.host import main

TOKEN = "a-secret-write-token"


class Host:
    """Runs the commands on ``root`` with a validator ``v1``."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._monkeypatch, self._capsys = root, monkeypatch, capsys
        self.home = root / "validators" / "v1"
        self.home.mkdir(parents=True)

    def ask(self, command: str, **request: Any) -> tuple[int, str]:
        """Return the exit code and all that was printed."""
        body = {"root": str(self.root), "validators": [{"name": "v1", "peer_port": 9101, "api_port": 9201}], **request}
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(body).encode())))
        code = main([command])
        captured = self._capsys.readouterr()
        return code, captured.out + captured.err

    def set_cell(self, **influx: str) -> tuple[int, str]:
        cell = {"cell": "run-c1", "run": "run", "cell_id": "c1", "host": "local", "address": "127.0.0.1"}
        numbers = {"sample": 1.0, "interval_s": 1.0, "lease_s": 5.0}
        return self.ask("cell", **cell, **numbers, genesis="{}", influx=influx or None)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path / "host", monkeypatch, capsys)


def test_a_cell_that_streams_has_its_token_where_only_the_validator_reads_it(host: Host) -> None:
    server = {"url": "https://10.0.0.1:8086", "org": "o", "bucket": "b", "token": TOKEN, "ca": "PEM"}
    code, printed = host.set_cell(**server)
    assert code == 0 and TOKEN not in printed
    config = load_config(host.home / "config.toml").influx
    assert config is not None and config.ca_file is not None
    assert (config.url, config.org, config.bucket) == ("https://10.0.0.1:8086", "o", "b")
    assert config.token_file.read_text() == TOKEN and config.token_file.stat().st_mode & 0o777 == 0o600
    assert config.ca_file.read_text() == "PEM"
    assert TOKEN not in (host.home / "config.toml").read_text()


def test_the_next_cell_without_a_server_streams_nothing_and_keeps_no_token(host: Host) -> None:
    host.set_cell(url="http://10.0.0.1:8086", org="-", bucket="d/autogen", token=TOKEN)
    assert load_config(host.home / "config.toml").influx is not None
    assert host.set_cell()[0] == 0
    assert load_config(host.home / "config.toml").influx is None
    assert not list(host.home.glob("influx*"))


@pytest.mark.parametrize("request_", [{"cell": "run-c1"}, {}])
def test_discard_takes_the_token_away(host: Host, request_: dict[str, str]) -> None:
    host.set_cell(url="https://10.0.0.1:8086", org="o", bucket="b", token=TOKEN, ca="PEM")
    assert host.ask("discard", archives=str(host.root / "collected"), **request_)[0] == 0
    assert not list(host.home.glob("influx*")) and not (host.home / "data" / "run-c1").exists()


def test_a_server_without_a_token_is_a_malformed_request_that_shows_no_secret(host: Host) -> None:
    code, printed = host.set_cell(url="https://10.0.0.1:8086", org="o", bucket="b", toke=TOKEN)
    assert code == 2 and "toke" in printed and TOKEN not in printed


def test_collect_brings_the_cursor_and_the_refused_lines_but_no_token(host: Host) -> None:
    host.set_cell(url="http://10.0.0.1:8086", org="o", bucket="b", token=TOKEN)
    data = host.home / "data" / "run-c1"
    (data / "spool").mkdir()
    for name in ("shipper.json", "rejected.lp", "spool/1-0.lp"):
        (data / name).write_text(name)
    archive = host.root / "collected" / "run-c1.tar.gz"
    code, _ = host.ask("collect", cell="run-c1", archive=str(archive))
    assert code == 0
    assert archive.stat().st_mode & 0o777 == 0o640  # the operator fetches it as a member of its group
    with tarfile.open(archive) as packed:
        names = set(packed.getnames())
        content = b"".join(file.read() for member in packed if (file := packed.extractfile(member)))
    assert {"v1/shipper.json", "v1/rejected.lp", "v1/spool/1-0.lp", "v1/config.toml"} <= names
    assert TOKEN.encode() not in content
    host.ask("discard", cell="run-c1", archives=str(archive.parent))
    assert not archive.exists()
