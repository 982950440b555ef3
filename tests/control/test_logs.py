"""Logs of validators on one screen: what was written, what is being written, over a host's restart too."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from control.errors import UsageError
from control.inventory import Deployment, Endpoint
from control.remote.hosts import Host
from control.remote.logs import choose_sources, show_logs
from tests.cluster import free_ports
from tests.control.ssh_server import SUDO_PASSWORD, SshServer, needs_sshd


@pytest.fixture(autouse=True)
def _no_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    (tmp_path / "server").mkdir()
    server = SshServer(tmp_path / "server")
    server.start()
    yield server
    server.stop()


def deployed(**places: str) -> Deployment:
    endpoints = [Endpoint(name=name, host=host, api="https://127.0.0.1:1") for name, host in places.items()]
    return Deployment(ca="", token_file="", endpoints=tuple(endpoints), devices=())


def log_of(root: Path, validator: str) -> Path:
    path = root / "validators" / validator / "node.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class Screen:
    """Where logs are shown, by a thread of their own when they are followed."""

    def __init__(self) -> None:
        self._file = io.StringIO()
        self.console = Console(file=self._file, width=400)

    def lines(self) -> list[str]:
        return self._file.getvalue().splitlines()

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self._file.getvalue():
            assert time.monotonic() < deadline, f"no '{text}' in {self._file.getvalue()}"
            time.sleep(0.05)


def test_the_end_of_each_log_is_shown_behind_its_validator(tmp_path: Path) -> None:
    host = Host(name="desktop", local=True, state=str(tmp_path))
    log_of(tmp_path, "desktop-1").write_text("".join(f"line {n}\n" for n in range(50)))
    log_of(tmp_path, "other").write_text("\x1b[2Jrude\n")
    screen = Screen()
    places = {"desktop-1": "desktop", "other": "desktop", "silent": "desktop", "far": "pi01"}
    sources = choose_sources({"desktop": host}, deployed(**places), [])
    assert show_logs(sources, screen.console, lines=2, follow=False) == 0
    assert sorted(screen.lines()) == [
        "desktop-1      │ line 48",
        "desktop-1      │ line 49",
        "desktop/other  │ rude",
        "desktop/silent │ has no log: it has not run since deploy or reset",
    ]


def test_a_validator_that_there_is_not_is_named() -> None:
    hosts = {"local": Host(name="local", local=True)}
    (source,) = choose_sources(hosts, deployed(a="local", b="local"), ["b"])
    assert (source.label, source.validator) == ("b", "b")
    with pytest.raises(UsageError, match="no validator 'c'; deployed are: a, b"):
        choose_sources(hosts, deployed(a="local", b="local"), ["c"])
    with pytest.raises(UsageError, match="none of the validators is on these hosts"):
        choose_sources(hosts, deployed(a="pi01"), [])


def test_a_host_that_is_away_does_not_hide_the_others(tmp_path: Path) -> None:
    log_of(tmp_path, "here").write_text("a line\n")
    hosts = {
        "desktop": Host(name="desktop", local=True, state=str(tmp_path)),
        "pi01": Host(name="pi01", address="127.0.0.1", port=free_ports(1)[0], user="pi"),
    }
    screen = Screen()
    sources = choose_sources(hosts, deployed(here="desktop", pi01="pi01"), [])
    assert show_logs(sources, screen.console, lines=5, follow=False) == 3
    assert "desktop/here │ a line" in screen.lines()
    assert any(line.startswith("pi01         │ it can't be reached") for line in screen.lines())


@needs_sshd
def test_systemds_word_on_a_unit_comes_with_the_validators_own(server: SshServer, tmp_path: Path) -> None:
    journalctl = server.root / "bin" / "journalctl"
    journalctl.write_text('#!/bin/sh\n[ "$BY_SUDO" = yes ] && echo "journal: $*"\n')
    journalctl.chmod(0o755)
    log_of(tmp_path, "pi01").write_text("its own\n")
    host = server.host(name="pi01", backend="systemd", state=str(tmp_path), become_password=SUDO_PASSWORD)
    screen = Screen()
    sources = choose_sources({"pi01": host}, deployed(pi01="pi01"), [])
    assert show_logs(sources, screen.console, lines=7, follow=False) == 0
    assert screen.lines() == [
        "pi01 │ journal: --quiet --no-pager -o short-iso -n 7 -u microchain@pi01",
        "pi01 │ its own",
    ]


@needs_sshd
def test_a_log_is_followed_over_lost_connections(server: SshServer, tmp_path: Path) -> None:
    log = log_of(tmp_path, "pi01")
    log.write_text("old\nnewer\n")
    sources = choose_sources({"pi01": server.host(name="pi01", state=str(tmp_path))}, deployed(pi01="pi01"), [])
    screen, stop = Screen(), threading.Event()

    def follow() -> None:
        show_logs(sources, screen.console, lines=1, follow=True, cancel=stop)

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        screen.wait_for("newer")
        with log.open("a") as file:
            file.write("live\n")
        screen.wait_for("live")
        server.stop()
        screen.wait_for("trying again")
        with log.open("a") as file:
            file.write("meanwhile\n")
        server.start()
        screen.wait_for("meanwhile")
        log.unlink()
        log.write_text("of the next cell\n")
        screen.wait_for("of the next cell")
    finally:
        stop.set()
        reader.join(60)
    assert not reader.is_alive()
    shown = [line.removeprefix("pi01 │ ") for line in screen.lines()]
    assert [line for line in shown if "trying again" not in line] == [
        "newer",
        "live",
        "is there again",
        "meanwhile",
        "of the next cell",
    ]
