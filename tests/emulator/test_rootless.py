"""Hosts of a user who isn't root; what such a user needs is there in a mount namespace of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.cgroups import Hierarchies, find_hierarchies, parse_mounts
from emulator.foreign import NATIVE
from emulator.image import base_image
from emulator.settings import ROOT, read_settings
from tests.deploy.testbed_copy import TestbedCopy
from tests.emulator.footprint import look
from tests.emulator.testbed import EMULATION, Testbed, make_testbed

USER, IDS = 61234, 1_700_000_000  # nobody's; their names are there in the mount namespace only
BECOME = r"""
umask 022
for name in passwd subuid subgid; do cp "/etc/$name" "$1/"; done
echo "rootless:x:$2:$2::$1:/bin/sh" >>"$1/passwd"
for name in subuid subgid; do echo "rootless:$3:65536" >"$1/$name"; done
for name in passwd subuid subgid; do mount --bind "$1/$name" "/etc/$name"; done
if [ "$6" ]; then
  mkdir -p "$1/python"; mount --bind "$5" "$1/python"
  mount -t tmpfs -o mode=755 tmpfs "$6"
  mkdir -p "$5"; mount --bind "$1/python" "$5"
fi
echo $$ >"$4/cgroup.procs"
id=$2; shift 6
umask 077  # as careful people have it; hosts must not notice
exec setpriv --reuid "$id" --regid "$id" --clear-groups "$@"
"""
NEEDED = """
import sys, emulator.cli
files = {name.split(".")[0]: getattr(module, "__file__", None) for name, module in sys.modules.items()}
print(*(name for name, file in files.items() if file and "site-packages" in file))
"""
TOOLS = ("newuidmap", "newgidmap", "setpriv")


def make_readable(home: Path) -> list[Path]:
    """Copy the project and the packages that the emulator needs, which may be closed to others; for PYTHONPATH."""
    project = TestbedCopy(home / "project", home / "home").root
    installed, packages = Path(sysconfig.get_path("platlib")), home / "packages"
    packages.mkdir()
    needed = subprocess.run([sys.executable, "-c", NEEDED], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in needed.stdout.split():
        for source in installed.glob(f"{name}*"):
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, packages / source.name)
    subprocess.run(["chmod", "-R", "a+rX", project, packages], check=True)
    return [project, project / "node", packages]


class Rootless(Testbed):
    """Its verbs are a user's, in a group that was given to him."""

    def __init__(self, home: Path, group: Path) -> None:
        own = make_testbed(home / "emulated").environment | {"TESTBED_EMULATOR_IMAGES": str(home)}
        path = ":".join(map(str, make_readable(home)))
        super().__init__({**own, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})
        self.group = group
        python = Path(sys.base_prefix).resolve()
        hidden = next((str(place) for place in reversed(python.parents) if not place.stat().st_mode & 1), "")
        settings = map(str, (home, USER, IDS, group, python, hidden))
        self.become = ["unshare", "--mount", "sh", "-euc", BECOME, "sh", *settings]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        python = Path(sys.executable).resolve()
        command = [*self.become, str(python), "-m", "emulator", *arguments]
        return subprocess.Popen(
            command, env=self.environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def is_alive(self) -> bool:
        return "populated 1" in (self.group / "cgroup.events").read_text()


@pytest.fixture(scope="module")
def testbed() -> Iterator[Rootless]:
    unified = find_hierarchies().unified
    if unified is None or not all(map(shutil.which, TOOLS)) or not Path("/etc/subuid").exists():
        pytest.skip("needs cgroup v2, setpriv, /etc/subuid, and newuidmap: 'apt-get install uidmap'")
    base = base_image(read_settings(), "bookworm", NATIVE, print, lambda text: None)
    home = Path(f"/var/tmp/testbed-rootless-{os.getpid()}")  # others can't enter directories of pytest
    group = unified / home.name
    try:
        for path in (home, group):
            path.mkdir()
        for path in (home, group, group / "cgroup.procs", group / "cgroup.subtree_control"):
            os.chown(path, USER, USER)
        made = Rootless(home, group)
        packed = ["tar", "-C", str(base.parent), f"--exclude={base.name}/dev/*", "-cf", "-", base.name]
        unpack = [
            *made.become,
            "unshare",
            "--user",
            "--map-root-user",
            "--map-auto",
            "tar",
            "-C",
            str(home),
            "-xf",
            "-",
        ]
        with subprocess.Popen(packed, stdout=subprocess.PIPE) as source:
            subprocess.run(unpack, stdin=source.stdout, check=True)
        yield made
        made.run("down")
        assert not made.is_alive() and not list(group.glob("*/"))
        left = look(made.settings)
        assert not left.processes and not left.mounts
    finally:
        if group.exists():
            (group / "cgroup.kill").write_text("1")
            for place, _, _ in os.walk(group, topdown=False):
                Path(place).rmdir()
        shutil.rmtree(home, ignore_errors=True)


def test_what_is_mounted_over_a_hierarchy_hides_it() -> None:
    hidden = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    assert parse_mounts(f"{hidden}none /sys/fs/cgroup cgroup2 rw 0 0\n") == Hierarchies(Path("/sys/fs/cgroup"), {})


class TestUser:
    pytestmark = EMULATION

    def test_a_user_boots_enters_and_ends_hosts(self, testbed: Rootless) -> None:
        testbed.run("up", "-n", "2")
        assert testbed.inside("pi01", "id -u; systemctl is-system-running --wait; exit 7") == (7, "0\nrunning\n")
        options = ["-F", "none", "-o", f"UserKnownHostsFile={testbed.settings.known_hosts}", "-o", "BatchMode=yes"]
        ssh = ["ssh", *options, "-i", str(testbed.settings.key), "pi@10.77.77.11", "hostname; sudo -n id -u"]
        assert testbed.run("exec", "lab", "--", *ssh).split() == ["pi01", "0"]
        testbed.run("partition", "pi01")
        assert testbed.inside("pi01", "ping -c 1 -W 1 -q desktop")[0] == 1
        testbed.run("heal")
        assert testbed.inside("pi01", "ping -c 1 -W 5 -q desktop")[0] == 0
        assert testbed.try_run("up", "-n", "2")[0] == 2  # and those that are up stay
        code, output = Testbed(testbed.environment).try_run("down")
        assert code == 2 and "hosts of a user are up" in output
        testbed.run("kill", "pi01")
        testbed.run("start", "pi01")
        testbed.run("down")
        assert not testbed.is_alive() and testbed.run("down") == "nothing was up\n"

    def test_of_an_up_that_was_killed_no_process_stays(self, testbed: Rootless) -> None:
        with testbed.start("up", "-n", "2") as process:
            while not (testbed.settings.hosts / "pi01" / "launcher").exists():
                assert process.poll() is None
                time.sleep(0.02)
            process.kill()
        while testbed.is_alive():  # the test's own limit of time ends it
            time.sleep(0.05)
        assert "clearing away" in testbed.run("up", "-n", "1")

    def test_a_disk_of_its_own_is_refused(self, testbed: Rootless) -> None:
        testbed.run("down")
        code, output = testbed.try_run("up", "-n", "1", "--disk", "1G")
        assert code == 2 and "--disk needs loop devices" in output
