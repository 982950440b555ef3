"""The whole path on emulated hosts, by real SSH and with real systemd: deploy, experiment, reset, teardown, verify.

The tests of this file are steps of one path, in their order. Two hosts get everything afresh; what one of them then has
is the golden layer of the five that the rest is done with.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.testbed_copy import EMULATED, Play, TestbedCopy
from tests.emulator.footprint import look, members
from tests.emulator.testbed import EMULATION, make_testbed

pytestmark = [*EMULATION, pytest.mark.deployment]

HOSTS = ("desktop", "pi01", "pi02", "pi03", "pi04")
_INVENTORY = ("-i", "emulated")
_EXPERIMENT = """\
name: emulated
description: A committee of a desktop and four boards.
validators: 5
hosts: all
block_bytes: 8K
transaction_bytes: 1K
workload: {kind: rounds, rounds: 10, warmup: 1}
"""


class Lab:
    """A copy of the project and its emulated hosts."""

    def __init__(self, place: Path) -> None:
        self.copy = TestbedCopy(place / "testbed", place / "home")
        self.copy.copy_wheels(EMULATED)
        self.hosts = make_testbed(place / "emulated", self.copy.root / "inventory" / "emulated")

    def verb(self, name: str, *arguments: str) -> Play:
        """Run a verb of ``./testbed``."""
        return self.copy.try_testbed(name, *_INVENTORY, *arguments)

    def play(self, name: str, *arguments: str) -> Play:
        """Run a playbook by hand, as the manual says."""
        enter = ["ip", "netns", "exec", self.hosts.settings.lab]
        program = self.copy.command(name, inventory="emulated")[0]
        done = subprocess.run(
            [*enter, program, f"playbooks/{name}.yml", "-i", "inventory/emulated", *arguments],
            cwd=self.copy.root,
            env=self.copy.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Play(done.returncode, done.stdout)

    def script(self, host: str, text: str) -> str:
        code, output = self.hosts.inside(host, text)
        assert code == 0, output
        return output


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"))
    seen = members(made.hosts.settings)
    try:
        yield made
        seen = members(made.hosts.settings)
    finally:
        made.hosts.run("down")
    left = look(made.hosts.settings, seen)
    assert left == type(left)(*[frozenset()] * 7)


def changed(done: Play, hosts: tuple[str, ...] = HOSTS) -> int:
    """How many tasks changed something; all hosts must have come to the end."""
    assert done.code == 0, done.output
    assert tuple(sorted(done.recap)) == hosts, done.output
    return sum(counters["changed"] for counters in done.recap.values())


def test_fresh_hosts_are_looked_at_and_then_deployed(lab: Lab) -> None:
    lab.hosts.run("up", "-n", "2")
    fresh = ("desktop", "pi01")
    assert changed(lab.verb("deploy", "--check"), fresh) > 0
    lab.script("pi01", "! id microchain && ! test -e /opt/microchain && ! test -e /var/lib/microchain-testbed")
    assert changed(lab.verb("deploy"), fresh) > 0
    exposure = lab.script("pi01", "systemd-analyze security --no-pager microchain@pi01 | tail -1")
    assert float(re.findall(r": ([0-9.]+) ", exposure)[0]) <= 2.5
    # What is on a board but in no other's image: keys and settings.
    lab.script("pi01", "rm -r /opt/microchain/state/* /opt/microchain/deployed")
    lab.hosts.run("snapshot", "deployed", "--host", "pi01")
    lab.hosts.run("down")


def test_five_hosts_are_deployed_and_the_second_time_nothing_changes(lab: Lab) -> None:
    lab.hosts.run("up", "-n", "5", "--golden", "deployed")
    # What that deployment made for the two hosts belongs to them.
    assert changed(lab.verb("deploy")) > 0
    assert changed(lab.verb("deploy")) == 0
    assert changed(lab.play("deploy", "--check")) == 0
    assert changed(lab.verb("deploy", "--limit", "pi01"), ("pi01",)) == 0


def test_an_experiment_streams_over_the_hosts_network_and_ends_with_equal_points(lab: Lab) -> None:
    if not (lab.copy.root / ".cache" / "influxdb" / "emulated.json").exists():
        pytest.skip("there is no influxd 2.x: './testbed influx build --version 2' makes it")
    file = lab.copy.root / "experiments" / "emulated.yml"
    file.write_text(_EXPERIMENT)
    done = lab.copy.try_testbed("experiment", *_INVENTORY, str(file), "--run-dir", "runs/emulated")
    assert done.code == 0, done.output
    run = lab.copy.root / "runs" / "emulated"
    cells = sorted(run.glob("cells/*"))
    assert len(cells) == 1 and (run / "SHA256SUMS").exists()
    for cell in cells:
        record = json.loads((cell / "influxdb.json").read_bytes())
        assert record["equal"] and record["points"] > record["backfilled"], record
    hosts = json.loads((run / "environment.json").read_bytes())["hosts"]
    assert set(hosts) == set(HOSTS), hosts
    status = lab.verb("status")
    assert "desktop-5" in status.text and "InfluxDB v2" in status.text
    assert changed(lab.play("collect")) == 0


def test_a_host_without_power_is_named_and_a_cell_that_needs_it_fails_alone(lab: Lab) -> None:
    lab.hosts.run("kill", "desktop")
    try:
        status = lab.verb("status")
        assert status.code == 3
        sentence = "desktop: it does not answer at 10.77.77.10: is it switched on"
        left_out = " ".join(status.output.partition("Name the hosts that were left out")[2].split())
        assert sentence in left_out and "--limit desktop" in left_out
        assert all(lab_ok(status, host) for host in HOSTS[1:]), status.output
        # Four boards are one committee; five need the desktop.
        variables = [
            "-e",
            "experiment=experiments/emulated.yml",
            "-e",
            "run_dir=runs/dark",
            "-e",
            "influxdb_connection=",
        ]
        (lab.copy.root / "experiments" / "emulated.yml").write_text(_EXPERIMENT.replace(": 5", ": [4, 5]"))
        done = lab.play("experiment", *variables)
    finally:
        lab.hosts.run("start", "desktop")
    assert done.code != 0 and sentence in done.text
    four, five = sorted((lab.copy.root / "runs" / "dark" / "cells").iterdir())
    assert (four / "sealed").exists(), done.output
    outcome = json.loads((five / "outcome.json").read_bytes())
    assert outcome["status"] == "failed" and "it needs desktop-1" in outcome["message"]


def lab_ok(done: Play, host: str) -> bool:
    return done.recap[host]["failed"] == done.recap[host]["unreachable"] == 0


def test_reset_takes_what_cells_left_on_the_hosts_and_nothing_else(lab: Lab) -> None:
    own = "cd /opt/microchain && setpriv --reuid microchain --regid microchain --clear-groups sh -c"
    for host in HOSTS:
        lab.script(host, f"{own} 'for v in state/validators/*; do mkdir -p $v/data/x; done; touch collected/x.tar.gz'")
    keys = lab.script("pi01", "sha256sum /opt/microchain/state/validators/pi01/keys/*")
    assert changed(lab.verb("reset")) == len(HOSTS)
    for host in HOSTS:
        lab.script(host, "cd /opt/microchain && ! ls -d collected/* state/cells state/validators/*/[dc]* 2>/dev/null")
    assert lab.script("pi01", "sha256sum /opt/microchain/state/validators/pi01/keys/*") == keys
    assert changed(lab.play("reset")) == 0
    if (lab.copy.root / "runs" / "emulated").exists():
        answer = lab.copy.testbed("influx", "backfill", "emulated")
        assert "InfluxDB equals the spools" in answer, answer


def test_teardown_gives_the_hosts_back_and_verify_clean_finds_whatever_is_left(lab: Lab) -> None:
    dirty = lab.verb("verify-clean")
    assert dirty.code == 1 and "user microchain" in dirty.text
    assert changed(lab.verb("teardown")) > 0
    assert changed(lab.play("teardown")) == 0
    clean = lab.verb("verify-clean")
    assert changed(clean) == 0
    assert all(f"{host} is clean, and has what it had before" in clean.text for host in HOSTS)
    for host, (script, _) in _LEFT.items():
        lab.script(host, script)
    found = lab.verb("verify-clean")
    assert found.code == 1
    for host, (_, sentences) in _LEFT.items():
        said = found.text.partition(f"fatal: [{host}]")[2].partition("fatal: [")[0]
        assert all(sentence in said for sentence in sentences), (host, found.output)


_LEFT = {
    "desktop": (
        # Whoever runs this waits for the end of its output, which the sleeper must not hold.
        "useradd --system --no-create-home microchain && "
        "(setsid setpriv --reuid microchain --clear-groups sleep 999 >/dev/null 2>&1 &)",
        ["user microchain", "group microchain is there, and was not before", "(sleep 999) runs"],
    ),
    "pi01": (
        "cd /etc && echo '[Service]' >systemd/system/microchain@.service && mkdir -p cron.d && echo '#microchain' >"
        "cron.d/x",
        [
            "/etc/systemd/system/microchain@.service is there",
            "unit microchain@.service",
            "/etc/cron.d/x names microchain",
        ],
    ),
    "pi02": (
        "nft add table inet testbed && tc qdisc add dev lo root tbf rate 1gbit burst 1mb limit 1mb",
        ["nft table inet testbed", "queueing discipline qdisc tbf"],
    ),
    "pi03": (
        "cd /tmp && mkdir -p p/DEBIAN && printf 'Package: extra\nVersion: 1\nArchitecture: all\nMaintainer: x\n"
        "Description: x\n' >p/DEBIAN/control && dpkg-deb -b p extra.deb && dpkg -i extra.deb && "
        "(setsid python3 -c 'import socket, time; s = socket.create_server((\"\", 9101)); time.sleep(999)'"
        " >/dev/null 2>&1 &)",
        ["package extra is there, and was not before", "port 9101 is listened on"],
    ),
    "pi04": (
        "mkdir -p /home/pi/.ansible /opt/microchain /etc/ssl/certs && touch /etc/ssl/certs/microchain.pem",
        ["directory /home/pi/.ansible", "/opt/microchain is there", "certificate /etc/ssl/certs/microchain.pem"],
    ),
}
