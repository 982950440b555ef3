"""Hands on validators: a real supervisor, and a stand-in for systemctl, over a real SSH server where there is one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control.errors import UsageError
from control.remote.hands import Answer, Hands
from control.remote.hosts import Host
from control.remote.session import Away, Refused
from tests.control.ssh_server import SUDO_PASSWORD, SshServer, needs_sshd
from tests.control.test_logs import deployed


@pytest.fixture(autouse=True)
def _no_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A host's directory with a running supervisor, whose one validator notes its process id and sleeps."""
    root = tmp_path / "a root"
    (root / "supervisor").mkdir(parents=True)
    (root / "env").symlink_to(sys.prefix)
    (root / "supervisor" / "supervisor.conf").write_text(
        """\
[unix_http_server]
file = /proc/self/cwd/supervisor.sock
[supervisord]
directory = %(here)s
pidfile = %(here)s/supervisord.pid
logfile = %(here)s/supervisord.log
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix:///proc/self/cwd/supervisor.sock
[program:validator-1]
command = sh -c "echo $$ >id; exec sleep 600"
directory = %(here)s
autostart = false
autorestart = false
startsecs = 0
"""
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-s", "-c", "supervisor.conf"], cwd=root / "supervisor"
    )
    assert holds((root / "supervisor" / "supervisor.sock").exists)
    yield root
    process.terminate()
    process.wait()


def holds(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def state_of(root: Path) -> str:
    """The letter that the kernel gives to the validator's process; empty if it is gone."""
    try:
        process = (root / "supervisor" / "id").read_text().strip()
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def test_a_supervisors_validator_is_started_paused_killed_and_stopped(root: Path) -> None:
    hosts = {"local": Host(name="local", local=True, root=str(root))}
    with Hands(hosts, deployed(**{"validator-1": "local"})) as hands:
        hands.start("validator-1")
        assert holds(lambda: state_of(root) == "S")
        hands.start("validator-1")
        hands.pause("validator-1")
        assert holds(lambda: state_of(root) == "T")
        hands.resume("validator-1")
        assert holds(lambda: state_of(root) == "S")
        hands.kill("validator-1")
        assert holds(lambda: state_of(root) == "")
        with pytest.raises(Refused, match=r"local: KILL of validator-1 failed.*not running"):
            hands.kill("validator-1")
        hands.start("validator-1")
        assert holds(lambda: state_of(root) == "S")
        hands.stop("validator-1")
        assert state_of(root) == ""
        hands.stop("validator-1")


def test_names_that_there_are_not_are_told(tmp_path: Path) -> None:
    with Hands({"local": Host(name="local", local=True)}, deployed(a="local", b="pi01")) as hands:
        with pytest.raises(UsageError, match="no validator 'c'; deployed are: a, b"):
            hands.kill("c")
        with pytest.raises(UsageError, match="'pi01' of validator 'b' is not among"):
            hands.kill("b")
        with pytest.raises(UsageError, match="no host 'pi02'"):
            hands.run("pi02", "true")


def test_a_command_has_an_answer_of_bounded_size() -> None:
    with Hands({"local": Host(name="local", local=True)}, deployed()) as hands:
        assert hands.run("local", "echo one; echo two >&2; exit 3") == Answer(3, "one\ntwo")
        with pytest.raises(Refused, match="passed 1 MiB"):
            hands.run("local", "yes")


@needs_sshd
def test_systemd_is_asked_as_root_and_the_connection_opened_again(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    server = SshServer(tmp_path / "server")
    systemctl = server.root / "bin" / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$BY_SUDO $*" >>{tmp_path}/asked\n[ "$1" != stop ] || exit 5\n')
    systemctl.chmod(0o755)
    server.start()
    try:
        host = server.host(name="pi01", backend="systemd", become_password=SUDO_PASSWORD)
        with Hands({"pi01": host}, deployed(pi01="pi01")) as hands:
            hands.start("pi01")
            hands.pause("pi01")
            server.stop()
            with pytest.raises(Away):
                hands.kill("pi01")
            server.start()
            hands.kill("pi01")
            with pytest.raises(Refused, match="stop of pi01 failed"):
                hands.stop("pi01")
    finally:
        server.stop()
    assert (tmp_path / "asked").read_text().splitlines() == [
        "yes start microchain@pi01",
        "yes kill --signal=STOP microchain@pi01",
        "yes kill --signal=KILL microchain@pi01",
        "yes stop microchain@pi01",
    ]
