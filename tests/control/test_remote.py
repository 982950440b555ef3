"""Commands on hosts, over a real SSH server on loopback: who is trusted, what is bounded, what ends."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from control.errors import DeploymentFailed, UsageError
from control.namespace import enter_namespace
from control.project import ROOT
from control.remote import execute
from control.remote.execute import execute_on, report
from control.remote.fanout import Outcome, run_all
from control.remote.hosts import Host, read_hosts
from control.remote.lines import LineSplitter, PrefixedPrinter, plain
from control.remote.session import Away, Refused
from tests.cluster import free_ports
from tests.control.ssh_server import SUDO_PASSWORD, SshServer, needs_sshd

LOCAL = Host(name="here", local=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    server = SshServer(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _no_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key or configuration of whoever runs the tests."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def execute_one(host: Host, line: str, *, sudo: bool = False, timeout_s: float = 60.0) -> tuple[Outcome, list[str]]:
    lines: list[str] = []
    outcomes = execute_on({host.name: host}, line, lambda _, text: lines.append(text), sudo=sudo, timeout_s=timeout_s)
    return outcomes[host.name], lines


def gone(marker: Path, seconds: float = 30.0) -> bool:
    """Whether the process that wrote its id into a file ends."""
    process = Path("/proc") / marker.read_text().strip()
    return holds(lambda: not process.exists(), seconds)


def holds(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def hosts_to_try() -> list[object]:
    return [pytest.param(False, id="local"), pytest.param(True, id="ssh", marks=needs_sshd)]


@pytest.fixture(params=hosts_to_try())
def host(request: pytest.FixtureRequest) -> Host:
    """This machine, without and with SSH."""
    if not request.param:
        return LOCAL
    server: SshServer = request.getfixturevalue("server")
    return server.host()


def test_output_and_exit_code_come_back(host: Host) -> None:
    outcome, lines = execute_one(host, "echo one; echo 'two  words' >&2; printf three; exit 7")
    assert outcome == 7
    assert lines == ["one", "two  words", "three"]


def test_a_command_reads_nothing_from_us(host: Host) -> None:
    assert execute_one(host, "cat; echo end") == (0, ["end"])


def test_a_command_that_takes_too_long_is_ended(host: Host, tmp_path: Path) -> None:
    outcome, lines = execute_one(host, f"echo $$ >{tmp_path}/id; echo begun; exec sleep 600", timeout_s=1)
    assert (outcome, lines) == (124, ["begun"])
    assert gone(tmp_path / "id")


def test_output_is_bounded_and_the_command_ended(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "MOST_OUTPUT", 1 << 20)
    outcome, lines = execute_one(host, f"echo $$ >{tmp_path}/id; exec yes 123456789")
    assert isinstance(outcome, Refused)
    assert "passed 1 MiB" in str(outcome)
    assert sum(len(line) + 1 for line in lines) == pytest.approx(1 << 20, abs=20)
    assert gone(tmp_path / "id")


def test_what_is_left_in_the_background_is_not_waited_for(host: Host, tmp_path: Path) -> None:
    outcome, lines = execute_one(host, f"setsid sleep 600 & echo $! >{tmp_path}/id; echo done")
    assert (outcome, lines) == (0, ["done"])
    execute_one(host, f"kill $(cat {tmp_path}/id)")


def test_an_interruption_ends_the_commands_of_all_hosts(host: Host, tmp_path: Path) -> None:
    hosts = dict.fromkeys(("a", "b"), host)
    seen: list[str] = []

    def interrupt(name: str, text: str) -> None:
        seen.append(text)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_on(hosts, f"echo $$ >>{tmp_path}/ids; echo begun; exec sleep 600", interrupt, timeout_s=600)
    for process in (tmp_path / "ids").read_text().split():
        (tmp_path / "id").write_text(process)
        assert gone(tmp_path / "id")


@needs_sshd
def test_an_unknown_host_key_is_refused(server: SshServer, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for options in ((f"UserKnownHostsFile {empty}",), (), ("StrictHostKeyChecking no", f"UserKnownHostsFile {empty}")):
        outcome, lines = execute_one(server.host(options=options), f"touch {tmp_path}/reached")
        assert isinstance(outcome, Away)
        assert "ssh-ed25519 SHA256:" in str(outcome)
        assert "is not known" in str(outcome)
        assert not lines
    assert not (tmp_path / "reached").exists()
    assert not empty.read_text()


@needs_sshd
def test_another_host_key_than_the_known_one_is_refused(server: SshServer, tmp_path: Path) -> None:
    server.know(server.make_another_key())
    try:
        outcome, _ = execute_one(server.host(), f"touch {tmp_path}/reached")
    finally:
        server.know(server.host_key)
    assert isinstance(outcome, Away)
    assert "is not the one that is known" in str(outcome)
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}' -f {server.known_hosts}" in str(outcome)
    assert not (tmp_path / "reached").exists()


@needs_sshd
def test_a_wrong_key_is_named(server: SshServer, tmp_path: Path) -> None:
    wrong = server.root / "host"  # a key, but not one that the server lets in
    outcome, _ = execute_one(server.host(keys=(str(wrong),)), "true")
    assert isinstance(outcome, Away)
    assert f"with {wrong}" in str(outcome)
    outcome, _ = execute_one(server.host(keys=(str(tmp_path / "none"),)), "true")
    assert isinstance(outcome, Away)
    assert "does not exist" in str(outcome)


def test_a_host_that_is_away_is_named_with_what_to_do(tmp_path: Path) -> None:
    board = Host(name="pi07", address="127.0.0.1", port=free_ports(1)[0], user="pi")
    outcome, _ = execute_one(board, "true")
    assert isinstance(outcome, Away)
    assert "can't be reached at 127.0.0.1" in str(outcome)
    assert "is it on" in str(outcome)


def test_something_that_is_no_ssh_server_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=talk, daemon=True).start()
        outcome, _ = execute_one(Host(name="x", address="127.0.0.1", port=listener.getsockname()[1], user="pi"), "true")
    assert isinstance(outcome, Away)
    assert "is an SSH server there?" in str(outcome)


@needs_sshd
def test_sudo_is_told_the_password_and_nobody_else(server: SshServer) -> None:
    board = server.host(become_password=SUDO_PASSWORD)
    outcome, lines = execute_one(board, "echo $BY_SUDO; cat", sudo=True)
    assert (outcome, lines) == (0, ["yes"])  # neither the lecture nor what sudo read


@needs_sshd
@pytest.mark.parametrize(
    ("password", "reason"), [(None, "set ansible_become_password"), ("wrong", "does not take the password")]
)
def test_without_the_right_password_sudo_runs_nothing(
    server: SshServer, tmp_path: Path, password: str | None, reason: str
) -> None:
    outcome, _ = execute_one(server.host(become_password=password), f"touch {tmp_path}/done", sudo=True)
    assert isinstance(outcome, Refused)
    assert reason in str(outcome)
    assert not (tmp_path / "done").exists()


@needs_sshd
def test_one_host_that_is_away_does_not_stop_the_others(server: SshServer) -> None:
    away = Host(name="pi02", address="127.0.0.1", port=free_ports(1)[0], user="pi")
    hosts = {"pi01": server.host(), "pi02": away, "pi03": LOCAL}
    lines: list[tuple[str, str]] = []
    outcomes = execute_on(hosts, "echo here", lambda *line: lines.append(line), timeout_s=60)
    assert sorted(lines) == [("pi01", "here"), ("pi03", "here")]
    screen = io.StringIO()
    code = report(outcomes, PrefixedPrinter(Console(file=screen, width=400), hosts), 60)
    assert code == 3
    assert "pi02 │ it can't be reached" in screen.getvalue()


def test_the_exit_code_is_the_greatest() -> None:
    screen = io.StringIO()
    printer = PrefixedPrinter(Console(file=screen, width=200), "ab")
    assert report({"a": 0, "b": 0}, printer, 60) == 0
    assert screen.getvalue() == ""
    assert report({"a": 4, "b": 124}, printer, 60) == 124
    assert screen.getvalue() == "a │ exit code 4\nb │ exit code 124 (it was ended after 60 s)\n"


def test_so_many_at_once_and_no_more() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def job(emit: object, cancel: threading.Event) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return 0

    outcomes = run_all({str(n): job for n in range(20)}, lambda *line: None, at_once=3)
    assert list(outcomes) == [str(n) for n in range(20)]
    assert most <= 3


def test_a_mistake_of_ours_on_one_host_is_that_hosts_outcome() -> None:
    def broken(emit: object, cancel: threading.Event) -> int:
        raise ValueError("a bug")

    (outcome,) = run_all({"a": broken}, lambda *line: None).values()
    assert isinstance(outcome, Refused)
    assert "a bug" in str(outcome)


def test_output_can_not_act_on_the_terminal() -> None:
    assert plain("\x1b[31mred\x1b[0m \x1b]0;title\x07and\x1b]2;t\x1b\\ \x1b[2Jend\ttab") == "red and end\ttab"
    assert plain("a\rb\x08c\x9b2Jd\u202ee") == "a\ufffdb\ufffdc\ufffd2Jd\ufffde"


def test_lines_are_put_together_and_long_ones_cut() -> None:
    lines: list[str] = []
    splitter = LineSplitter(lines.append)
    for part in (b"a", b"b\nc\r\n", b"\n", b"x" * 20000, "ü".encode()):
        splitter.write(part)
    splitter.close()
    assert lines[:3] == ["ab", "c", ""]
    assert "".join(lines[3:]) == "x" * 20000 + "ü"
    assert max(map(len, lines)) == 8192


def write_inventory(root: Path, text: str) -> Path:
    (root / "inventory" / "lab").mkdir(parents=True)
    (root / "playbooks" / "group_vars").mkdir(parents=True)
    (root / "playbooks" / "group_vars" / "all.yml").write_text('project: "{{ playbook_dir | dirname }}"\n')
    (root / "ansible.cfg").write_text("")
    (root / "inventory" / "lab" / "hosts.yml").write_text(text)
    return root


def test_hosts_are_what_ansible_says(tmp_path: Path) -> None:
    root = write_inventory(
        tmp_path,
        """\
testbed:
  hosts:
    pi01: {ansible_host: 192.0.2.11, ansible_port: 2222}
    pi02: {ansible_host: 192.0.2.12, service_backend: supervisor}
    desktop: {ansible_connection: local}
  vars:
    ansible_user: pi
    ansible_ssh_private_key_file: "{{ state }}/id_ed25519"
    ansible_ssh_common_args: '-o "UserKnownHostsFile=\\"{{ state }}/known_hosts\\"" -oStrictHostKeyChecking=yes'
    state: "{{ project }}/.cache/{{ inventory_dir | basename }}"
    testbed_root: /opt/microchain
    host_state: "{{ testbed_root ~ '/state' if service_backend == 'systemd' else testbed_root }}"
    service_backend: systemd
    control_namespace: lab
    ansible_become_password: !vault |
      $ANSIBLE_VAULT;1.1;AES256
      3030
    validators: "{{ something_only_a_playbook_knows }}"
""",
    )
    known = read_hosts("lab", "pi01,desktop", root=root)
    assert known.namespace == "lab"
    assert list(known.hosts) == ["desktop", "pi01"]
    assert known.hosts["desktop"].local
    assert known.hosts["pi01"] == Host(
        name="pi01",
        address="192.0.2.11",
        port=2222,
        user="pi",
        keys=(f"{root}/.cache/lab/id_ed25519",),
        options=(f'UserKnownHostsFile "{root}/.cache/lab/known_hosts"', "StrictHostKeyChecking yes"),
        root="/opt/microchain",
        state="/opt/microchain/state",
        backend="systemd",
    )
    with pytest.raises(UsageError, match="no host of inventory 'lab' matches 'pi99'"):
        read_hosts("lab", "pi99", root=root)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("ansible_port: 0", "give 1 to 65535"),
        ("service_backend: openrc", "there are supervisor and systemd"),
        ("ansible_host: '{{ nowhere }}'", "can't be worked out without a playbook"),
        ("ansible_host: '{{ ansible_host }}'", "in a circle"),
        ("ansible_ssh_common_args: '-o \"'", "can't be read"),
    ],
)
def test_an_inventory_that_makes_no_sense_is_named(tmp_path: Path, variable: str, message: str) -> None:
    root = write_inventory(tmp_path, f"testbed: {{hosts: {{pi01: }}, vars: {{{variable}}}}}\n")
    with pytest.raises(UsageError, match=message):
        read_hosts("lab", root=root)


def test_the_local_inventory_is_this_machine() -> None:
    (host,) = read_hosts("local").hosts.values()
    assert host.local
    assert host.backend == "supervisor"
    assert host.root == f"{ROOT}/.cache/local"


def test_a_namespace_that_is_not_there_is_named(tmp_path: Path) -> None:
    enter_namespace("")
    with pytest.raises(DeploymentFailed, match=r"'tb-lab'.*emulate up"):
        enter_namespace("tb-lab", directory=tmp_path)
