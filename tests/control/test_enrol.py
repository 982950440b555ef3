"""Taking the keys that hosts made into a deployment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from microchain.keys import Bundle, create_keys

from control.enrol import Enrolment, EnrolmentError, Host, Validator, enrol


def _request(tmp_path: Path, *names: str, brought: tuple[str, ...] | None = None) -> Enrolment:
    placed = tuple(Validator(name, 20000 + index, 20100 + index) for index, name in enumerate(names))
    bundles: list[Bundle] = []
    for name in names if brought is None else brought:
        bundles.append(create_keys(tmp_path / "keys" / name, name, signature="ed25519", hosts=["127.0.0.1"])[0])
    return Enrolment((Host("local", "127.0.0.1", placed),), tuple(bundles), 2, "ed25519")


def _names(state: Path) -> list[str]:
    return [endpoint["name"] for endpoint in json.loads((state / "endpoints.json").read_bytes())["endpoints"]]


def test_the_second_enrolment_changes_nothing(tmp_path: Path) -> None:
    request, state = _request(tmp_path, "one", "two"), tmp_path / "state"
    assert enrol(request, state) != []
    assert enrol(request, state) == []
    assert enrol(request, state, check=True) == []
    assert _names(state) == ["one", "two"]


def test_check_foresees_and_writes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    foreseen = enrol(_request(tmp_path, "one"), state, check=True)
    assert "endpoints.json" in foreseen
    assert "token" in foreseen
    assert not state.exists()


def test_hosts_that_were_left_out_stay_enrolled(tmp_path: Path) -> None:
    state = tmp_path / "state"
    enrol(_request(tmp_path, "one", "two"), state)
    assert enrol(_request(tmp_path, "one", "two", brought=("one",)), state) == []
    assert _names(state) == ["one", "two"]


def test_a_validator_that_never_sent_keys_is_no_endpoint(tmp_path: Path) -> None:
    enrol(_request(tmp_path, "one", "two", brought=("two",)), tmp_path / "state")
    assert _names(tmp_path / "state") == ["two"]


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    state = tmp_path / "state"
    enrol(_request(tmp_path, "one"), state)
    for secret in ("token", "authority/ca.key", "devices/device-1/signing.pem", "devices/device-2/signing.pem"):
        assert (state / secret).stat().st_mode & 0o177 == 0


def test_keys_of_a_stranger_or_of_another_scheme_are_refused(tmp_path: Path) -> None:
    request = _request(tmp_path, "one")
    stranger = Enrolment((), request.bundles, 1, "ed25519")
    with pytest.raises(EnrolmentError, match="one, not in the inventory"):
        enrol(stranger, tmp_path / "state")
    other = Enrolment(request.hosts, request.bundles, 1, "rsa-2048")
    with pytest.raises(EnrolmentError, match="ed25519 keys, rsa-2048 ones are wanted"):
        enrol(other, tmp_path / "state")


def test_a_damaged_authority_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    state = tmp_path / "state"
    enrol(_request(tmp_path, "one"), state)
    (state / "authority" / "ca.key").write_text("no key")
    with pytest.raises(EnrolmentError, match="teardown"):
        enrol(_request(tmp_path, "one"), state)
