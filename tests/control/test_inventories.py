"""The inventories that come with the project, as Ansible understands them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from jinja2 import Environment
from microchain.config import NAME_PATTERN

from control.enrol import Host
from control.errors import UsageError
from control.playbooks import ansible_environment, playbook_command
from control.project import ROOT

BOARDS = [f"pi{number:02d}" for number in range(1, 17)]
INVENTORIES = ROOT / "inventory"
GENERATED = """\
testbed:
  children:
    desktops: {hosts: {desktop: {ansible_host: 10.77.0.10, testbed_address: 10.77.0.10}}}
    boards: {hosts: {pi01: {ansible_host: 10.77.0.11, testbed_address: 10.77.0.11}}}
  vars: {ansible_user: pi, control_namespace: tb-lab}
influxdb: {hosts: {desktop: {}}}
"""
"""What `./testbed emulate up` writes for two hosts."""


def ask(inventory: Path) -> dict[str, Any]:
    """Return what ansible-inventory says."""
    program = Path(sys.executable).with_name("ansible-inventory")
    command = [str(program), "--list", "-i", str(inventory), "--playbook-dir", str(ROOT / "playbooks")]
    done = subprocess.run(command, cwd=ROOT, env=ansible_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listing: dict[str, Any] = json.loads(done.stdout)
    return listing


def hosts_of(listing: dict[str, Any]) -> dict[str, Host]:
    """Return the hosts as role pki describes them to `control.enrol`."""
    found = {}
    for name, variables in listing["_meta"]["hostvars"].items():

        def fill(text: str, name: str = name, variables: dict[str, Any] = variables) -> str:
            return Environment().from_string(text).render(variables, inventory_hostname=name)

        validators = [{**one, "name": fill(one["name"])} for one in variables["validators"]]
        kind = "desktop" if name in listing["desktops"]["hosts"] else "board"
        document = {"name": name, "address": fill(variables["testbed_address"]), "validators": validators, "kind": kind}
        found[name] = msgspec.convert(document, Host)
    return found


@pytest.fixture(scope="module")
def pi() -> dict[str, Any]:
    return ask(INVENTORIES / "pi")


def test_the_chapters_testbed_has_sixteen_boards_and_five_validators_on_the_desktop(pi: dict[str, Any]) -> None:
    hosts = hosts_of(pi)
    assert list(hosts) == ["desktop", *BOARDS]
    assert {name: len(host.validators) for name, host in hosts.items()} == {"desktop": 5, **dict.fromkeys(BOARDS, 1)}
    assert [host.validators[0].name for host in hosts.values() if host.kind == "board"] == BOARDS
    assert [validator.name for validator in hosts["desktop"].validators] == [f"desktop-{n}" for n in range(1, 6)]
    assert pi["influxdb"]["hosts"] == ["desktop"]


def test_names_addresses_and_ports_are_unique(pi: dict[str, Any]) -> None:
    hosts = hosts_of(pi)
    names = [validator.name for host in hosts.values() for validator in host.validators]
    assert len(set(names)) == len(names) == 21
    assert len({host.address for host in hosts.values()}) == 17
    for host in hosts.values():
        ports = [port for validator in host.validators for port in (validator.peer_port, validator.api_port)]
        assert len(set(ports)) == len(ports)
    assert all(re.match(NAME_PATTERN, name) for name in names)


def test_a_person_changes_addresses_alone(pi: dict[str, Any]) -> None:
    text = (INVENTORIES / "pi" / "hosts.yml").read_text()
    described = yaml.safe_load(text)["testbed"]["children"]
    variables = [host for group in described.values() for host in group["hosts"].values()]
    assert [list(host) for host in variables] == [["ansible_host"]] * 17
    for host in pi["_meta"]["hostvars"].values():
        assert (host["service_backend"], host["testbed_root"]) == ("systemd", "/opt/microchain")
        assert "StrictHostKeyChecking=yes" in host["ansible_ssh_common_args"]


def test_with_five_boards_it_is_an_inventory_too(tmp_path: Path) -> None:
    directory = copy_of("pi", tmp_path)
    lines = (INVENTORIES / "pi" / "hosts.yml").read_text().splitlines(keepends=True)
    (directory / "hosts.yml").write_text(
        "".join(line for line in lines if not any(f" {b}:" in line for b in BOARDS[5:]))
    )
    assert list(hosts_of(ask(directory))) == ["desktop", *BOARDS[:5]]


def test_emulated_hosts_differ_from_boards_in_how_they_are_reached_and_say_what_they_are(tmp_path: Path) -> None:
    directory = copy_of("emulated", tmp_path)
    (directory / "hosts.yml").write_text(GENERATED)
    listing = ask(directory)
    hosts = hosts_of(listing)
    assert {name: len(host.validators) for name, host in hosts.items()} == {"desktop": 5, "pi01": 1}
    for variables in listing["_meta"]["hostvars"].values():
        assert variables["emulated"] is True and variables["control_namespace"] == "tb-lab"
        assert (variables["service_backend"], variables["testbed_root"]) == ("systemd", "/opt/microchain")


@pytest.mark.parametrize("group", ["boards", "desktops", "influxdb"])
def test_both_have_the_same_groups(group: str) -> None:
    files = [INVENTORIES / name / "group_vars" / f"{group}.yml" for name in ("pi", "emulated")]
    assert files[0].read_text() == files[1].read_text()


def test_a_host_that_is_described_twice_is_an_error(tmp_path: Path) -> None:
    directory = copy_of("pi", tmp_path)
    text = (INVENTORIES / "pi" / "hosts.yml").read_text()
    (directory / "hosts.yml").write_text(text.replace("        pi02:", "        pi01:"))
    program = Path(sys.executable).with_name("ansible-inventory")
    done = subprocess.run(
        [str(program), "--list", "-i", str(directory)],
        cwd=ROOT,
        env=ansible_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "pi01" in done.stderr


def test_an_inventory_without_hosts_says_who_makes_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("control.playbooks.inventory_directory", lambda name, root=ROOT: tmp_path)
    with pytest.raises(UsageError, match=r"inventory 'emulated' has no hosts yet: './testbed emulate up' makes"):
        playbook_command("deploy", "emulated")


def copy_of(name: str, target: Path) -> Path:
    directory = target / name
    (directory / "group_vars").mkdir(parents=True)
    for path in (INVENTORIES / name / "group_vars").iterdir():
        (directory / "group_vars" / path.name).write_text(path.read_text())
    return directory
