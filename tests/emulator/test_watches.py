"""Hosts would hang for want of inotify instances: the limit is raised for them, and lowered after them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emulator import watches
from emulator.errors import EmulationFailed
from emulator.watches import add_watches, take_off_watches


@pytest.fixture
def limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "limit"
    file.write_text("128")
    monkeypatch.setattr(watches, "_LIMIT", file)
    return file


def test_testbeds_come_and_go_in_any_order(limit: Path) -> None:
    first = add_watches(17)
    second = add_watches(5)
    assert limit.read_text() == "348"
    take_off_watches(first)
    assert limit.read_text() == "178"
    take_off_watches(second)
    assert limit.read_text() == "128"


def test_nothing_is_taken_off_twice_nor_below_what_there_is(limit: Path) -> None:
    take_off_watches(0)
    take_off_watches(170)
    assert limit.read_text() == "128"


def test_a_limit_that_can_not_be_changed_is_one_sentence(limit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(EmulationFailed, match=r"^17 hosts need 170 inotify.*Read-only file system.*sysctl -w"):
        add_watches(17)


def test_without_root_the_limit_is_what_it_is_and_may_be_enough(limit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(watches, "in_user_namespace", lambda: True)
    assert add_watches(12) == 0
    with pytest.raises(EmulationFailed, match=r"^13 hosts need 130 inotify"):
        add_watches(13)
    take_off_watches(0)
    assert limit.read_text() == "128"


def test_testbeds_that_come_and_go_at_once_lose_nothing(limit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def read_slowly(path: Path) -> str:
        text = read(path)
        time.sleep(0.005)
        return text

    monkeypatch.setattr(Path, "read_text", read_slowly)
    with ThreadPoolExecutor(4) as threads:
        for added in threads.map(add_watches, [1] * 8):
            threads.submit(take_off_watches, added)
    assert read(limit) == "128"
