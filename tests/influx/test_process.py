"""A server as a process of ours: found by its command line, kept at its port, ended alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from control.errors import DeploymentFailed, UsageError
from control.influx.process import InfluxProcess, read_version
from tests.deploy.testbed_copy import listen
from tests.influx.servers import InfluxServer


def make_program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_it_keeps_its_port_and_data_through_stop_and_crash(own_influx_server: InfluxServer) -> None:
    server, process = own_influx_server, own_influx_server.process
    url, first = process.url, process.find()
    server.write("m value=1i 1700000000000000000")
    server.start()
    assert process.find() == first
    server.kill()
    assert process.find() == 0
    server.start()
    assert process.url == url
    assert server.count() == 1
    assert process.stop()
    assert not process.stop()
    assert process.home.stat().st_mode & 0o777 == 0o700
    assert process.log.stat().st_mode & 0o777 == 0o600


def test_a_port_that_was_taken_meanwhile_is_left_for_another(own_influx_server: InfluxServer) -> None:
    process = own_influx_server.process
    process.stop()
    taken = int((process.home / "port").read_text())
    with listen(taken):
        process.start()
        assert int((process.home / "port").read_text()) != taken
        process.stop()


def test_only_the_server_of_this_home_is_found(tmp_path: Path) -> None:
    """A process whose command line merely holds the home's path is a stranger."""
    process = InfluxProcess(home=tmp_path / "home", binary=Path("influxd"), major=2)
    stranger = subprocess.Popen([sys.executable, "-c", "input()", f"tail {process._mark()}"], stdin=subprocess.PIPE)
    try:
        assert process.find() == 0
        assert not process.stop()
        assert stranger.poll() is None
    finally:
        stranger.communicate()


def test_one_that_does_not_start_says_why(tmp_path: Path) -> None:
    program = make_program(tmp_path / "influxd", "echo run: the disk is on fire >&2; exit 1")
    process = InfluxProcess(home=tmp_path / "home", binary=program, major=2)
    with pytest.raises(DeploymentFailed, match="the disk is on fire"):
        process.start()


def test_one_that_does_not_listen_to_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.influx.process._STOP_S", 0.2)
    monkeypatch.setattr("control.influx.process._START_S", 0.5)
    program = make_program(tmp_path / "influxd", "trap '' TERM\nwhile :; do sleep 0.1; done")
    process = InfluxProcess(home=tmp_path / "home", binary=program, major=2)
    with pytest.raises(DeploymentFailed, match=r"was not ready within .* s: .*refused"):
        process.start()
    assert process.find() == 0


def test_variables_of_the_environment_do_not_overrule_the_settings(
    own_influx_server: InfluxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = own_influx_server.process
    process.stop()
    for name in ("INFLUXD_HTTP_BIND_ADDRESS", "INFLUXDB_HTTP_BIND_ADDRESS"):
        monkeypatch.setenv(name, "0.0.0.0:1")
    process.start()
    environment = Path(f"/proc/{process.find()}/environ").read_bytes()
    assert b"INFLUXD" not in environment
    assert os.fsencode(str(process.home)) in environment


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("InfluxDB v1.8.10 (git: unknown unknown)", "1.8.10"),
        ("InfluxDB v2.7.12 (git: 123) build_date: 2025-05-20T22:49:58Z", "2.7.12"),
        ("InfluxDB 2.0.9 (git: none)", "2.0.9"),
    ],
)
def test_versions_that_can_be_used(said: str, version: str, tmp_path: Path) -> None:
    assert read_version(make_program(tmp_path / "influxd", f"echo '{said}'")) == version


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("echo InfluxDB v1.6.7", "is InfluxDB 1.6.7; 1.8 or 2.x is needed"),
        ("echo InfluxDB v3.0.1", "is InfluxDB 3.0.1; 1.8 or 2.x is needed"),
        ("echo hello", "does not say its version"),
        ("exit 1", "does not say its version"),
    ],
)
def test_other_versions_are_refused_with_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        read_version(make_program(tmp_path / "influxd", text))


def test_a_program_that_cant_be_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be run"):
        read_version(tmp_path / "nothing")
