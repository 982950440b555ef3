"""Hosts that can't be used, on real ones: each is left out with one sentence, before anything on it was changed.

Three emulated hosts: a good one (desktop), one that many names stand for, each with an address of its own and one thing
wrong (pi01), and one that is ill itself (pi02).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.testbed_copy import EMULATED, Play, TestbedCopy
from tests.emulator.testbed import EMULATION, Testbed, make_testbed

pytestmark = [*EMULATION, pytest.mark.deployment]

_NET = "10.77.77"
_TAKEN = 9301
_TWINS = f"{_NET}.99"

# An interpreter that passes for another one says so to whoever asks; what it is asked by is real.
_INTERPRETERS = {
    "32": 'exec setarch i686 /usr/bin/python3 "$@"',
    "3.9": 'PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/opt/3.9 exec /usr/bin/python3 "$@"',
    "3.5": 'PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/opt/3.5 exec /usr/bin/python3 "$@"',
    "3.99": 'PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/opt/3.99 exec /usr/bin/python3 "$@"',
}
_SITE = "import sys\nsys.version_info = ({0}, 2, 'final', 0)\nsys.version = '{1}.2 (main)'\n"

# Each name of pi01: what is wrong with it, and what is said of it.
_NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "changed-key": ({}, "shows another SSH host key than known_hosts has"),
    "unknown-key": ({}, "is not in known_hosts: compare it with the board's own"),
    "wrong-key": ({}, "pi@{address} does not take our SSH key: bring it there with ssh-copy-id"),
    "wrong-user": ({"ansible_user": "nobody-here"}, "nobody-here@{address} does not take our SSH key"),
    "wrong-sudo": (
        {"ansible_user": "careful", "ansible_become_password": "not-it"},
        "sudo refuses careful: correct ansible_become_password",
    ),
    "no-sudo": ({"ansible_user": "careful"}, "sudo refuses careful: correct ansible_become_password"),
    "wrong-system": (
        {"ansible_python_interpreter": "/usr/local/bin/python32"},
        "its system is for i686 (64 bit), there are wheels for x86_64 and aarch64: install a 64-bit system",
    ),
    "old-python": (
        {"ansible_python_interpreter": "/usr/local/bin/python3.9"},
        "Python 3.9.2 is too old: install 3.11 or newer, or set ansible_python_interpreter",
    ),
    "ancient-python": (
        {"ansible_python_interpreter": "/usr/local/bin/python3.5"},
        "/usr/local/bin/python3.5 is too old: install Python 3.11 or newer",
    ),
    "no-python": (
        {"ansible_python_interpreter": "/usr/local/bin/python4"},
        "there is no /usr/local/bin/python4: install python3, or set ansible_python_interpreter",
    ),
    "no-wheels": (
        {"ansible_python_interpreter": "/usr/local/bin/python3.99"},
        "there are no wheels for x86_64-3.99: is the control machine online? If so, use a system with another Python",
    ),
    "taken-port": (
        {"validators": [{"name": "taken-port", "peer_port": 9101, "api_port": _TAKEN}]},
        f"port {_TAKEN} is in use by /usr/bin/python3 -m http.server {_TAKEN}",
    ),
    "twin-1": ({"testbed_address": _TWINS}, f"twin-1, twin-2 have the same address {_TWINS}: correct the inventory"),
    "twin-2": ({"testbed_address": _TWINS}, f"twin-1, twin-2 have the same address {_TWINS}: correct the inventory"),
    "namesake-1": (
        {"validators": [{"name": "same", "peer_port": 9101, "api_port": 9201}]},
        "validator same is in the inventory twice: give each a name of its own",
    ),
    "namesake-2": (
        {"validators": [{"name": "same", "peer_port": 9101, "api_port": 9201}]},
        "validator same is in the inventory twice: give each a name of its own",
    ),
}
_ADDRESSES = {name: f"{_NET}.{100 + number}" for number, name in enumerate(_NAMES)}

# What runs by itself changes these.
_RESTLESS = " -o ".join(f"-path {path}" for path in ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/log"))
_LOOK = f"""find / -xdev \\( {_RESTLESS} \\) -prune -o -printf '%p %y %m %u %g %s %T@ %l\\n'
ls -A /tmp; systemctl list-unit-files --no-legend | grep -v ' transient '"""


class Lab:
    """The hosts, and a copy of the project whose inventory ``emulated`` names them."""

    def __init__(self, testbed: Testbed, project: TestbedCopy, directory: Path) -> None:
        self.testbed = testbed
        self.project = project
        self._directory = directory
        self._inventory = yaml.safe_load(testbed.settings.inventory_file.read_text())
        self._inventory.pop("influxdb")
        self._inventory["testbed"]["children"]["boards"]["hosts"].pop("pi01")

    def prepare(self) -> None:
        """Give pi01 its addresses, a careful user, other interpreters, and a stranger on a port."""
        lines = [f"ip address add {address}/24 dev eth0" for address in (*_ADDRESSES.values(), _TWINS)]
        lines += [
            "useradd -m careful -G sudo && echo careful:secret | chpasswd",
            "install -d -o careful -m 700 ~careful/.ssh",
            "install -o careful -m 600 ~pi/.ssh/authorized_keys ~careful/.ssh",
            f"systemd-run --quiet --unit stranger /usr/bin/python3 -m http.server {_TAKEN}",
        ]
        for name, script in _INTERPRETERS.items():
            program = f"/usr/local/bin/python{name}"
            lines.append(f"printf '%s\\n' '#!/bin/sh' '{script}' > {program} && chmod 755 {program}")
            if "." in name:
                site = _SITE.format(name.replace(".", ", "), name).replace("'", '"').replace("\n", "\\n")
                lines.append(f"mkdir -p /opt/{name} && printf '{site}' > /opt/{name}/sitecustomize.py")
        self.inside("pi01", " && ".join(lines))

    def inside(self, host: str, script: str) -> str:
        code, output = self.testbed.inside(host, script)
        assert code == 0, output
        return output

    def look(self, host: str) -> set[str]:
        """Everything on a host that stays: files and units, but for logs."""
        return set(self.inside(host, _LOOK).splitlines())

    def play(self, name: str, *arguments: str) -> Play:
        """Run a playbook as a person would, but with keys that are quickly made and no package index."""
        command = self.project.command(name, "-e", "pki_signature=ed25519", *arguments, inventory="emulated")
        offline = {"PIP_INDEX_URL": "http://127.0.0.1:1", "PIP_RETRIES": "0"}
        done = subprocess.run(
            ["ip", "netns", "exec", self.testbed.settings.lab, *command],
            cwd=self.project.root,
            env=self.project.environment() | offline,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Play(done.returncode, done.stdout)

    def testbed_verb(self, *arguments: str) -> tuple[int, str]:
        """Run a verb of ``./testbed``; returns exit code and output."""
        verb, *others = arguments
        done = subprocess.run(
            [sys.executable, "-m", "control", verb, "-i", "emulated", *others],
            cwd=self.project.root,
            env=self.project.environment() | {"PYTHONPATH": f"{self.project.root}:{self.project.root / 'node'}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def write_inventory(self) -> None:
        group = self._inventory["testbed"]
        for name, (variables, _) in _NAMES.items():
            address = _ADDRESSES[name]
            group["children"]["boards"]["hosts"][name] = {
                "ansible_host": address, "testbed_address": address, **self._strangeness(name), **variables
            }  # fmt: skip
        path = self.project.root / "inventory" / "emulated" / "hosts.yml"
        path.write_text(yaml.safe_dump(self._inventory))

    def _strangeness(self, name: str) -> dict[str, str]:
        """Write what a name's host is known by; returns how SSH finds it."""
        known = self.testbed.settings.known_hosts.read_text().splitlines()
        keys = {line.split()[0].split(",")[0]: line.split(maxsplit=1)[1] for line in known}
        shown = {"changed-key": keys["desktop"], "unknown-key": None}.get(name, keys["pi01"])
        file = self._directory / f"known-{name}"
        file.write_text("" if shown is None else f"{_ADDRESSES[name]} {shown}\n")
        options = f"-o StrictHostKeyChecking=yes -o UserKnownHostsFile={file} -o IdentitiesOnly=yes -o ConnectTimeout=5"
        if name != "wrong-key":
            return {"ansible_ssh_common_args": options}
        key = self._directory / "another_key"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        return {"ansible_ssh_common_args": options, "ansible_ssh_private_key_file": str(key)}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    place = tmp_path_factory.mktemp("bad-hosts")
    testbed = make_testbed(place / "emulated")
    project = TestbedCopy(place / "testbed", place / "home")
    project.copy_wheels(EMULATED)
    testbed.run("up", "-n", "3", "--disk", "1G")
    try:
        made = Lab(testbed, project, place)
        made.prepare()
        made.write_inventory()
        yield made
    finally:
        testbed.run("down")
        shutil.rmtree(place / "emulated", ignore_errors=True)


def sentences(play: Play) -> dict[str, str]:
    """What the last task says of each host that was left out."""
    said = play.output.rpartition("TASK [Name the hosts that were left out]")[2].partition("=> \n")[2]
    lines = yaml.safe_load(said.partition("\n\n")[0])["msg"]
    return dict(line.split(": ", 1) for line in lines)


def changes(lab: Lab, before: dict[str, set[str]]) -> list[str]:
    """What hosts have now and had not, or the other way round."""
    return [f"{host}: {line}" for host, lines in before.items() for line in sorted(lines ^ lab.look(host))]


def test_each_bad_host_is_left_out_with_a_sentence_unchanged_and_the_good_one_is_deployed(lab: Lab) -> None:
    lab.inside("pi02", "fallocate -l 2G /filler || true")
    before = {host: lab.look(host) for host in ("pi01", "pi02")}
    play = lab.play("deploy")
    assert changes(lab, before) == []
    said = sentences(play)
    assert sorted(said) == sorted(["pi02", *_NAMES])
    for name, (_, sentence) in _NAMES.items():
        assert sentence.format(address=_ADDRESSES[name]) in said[name]
    assert re.match(r"only \d MB are free at /opt, 500 are needed: make room", said["pi02"])
    assert play.recap["desktop"]["failed"] == 0 and play.recap["desktop"]["changed"] > 0
    assert lab.inside("desktop", "ls /opt/microchain/deployed /opt/microchain/env/bin/python")


def test_a_host_whose_disk_became_read_only_and_whose_clock_is_wrong_is_told_both(lab: Lab) -> None:
    lab.inside("pi02", "rm -f /filler; journalctl --relinquish-var && mount -o remount,bind,ro /")
    lab.testbed.run("clock", "pi02", "--offset=-1d")
    before = {"pi02": lab.look("pi02")}
    play = lab.play("deploy", "--limit", "desktop,pi02")
    assert changes(lab, before) == []
    assert sentences(play) == {
        "pi02": "its clock is 24 hours behind this machine's: set it (sudo date --set), or let it follow a time server"
        " (time_sync: true). read-only file system at /opt, /etc/systemd/system, /var/lib: look at dmesg for a failing"
        " SD card, and reboot it."
    }
    assert play.recap["desktop"]["failed"] == play.recap["desktop"]["changed"] == 0


def test_other_playbooks_leave_the_same_hosts_out(lab: Lab) -> None:
    names = ("changed-key", "wrong-key", "wrong-sudo", "ancient-python")
    play = lab.play("status", "--limit", ",".join(["desktop", *names]))
    said = sentences(play)
    assert sorted(said) == sorted(names)
    for name in names:
        assert _NAMES[name][1].format(address=_ADDRESSES[name]) in said[name]
    assert "desktop-5" in play.text


def test_live_commands_say_the_same_of_them_and_run_on_the_good_one(lab: Lab) -> None:
    said = {
        "changed-key": "is not the one that is known: another machine answers at this address",
        "unknown-key": "is not known: compare it with the host's own",
        "wrong-key": "it does not let pi in with",
        "wrong-sudo": "sudo does not take the password: check ansible_become_password",
        "no-sudo": "sudo asks for a password: set ansible_become_password",
    }
    code, output = lab.testbed_verb("exec", "--sudo", "--limit", ",".join(["desktop", *said]), "--", "id -u")
    assert code == 3, output
    lines = dict(line.split("│ ", 1) for line in output.splitlines() if "│" in line)
    told = {name.strip(): text for name, text in lines.items()}
    assert told.pop("desktop") == "0"
    assert all(sentence in told[name] for name, sentence in said.items()), told


def test_a_name_that_stands_twice_is_refused_before_any_host_is_asked(lab: Lab) -> None:
    path = lab.project.root / "inventory" / "emulated" / "twice.yml"
    path.write_text(
        "testbed:\n  hosts:\n    pi01: {ansible_host: 10.77.77.11}\n    pi01: {ansible_host: 10.77.77.12}\n"
    )
    try:
        play = lab.play("deploy")
    finally:
        path.unlink()
    assert play.code and play.recap == {}
    assert "Found duplicate mapping key 'pi01'" in play.text and "twice.yml" in play.text
