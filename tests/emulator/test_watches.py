"""Hosts that would hang for want of inotify instances are not booted."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from emulator.errors import EmulationFailed
from emulator.watches import check_watches


def test_as_many_as_hosts_need_are_asked_for_and_given_back() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # which ends in the same error as the kernel's limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 15, hard))
    try:
        with pytest.raises(EmulationFailed, match=r"^5 hosts need 50 inotify instances.*'sysctl -w fs\.inotify"):
            check_watches(5)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors() == before
    check_watches(0)
