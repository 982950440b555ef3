"""Playbooks on the local inventory, run for real: deploy, again, check, status, reset, teardown, and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.deploy.testbed_copy import VALIDATORS, TestbedCopy, listen

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]


def test_check_mode_on_a_fresh_tree_touches_nothing(project: TestbedCopy) -> None:
    project.play("teardown")
    before = project.files()
    checked = project.play("deploy", "--check")
    assert checked.code == 0, checked.output
    assert checked.recap["local"]["changed"] >= 1
    assert project.files() == before
    assert project.processes() == []


def test_without_a_deployment_there_is_nothing_to_do(project: TestbedCopy) -> None:
    project.play("teardown")
    for name in ("status", "collect", "stop", "reset", "teardown"):
        done = project.play(name)
        assert done.code == 0, done.output
        assert done.recap["local"]["changed"] == 0, name


def test_the_second_deploy_changes_nothing_and_shows_no_secret(deployed: TestbedCopy) -> None:
    before = deployed.files()
    again = deployed.play("deploy", "-vvv", "--limit", "local")
    assert again.code == 0, again.output
    assert again.recap["local"]["changed"] == 0
    checked = deployed.play("deploy", "--check", "--diff")
    assert checked.code == 0, checked.output
    assert checked.recap["local"]["changed"] == 0
    assert deployed.files() == before
    token = (deployed.deployed / "token").read_text()
    assert len(token) >= 32
    assert token not in again.output + checked.output
    assert "PRIVATE KEY" not in again.output + checked.output


def test_secrets_are_readable_by_their_owner_only(deployed: TestbedCopy) -> None:
    assert deployed.deployed.stat().st_mode & 0o077 == 0
    secrets = [deployed.deployed / "token", *deployed.deployed.glob("validators/*/keys/*.key")]
    secrets += [*deployed.deployed.glob("**/*.pem"), *deployed.deployed.glob("control/authority/*.key")]
    assert len(secrets) >= 4 * VALIDATORS + 2
    for path in secrets:
        assert path.stat().st_mode & 0o177 == 0, path


def test_private_keys_of_validators_stay_where_they_were_made(deployed: TestbedCopy) -> None:
    brought = b"".join(path.read_bytes() for path in deployed.deployed.glob("control/bundles/*"))
    for path in deployed.deployed.glob("validators/*/keys/signing.pem"):
        assert path.read_bytes() not in brought
    for bundle in deployed.deployed.glob("control/bundles/*.json"):
        fields = {"name", "role", "signature", "signing_key", "vrf_key", "pvss_key", "tls_key", "csr"}
        assert set(json.loads(bundle.read_bytes())) == fields


def test_after_the_supervisor_was_killed_deploy_brings_it_back(deployed: TestbedCopy) -> None:
    pid = int((deployed.deployed / "supervisor" / "supervisord.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    stopped = deployed.play("stop")
    assert stopped.code == 0, stopped.output
    back = deployed.play("deploy")
    assert back.code == 0, back.output
    assert back.recap["local"]["changed"] == 1
    status = deployed.play("status")
    assert status.code == 0, status.output
    assert "validator-5 stopped" in status.text


def test_an_interrupted_deploy_can_be_run_again(project: TestbedCopy) -> None:
    project.play("teardown")
    for landmark in ("env/bin", "validators"):
        process = subprocess.Popen(
            project.command("deploy"), cwd=project.root, env=project.environment(), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and not (project.deployed / landmark).exists():
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = project.play("deploy")
    assert done.code == 0, done.output
    assert project.play("deploy").recap["local"]["changed"] == 0


def test_teardown_leaves_nothing(deployed: TestbedCopy) -> None:
    assert deployed.processes() != []
    foreseen = deployed.play("teardown", "--check")
    assert foreseen.code == 0, foreseen.output
    assert deployed.processes() != []
    found = deployed.play("verify-clean")
    assert found.code == 2
    assert f"{deployed.deployed} is there" in found.text and "supervisord" in found.text
    done = deployed.play("teardown")
    assert done.code == 0, done.output
    clean = deployed.play("verify-clean")
    assert clean.code == 0, clean.output
    assert clean.recap["local"]["changed"] == 0 and "local is clean" in clean.text
    assert deployed.processes() == []
    assert not deployed.deployed.exists()
    assert not [path for path in deployed.files() if path.startswith(".cache/")]
    assert list(deployed.home.rglob("*")) == []
    assert deployed.play("teardown").recap["local"]["changed"] == 0


def _validators(*places: tuple[str, int, int]) -> str:
    return json.dumps({"validators": [{"name": n, "peer_port": p, "api_port": a} for n, p, a in places]})


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (_validators(("one", 21001, 21002), ("one", 21003, 21004)), "one is in the inventory twice"),
        (_validators(("one", 21001, 21002), ("two", 21002, 21003)), "port 21002 is given twice on this host"),
        (_validators(("One!", 21001, 21002)), "'One!' is no validator's name"),
        (_validators(("one", 80, 21002)), "port 80 is impossible: take one from 1024 to 65535"),
        ('{"testbed_root": "/dev/null/here"}', "/dev/null can't be written by this user"),
        ('{"testbed_address": "192.0.2.1"}', "192.0.2.1 is no address of this host: correct testbed_address"),
        ('{"preflight_free_mb": 999999999}', "999999999 are needed: make room"),
        ('{"service_backend": "launchd"}', "service_backend"),
    ],
)
def test_what_could_not_work_is_refused_with_a_sentence(project: TestbedCopy, variables: str, sentence: str) -> None:
    refused = project.play("deploy", "-e", variables)
    assert refused.code == 2
    assert sentence in refused.text


def test_a_port_of_a_stranger_is_named_with_its_owner(project: TestbedCopy) -> None:
    with listen(project.base_port + 102):
        refused = project.play("deploy")
    assert refused.code == 2
    assert f"port {project.base_port + 102} is in use by" in refused.text
    assert f"(process {os.getpid()})" in refused.text


def test_an_unreachable_host_does_not_keep_the_others_from_being_deployed(project: TestbedCopy) -> None:
    _write_inventory_with_ghost(project.root / "inventory" / "ghost")
    try:
        done = project.play("deploy", inventory="ghost")
        assert done.code == 2
        assert done.recap["ghost"]["failed"] == 1
        assert done.recap["local"]["failed"] == 0
        # Also at the very end, below the output of the others.
        named = done.text.rpartition("Name the hosts that were left out")[2]
        assert "ghost: it does not answer at 127.0.0.1: is it switched on" in named
        state = project.root / ".cache" / "ghost" / "control" / "endpoints.json"
        hosts = {endpoint["host"] for endpoint in json.loads(state.read_bytes())["endpoints"]}
        assert hosts == {"local"}
    finally:
        project.play("teardown", inventory="ghost")
    assert not (project.root / ".cache" / "ghost").exists()


def _write_inventory_with_ghost(place: Path) -> None:
    """The local inventory, and a host that nobody answers for."""
    text = (place.with_name("local") / "hosts.yml").read_text()
    ghost = """\
    ghost:
      ansible_connection: ssh
      ansible_host: 127.0.0.1
      ansible_port: 1
      testbed_address: 127.0.0.1
      validators: [{name: ghost-1, peer_port: 19001, api_port: 19002}]
"""
    place.mkdir()
    (place / "hosts.yml").write_text(
        text.replace("  vars:\n", f"{ghost}  vars:\n").replace(".cache/local", ".cache/ghost")
    )
