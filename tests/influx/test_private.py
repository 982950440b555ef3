"""``./testbed influx``: a server is chosen, run once, found again, switched, given, and taken away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control import cli
from control.errors import UsageError
from control.influx import binary, build, connection, private
from control.influx import cli as influx_cli
from control.influx.binary import find_built
from control.influx.cli import parse_retention
from control.influx.connection import load_connection
from control.influx.process import InfluxProcess
from control.influx.provision import verify
from tests.influx.servers import GENERATIONS, InfluxServer

Run = Callable[..., int]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place of its own for the private server, and no influxd on PATH; what runs there is ended."""
    place = tmp_path / "influxdb"
    # What was built is not of this place.
    monkeypatch.setenv("TESTBED_INFLUXDB_CACHE", os.environ.get("TESTBED_INFLUXDB_CACHE", str(binary.HOME / "bin")))
    for module in (binary, build, private, influx_cli):
        monkeypatch.setattr(module, "HOME", place)
    for module in (connection, private, influx_cli):
        monkeypatch.setattr(module, "DEFAULT", place / "connection.json")
    monkeypatch.setattr(private, "GIVEN", place / "given.json")
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.delenv("INFLUX_TOKEN", raising=False)
    yield place
    private.down()


@pytest.fixture
def run(home: Path) -> Run:
    return lambda *arguments: cli.main(["influx", *arguments])


def make_influxd(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put an ``influxd`` on PATH."""
    directory.mkdir()
    (directory / "influxd").write_text(f"#!/bin/sh\n{text}\n")
    (directory / "influxd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.defpath}")


def skip_without(major: int) -> Path:
    built = find_built(major)
    if built is None:
        pytest.skip(f"no InfluxDB {GENERATIONS[major - 1]}: `./testbed influx build` makes one")
    return built


def test_up_again_down_and_up_keep_one_server_and_its_data(
    home: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    skip_without(2)
    assert run("up") == 0
    first = load_connection(home / "connection.json")
    verify(first)
    process = private.find_running()
    assert process is not None
    server, pid = InfluxServer(process, home / "connection.json"), process.find()
    server.write("m value=1i 1700000000000000000")
    assert run("up", "--retention", "8w") == 0
    assert process.find() == pid
    assert load_connection(home / "connection.json") == first
    assert "InfluxDB 2.7" in capsys.readouterr().out
    assert run("status") == 0
    assert f"private server: process {pid}" in capsys.readouterr().out
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "connection.json").stat().st_mode & 0o777 == 0o600

    assert run("up", "--version", "1") == 2
    assert "a private InfluxDB 2 is running; `./testbed influx down` ends it first" in capsys.readouterr().err

    assert run("down") == 0
    assert process.find() == 0
    assert not (home / "connection.json").exists()
    assert run("up") == 0
    assert load_connection(home / "connection.json") == first
    assert run("down", "--purge") == 0
    assert sorted(path.name for path in home.iterdir()) == ["lock"]
    capsys.readouterr()
    assert run("down") == 0
    assert capsys.readouterr().out == "no private InfluxDB server runs\n"


def test_both_generations_keep_what_is_theirs(home: Path, run: Run) -> None:
    skip_without(1)
    skip_without(2)
    assert run("up", "--version", "1") == 0
    old = load_connection(home / "connection.json")
    assert (old.major, old.org, old.write_token) == (1, "-", "")
    assert run("down") == 0
    assert run("up", "--version", "2") == 0
    new = load_connection(home / "connection.json")
    assert run("down") == 0
    assert run("up", "--version", "2") == 0
    assert load_connection(home / "connection.json") == new


def test_a_killed_up_and_a_dead_server_are_no_hindrance(home: Path, run: Run) -> None:
    """The server was started, and nothing written of it; then it was killed too."""
    built = skip_without(2)
    process = InfluxProcess(home=home / "2", binary=built, major=2)
    home.mkdir(mode=0o700)
    process.start()
    pid = process.find()
    assert run("up") == 0
    assert process.find() == pid
    verify(load_connection(home / "connection.json"))
    process.kill()
    assert "refused" in private.state().problem
    assert run("up") == 0
    assert process.find() not in (0, pid)
    assert private.state().problem == ""


def test_a_server_that_is_given_gets_bucket_and_tokens(
    influx_server: InfluxServer, home: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = influx_server.connection
    (tmp_path / "token").write_text(given.admin_token)
    url = ["--url", given.url + "/", "--bucket", f"mine-{tmp_path.name[-20:]}".replace("_", "-")]
    assert run("up", *url) == 3
    assert "--token-file or $INFLUX_TOKEN" in capsys.readouterr().err
    assert run("up", *url, "--token-file", str(tmp_path / "token")) == 0
    taken = load_connection(home / "connection.json")
    assert taken.write_token not in ("", given.write_token)
    verify(taken)
    assert run("up") == 0  # it is the one that is used from now on
    assert load_connection(home / "connection.json") == taken
    assert private.find_running() is None
    assert run("down") == 0
    assert not (home / "connection.json").exists()
    verify(taken)


def test_a_server_that_is_given_with_both_tokens_is_only_checked(
    influx_server: InfluxServer, home: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = influx_server.connection
    (tmp_path / "write").write_text(given.write_token)
    (tmp_path / "read").write_text(given.read_token)
    url = ["--url", given.url, "--bucket", given.bucket.partition("/")[0]]
    assert run("up", *url, "--write-token-file", str(tmp_path / "write")) == 2
    both = ["--write-token-file", str(tmp_path / "write"), "--read-token-file"]
    assert run("up", *url, *both, str(tmp_path / "write")) == 3
    assert "the read token may not read" in capsys.readouterr().err
    assert not (home / "connection.json").exists()
    assert run("up", *url, *both, str(tmp_path / "read")) == 0
    assert load_connection(home / "connection.json").admin_token == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--url", "desktop:8086"], "url must look like"),
        (["--url", "http://127.0.0.1:1"], "can't be reached"),
        (["--url", "http://127.0.0.1:1", "--version", "2"], "--version is for a private server"),
        (["--token-file", "x"], "--token-file is for a server given with --url"),
        (["--url", "http://127.0.0.1:1", "--token-file", "/does/not/exist"], "can't be read as a token"),
        (["--retention", "5m"], "give hours, days or weeks"),
    ],
)
def test_wrong_arguments_get_a_sentence(
    arguments: list[str], sentence: str, home: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("up", *arguments) in (2, 3)
    assert sentence in capsys.readouterr().err
    assert not (home / "connection.json").exists()


def test_without_any_server_or_toolchain_it_says_so_in_one_line(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESTBED_INFLUXDB_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert run("up") == 3
    said = capsys.readouterr().err
    assert said.startswith("error: there is no InfluxDB server here: install")
    assert said.count("\n") == 1
    assert run("up", "--version", "2") == 3
    said = capsys.readouterr().err
    assert "Go 1.23 or newer, Rust 1.72 or newer with cargo, gcc, pkg-config is missing" in said
    assert run("status") == 0
    assert "no InfluxDB server is in use" in capsys.readouterr().out


@pytest.mark.parametrize("version", ["1.6.7", "1.7.11", "3.0.1"])
def test_an_influxd_of_another_version_is_refused_with_a_sentence(
    version: str, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("TESTBED_INFLUXDB_CACHE", str(tmp_path / "none"))
    make_influxd(tmp_path / "bin", monkeypatch, f"echo 'InfluxDB v{version} (git: unknown)'")
    assert run("up") == 2
    assert f"is InfluxDB {version}; 1.8 or 2.x is needed" in capsys.readouterr().err


def test_the_one_on_path_comes_before_those_that_were_built(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    for version in binary.VERSIONS.values():
        (kept / version).mkdir(parents=True)
        (kept / version / "influxd").write_text("")
        (kept / version / "influxd").chmod(0o755)
    monkeypatch.setenv("TESTBED_INFLUXDB_CACHE", str(kept))
    assert binary.find_binary(None) == (kept / "2.7.12" / "influxd", 2)
    assert binary.find_binary(1) == (kept / "1.8.10" / "influxd", 1)
    make_influxd(tmp_path / "bin", monkeypatch, "echo 'InfluxDB v1.8.10 (git: x)'")
    assert binary.find_binary(None) == (tmp_path / "bin" / "influxd", 1)
    assert binary.find_binary(2) == (kept / "2.7.12" / "influxd", 2)
    (tmp_path / "bin" / "influxd").write_text("#!/bin/sh\necho InfluxDB v3.0.0\n")
    assert binary.find_binary(None) == (kept / "2.7.12" / "influxd", 2)


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, None), ("forever", 0), ("12h", 43200), ("30d", 2592000), ("8w", 4838400)]
)
def test_retention_is_read(text: str | None, seconds: int | None) -> None:
    assert parse_retention(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0d", "-1d", "1.5d", "7", "1 d", "9999999d"])
def test_other_retentions_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_retention(text)


def test_tokens_are_never_taken_from_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "control", "influx", "up", "--help"], capture_output=True, text=True, check=True
    )
    options = {word.strip(",") for word in done.stdout.split() if word.startswith("--")}
    assert {"--token-file", "--write-token-file", "--read-token-file"} <= options
    assert not {"--token", "--password"} & options
