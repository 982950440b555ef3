"""What role preflight finds wrong with an inventory or a host, each told in a sentence, before anything is changed."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.role_script import load_script

probe = load_script("preflight", "probe")


@pytest.fixture
def request_(tmp_path: Path) -> dict[str, Any]:
    """A host in order."""
    return {
        "root": str(tmp_path / "microchain"), "places": [str(tmp_path)], "address": "127.0.0.1", "ports": [],
        "own_names": ["pi01"], "names": ["pi01", "pi02"], "addresses": {"pi01": "10.0.0.1", "pi02": "10.0.0.2"},
        "free_mb": 1, "local": False, "systemd": False, "now": time.time(), "clock_s": 300,
    }  # fmt: skip


def test_a_host_in_order_has_no_problem_and_tells_its_kind(request_: dict[str, Any]) -> None:
    seen = probe.look(request_)
    assert seen["problems"] == []
    assert seen["kind"] == f"{platform.machine()}-{sys.version_info[0]}.{sys.version_info[1]}"
    assert seen["installed"] == {}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"names": ["pi01", "pi01"]}, "validator pi01 is in the inventory twice"),
        ({"own_names": ["Pi_1"]}, "'Pi_1' is no validator's name"),
        ({"ports": [9101, 9101]}, "port 9101 is given twice"),
        ({"ports": [80]}, "port 80 is impossible"),
        ({"addresses": {"pi01": "10.0.0.1", "pi02": "10.0.0.1"}, "address": "10.0.0.1"}, "pi01, pi02 have the same"),
        ({"free_mb": 10**9}, "make room"),
        ({"address": "192.0.2.1", "ports": [9100]}, "correct testbed_address"),
        ({"root": "/dev/null/here"}, "/dev/null can't be written"),
        ({"places": ["/dev/null/here"]}, "/dev/null can't be written"),
    ],
)
def test_what_could_not_work_is_told(request_: dict[str, Any], changes: dict[str, Any], sentence: str) -> None:
    assert any(sentence in problem for problem in probe.find_problems(request_ | changes))


def test_names_that_other_hosts_have_twice_are_none_of_its_business(request_: dict[str, Any]) -> None:
    assert probe.find_problems(request_ | {"names": ["pi01", "pi02", "pi02", "Pi_3"]}) == []


@pytest.mark.parametrize(("off", "told"), [(86400.0, "24 hours behind"), (-86400.0 * 3, "3 days ahead of")])
def test_a_clock_off_by_a_day_is_told_unless_the_testbed_sets_it(
    request_: dict[str, Any], off: float, told: str
) -> None:
    request_["now"] += off
    assert any(f"its clock is {told} this machine's" in problem for problem in probe.find_problems(request_))
    assert probe.find_problems(request_ | {"clock_s": 0}) == []


def test_a_clock_that_is_a_little_off_is_none_of_its_business(request_: dict[str, Any]) -> None:
    assert probe.find_problems(request_ | {"now": time.time() + 100}) == []


def test_a_read_only_file_system_is_told(request_: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    state = namedtuple("state", "f_flag f_frsize f_blocks f_bfree f_bavail")
    monkeypatch.setattr(os, "statvfs", lambda _: state(os.ST_RDONLY, 4096, 10**9, 10**9, 10**9))
    assert any("read-only file system" in problem for problem in probe.find_problems(request_))


def test_a_32_bit_system_is_told(request_: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "armv7l")
    assert any("install a 64-bit system" in problem for problem in probe.find_problems(request_))
    assert probe.find_problems(request_ | {"local": True}) == []  # wheels can be built there


def test_an_old_python_is_told(request_: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    assert any("is too old: install 3.11 or newer" in problem for problem in probe.find_problems(request_))


def test_what_is_installed_is_told_if_it_can_run(request_: dict[str, Any]) -> None:
    environment = Path(request_["root"]) / "env"
    (environment / "bin").mkdir(parents=True)
    (environment / ".node").write_text("node-1")
    assert probe.look(request_)["installed"] == {}
    (environment / "bin" / "python").symlink_to(sys.executable)
    assert probe.look(request_)["installed"] == {"node": "node-1"}
