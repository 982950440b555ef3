"""Hosts that would hang for want of inotify instances are not booted: the limit is raised for them, and set back."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from emulator import watches
from emulator.errors import EmulationFailed
from emulator.watches import plan_limit, raise_limit, restore_limit


def test_as_many_as_hosts_need_are_asked_for_and_given_back() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # which ends in the same error as the kernel's limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 15, hard))
    try:
        limit = watches.watches_limit()
        assert plan_limit(5) > limit
        with pytest.raises(EmulationFailed, match=r"^5 hosts need 50 inotify instances.*'ulimit -n'"):
            raise_limit(5, limit)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors() == before
    assert plan_limit(0) == limit


def test_the_limit_is_set_back_unless_somebody_changed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "limit"
    monkeypatch.setattr(watches, "_LIMIT", file)
    file.write_text("128")
    raise_limit(0, 300)
    assert file.read_text() == "300"
    restore_limit(128, 300)
    assert file.read_text() == "128"
    file.write_text("1024")
    restore_limit(128, 300)
    assert file.read_text() == "1024"


def test_a_limit_that_can_not_be_changed_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "limit"
    file.write_text("128")
    monkeypatch.setattr(watches, "_LIMIT", file)
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(EmulationFailed, match=r"17 hosts need 170 inotify instances.*Read-only file system.*sysctl -w"):
        raise_limit(17, 300)


def refuse(path: Path, text: str) -> int:
    raise OSError(30, "Read-only file system")
