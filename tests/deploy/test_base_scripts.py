"""What a host had before is noted once, given back, and compared with what it has afterwards."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.role_script import load_script

survey = load_script("base", "survey")
restore = load_script("base", "restore")

NOTHING: dict[str, Any] = {
    "packages": [], "users": [], "groups": [], "governors": {}, "journald": "", "time": {}, "files": [], "units": [],
    "nft": [], "tc": [], "directories": [],
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_user_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ending a user's processes and removing it is for hosts: deployments onto those test it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"a test would have removed user {name}")

    monkeypatch.setattr(restore, "remove_user", refuse)


def describe(monkeypatch: pytest.MonkeyPatch, **found: Any) -> None:
    monkeypatch.setattr(survey, "describe_host", lambda _: NOTHING | found)


def test_what_a_host_had_is_noted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "testbed" / "before.json"
    request = {
        "record": str(record), "directories": [], "governor": "", "user": "root", "home": "/root", "places": [],
        "check": True,
    }  # fmt: skip
    describe(monkeypatch, packages=["bash"])
    assert survey.record(request)["changed"] and not record.exists()
    assert survey.record(request | {"check": False})["changed"]
    describe(monkeypatch, packages=["bash", "chrony"])
    assert not survey.record(request | {"check": False})["changed"]
    assert json.loads(record.read_text())["packages"] == ["bash"]


def test_directories_are_made_with_owner_and_mode_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    place, record = tmp_path / "a" / "b", tmp_path / "before.json"
    record.write_text("{}")
    request = {
        "record": str(record), "directories": [], "governor": "", "user": "root", "home": "/root",
        "places": [[str(place), me, f"~{me}", "2750"]], "check": True,
    }  # fmt: skip
    assert survey.record(request)["changed"] == [f"make {place}"] and not place.exists()
    assert survey.record(request | {"check": False})["changed"] == [f"make {place}"]
    assert place.stat().st_mode & 0o7777 == 0o2750
    assert survey.record(request | {"check": False})["changed"] == []
    place.chmod(0o755)
    assert survey.record(request)["changed"] == [f"make {place}"]


def test_what_differs_from_before_is_told_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    describe(monkeypatch, packages=["bash", "chrony"], users=["pi"], files=["/etc/x"], time={"chrony": "enabled"})
    before = NOTHING | {"packages": ["bash", "systemd-timesyncd"], "users": ["pi"]}
    left = survey.find_differences({"before": before, "directories": []})
    assert left == [
        "package chrony is there, and was not before",
        "package systemd-timesyncd was there before, and is not now",
        "file /etc/x is there, and was not before",
        "the time service is {'chrony': 'enabled'}, and was {} before",
    ]
    assert survey.find_differences({"before": None, "directories": []}) == []


def test_remains_are_found_by_name(tmp_path: Path) -> None:
    root = tmp_path / "microchain"
    request = {"root": str(root), "user": "", "paths": [], "ports": [], "systemd": False}
    assert survey.find_remains(request) == []
    root.mkdir()
    assert survey.find_remains(request) == [f"{root} is there"]


def test_the_host_is_given_back_and_again_there_is_nothing_to_do(tmp_path: Path) -> None:
    root, record, temporary = tmp_path / "microchain", tmp_path / "record" / "before.json", tmp_path / ".ansible"
    governor = tmp_path / "scaling_governor"
    for directory in (root, record.parent, temporary):
        directory.mkdir()
    governor.write_text("performance\n")
    record.write_text(json.dumps(NOTHING | {"governors": {str(governor): "ondemand"}}))
    request = {
        "root": str(root), "user": "none", "home": "/none", "record": str(record), "directories": [str(temporary)],
        "check": True,
    }  # fmt: skip
    foreseen = restore.restore(request)
    assert len(foreseen) == 4 and root.exists() and record.exists()
    assert restore.restore(request | {"check": False}) == foreseen
    assert governor.read_text() == "ondemand"
    assert [path.name for path in tmp_path.iterdir()] == [governor.name]
    assert restore.restore(request | {"check": False}) == []


def test_a_directory_that_was_there_before_stays(tmp_path: Path) -> None:
    record, temporary = tmp_path / "record" / "before.json", tmp_path / ".ansible"
    for directory in (record.parent, temporary):
        directory.mkdir()
    record.write_text(json.dumps(NOTHING | {"directories": [str(temporary)]}))
    restore.restore({
        "root": str(tmp_path / "none"), "user": "none", "home": "/none", "record": str(record),
        "directories": [str(temporary)], "check": False,
    })  # fmt: skip
    assert temporary.exists() and not record.parent.exists()


@pytest.mark.parametrize(
    ("uid", "home", "ours"),
    [(0, "/opt/state", False), (999, "/home/x", False), (1000, "/opt/state", False), (999, "/opt/state", True)],
)
def test_only_the_system_user_that_we_made_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, home: str, ours: bool
) -> None:
    entry = pwd.struct_passwd(("microchain", "x", uid, uid, "", home, "/usr/sbin/nologin"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _: entry)
    record = tmp_path / "before.json"
    record.write_text(json.dumps(NOTHING))
    steps = restore.find_steps({
        "root": str(tmp_path / "none"), "user": "microchain", "home": "/opt/state", "record": str(record),
        "directories": [],
    })  # fmt: skip
    assert ("remove user microchain" in [name for name, _ in steps]) == ours
