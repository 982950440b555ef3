"""What was torn down is forgotten on the control side; what other hosts need stays."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from control.forget import forget
from control.inventory import Deployment, Endpoint, read_deployment


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The control side's state of a deployment with validators on two hosts."""
    place = tmp_path / "control"
    for directory in ("bundles", "certificates", "authority"):
        (place / directory).mkdir(parents=True)
    names = ("desktop-1", "pi01")
    for name in names:
        (place / "bundles" / f"{name}.json").write_text("{}")
        (place / "certificates" / f"{name}.crt").write_text("PEM")
    endpoints = tuple(Endpoint(name=name, host=name, api="https://10.0.0.1:9200") for name in names)
    deployment = Deployment(ca="ca", token_file="token", endpoints=endpoints, devices=())
    (place / "endpoints.json").write_bytes(msgspec.json.encode(deployment))
    return place


def test_one_of_two_is_forgotten_and_the_other_can_still_be_used(state: Path) -> None:
    assert forget(state, ["pi01"]) == ["bundles/pi01.json", "certificates/pi01.crt"]
    assert [endpoint.name for endpoint in read_deployment(state / "endpoints.json").endpoints] == ["desktop-1"]
    assert (state / "authority").exists()
    assert forget(state, ["pi01"]) == []


def test_with_the_last_one_all_goes(state: Path) -> None:
    forget(state, ["pi01"])
    assert forget(state, ["desktop-1", "pi01"]) == ["control"]
    assert not state.exists()
    assert forget(state, ["desktop-1"]) == []


def test_looking_removes_nothing(state: Path) -> None:
    assert forget(state, ["desktop-1", "pi01"], check=True) == ["control"]
    assert forget(state, ["pi01"], check=True) == ["bundles/pi01.json", "certificates/pi01.crt"]
    assert (state / "bundles" / "pi01.json").exists()


def test_what_an_interrupted_deploy_left_goes_too(state: Path) -> None:
    (state / "endpoints.json").unlink()
    assert forget(state, ["pi01"]) == ["control"]
    assert not state.exists()
