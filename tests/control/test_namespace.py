"""Inventories whose hosts are reached from a network namespace only: where Ansible and the control side run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from control import playbooks
from control.errors import DeploymentFailed, UsageError
from control.playbooks import control_namespace, playbook_command
from control.project import ROOT

NAME = f"tb-test-{os.getpid()}"


def make_inventory(root: Path, **files: str) -> Path:
    directory = root / "inventory" / "lab"
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.with_suffix(".yml").parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".yml").write_text(text)
    directory.mkdir(parents=True, exist_ok=True)
    return root


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({}, ""),
        ({"hosts": "testbed: {hosts: {a: {}}}"}, ""),
        ({"hosts": "testbed: {hosts: {a: {}}, vars: {control_namespace: tb-lab}}"}, "tb-lab"),
        ({"hosts": "", "group_vars__all": "control_namespace: my-lab"}, "my-lab"),
        ({"hosts": "", "group_vars__all": "a: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162"}, ""),
        ({"hosts": "", "group_vars__all": "$ANSIBLE_VAULT;1.1;AES256\n6162"}, ""),
    ],
)
def test_the_inventory_names_the_namespace(tmp_path: Path, files: dict[str, str], name: str) -> None:
    assert control_namespace("lab", make_inventory(tmp_path, **files)) == name


@pytest.mark.parametrize("value", ["../x", "''", "5", "[a]", "'{{ lab }}'"])
def test_what_is_no_name_is_refused(tmp_path: Path, value: str) -> None:
    root = make_inventory(tmp_path, group_vars__all=f"control_namespace: {value}")
    with pytest.raises(UsageError, match=r"all\.yml: control_namespace is .*, no name of a namespace"):
        control_namespace("lab", root)


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"hosts\.yml can't be read"):
        control_namespace("lab", make_inventory(tmp_path, hosts="a: [b"))


def test_inventories_of_this_project_that_need_none_run_ansible_as_it_is() -> None:
    assert [Path(playbook_command("deploy", "local")[0]).name] == ["ansible-playbook"]


def test_a_namespace_that_is_not_there_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playbooks, "control_namespace", lambda name: NAME)
    with pytest.raises(DeploymentFailed, match=rf"'{NAME}' of this inventory does not exist: './testbed emulate up'"):
        playbook_command("deploy", "local")


@pytest.fixture
def namespace() -> Iterator[str]:
    if os.geteuid():
        pytest.skip("only root may make a network namespace")
    try:
        made = subprocess.run(["ip", "netns", "add", NAME], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("ip (iproute2) is not installed")
    if made.returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr.decode()}")
    yield NAME
    subprocess.run(["ip", "netns", "delete", NAME], check=True)


def test_playbooks_run_inside_and_are_not_entered_twice(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playbooks, "control_namespace", lambda name: namespace)
    command = playbook_command("deploy", "local")
    assert command[:4] == ["ip", "netns", "exec", namespace]
    assert command[5:] == ["playbooks/deploy.yml", "-i", "inventory/local"]
    code = (
        "from control import playbooks; playbooks.control_namespace = lambda name: %r;"
        "print(playbooks.playbook_command('deploy', 'local')[0])"
    )
    inside = subprocess.run(
        [*command[:4], sys.executable, "-c", code % namespace],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'node'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(inside.stdout.strip()).name == "ansible-playbook"


def test_a_program_inside_can_go_back_to_the_network_that_it_was_started_from(namespace: str) -> None:
    code = (
        "from pathlib import Path; from control.namespace import is_inside, leave_namespace; print(is_inside(%r));"
        "leave_namespace('other'); print(is_inside(%r));"
        "leave_namespace(%r); print(Path('/proc/thread-self/ns/net').readlink())"
    )
    inside = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", code % (namespace, namespace, namespace)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'node'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert inside.stdout.split() == ["True", "True", str(Path("/proc/self/ns/net").readlink())]
