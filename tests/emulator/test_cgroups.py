"""Control groups, on copies of three kinds of machine made of plain files."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.cgroups import Cgroups, Hierarchies, parse_mounts
from emulator.errors import EmulationFailed
from emulator.settings import Settings
from emulator.state import Limits

HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/net_cls cgroup rw,net_cls 0 0
cgroup2 /elsewhere cgroup2 rw 0 0
"""


def test_hierarchies_are_found_on_a_hybrid_machine() -> None:
    found = parse_mounts(HYBRID)
    assert found.unified == Path("/sys/fs/cgroup/unified")
    assert found.v1["cpu"] == found.v1["cpuacct"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert set(found.v1) == {"name=systemd", "cpu", "cpuacct", "memory"}


def test_hierarchies_are_found_on_a_machine_with_v2_only() -> None:
    assert parse_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n") == Hierarchies(Path("/sys/fs/cgroup"), {})


def test_a_machine_without_v2_is_told_how_to_mount_it() -> None:
    with pytest.raises(EmulationFailed, match="mount -t cgroup2"):
        Cgroups(Settings(), parse_mounts("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"))


def test_hierarchies_mounted_together_are_one_directory() -> None:
    directories = [str(d) for d in Cgroups(Settings(), parse_mounts(HYBRID)).directories]
    assert directories == [
        "/sys/fs/cgroup/unified/testbed-emulator-tb",
        "/sys/fs/cgroup/systemd/testbed-emulator-tb",
        "/sys/fs/cgroup/cpu,cpuacct/testbed-emulator-tb",
        "/sys/fs/cgroup/memory/testbed-emulator-tb",
    ]


def test_v2_limits_memory_and_processors(tmp_path: Path) -> None:
    host = tmp_path / "testbed-emulator-tb" / "pi01"
    host.mkdir(parents=True)
    for name in ("memory.max", "cpu.max"):
        (host / name).touch()
    cgroups = Cgroups(Settings(), Hierarchies(tmp_path, {}))
    cgroups.limit("pi01", Limits(1 << 30, 1.5))
    assert ((host / "memory.max").read_text(), (host / "cpu.max").read_text()) == ("1073741824", "150000 100000")
    cgroups.limit("pi01", Limits())
    assert ((host / "memory.max").read_text(), (host / "cpu.max").read_text()) == ("max", "max 100000")


def test_v1_limits_memory_and_processors(tmp_path: Path) -> None:
    for name in ("unified", "memory", "cpu"):
        (tmp_path / name / "testbed-emulator-tb" / "pi01").mkdir(parents=True)
    hierarchies = Hierarchies(tmp_path / "unified", {"memory": tmp_path / "memory", "cpu": tmp_path / "cpu"})
    Cgroups(Settings(), hierarchies).limit("pi01", Limits(1 << 30, 0.5))
    place = Path("testbed-emulator-tb", "pi01")
    assert (tmp_path / "memory" / place / "memory.limit_in_bytes").read_text() == "1073741824"
    assert (tmp_path / "cpu" / place / "cpu.cfs_quota_us").read_text() == "50000"


def test_where_nothing_can_be_limited_a_limit_is_refused_and_none_is_fine(tmp_path: Path) -> None:
    (tmp_path / "testbed-emulator-tb").mkdir()  # the host's own group has no such file
    cgroups = Cgroups(Settings(), Hierarchies(tmp_path, {}))
    cgroups.limit("pi01", Limits())
    with pytest.raises(EmulationFailed, match="leave the limit out"):
        cgroups.limit("pi01", Limits(memory_bytes=1 << 30))
