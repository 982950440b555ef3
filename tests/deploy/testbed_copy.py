"""A copy of the project in which playbooks run for real, and what they leave behind."""

from __future__ import annotations

import os
import platform
import random
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from control.wheelhouse import find_wheelhouse

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / ".cache" / "wheels"
EMULATED = f"{platform.machine()}-3.11"
"""The kind of the emulated hosts."""
VALIDATORS = 5
CACHES = (
    "ansible",
    "bytecode",
    "bootstrap.lock",
    "hypothesis",
    "influxdb",
    "install.log",
    "matplotlib",
    "pip",
    "wheels",
    "xdg",
)


@dataclass
class Play:
    """How a playbook ended: exit code, output, and the recap's counters of each host."""

    code: int
    output: str
    recap: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for host, counters in re.findall(r"^(\S+) +: (ok=.*)$", self.output, re.MULTILINE):
            self.recap[host] = {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", counters)}

    @property
    def text(self) -> str:
        """The output without line breaks, which Ansible puts anywhere."""
        return " ".join(self.output.split())


class TestbedCopy:
    """The project's files (as git knows them, changes included) at ``root``, to be run with a home of its own."""

    __test__ = False

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.home = home
        self.base_port = _free_base_port()
        listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0"):
            if name and (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        home.mkdir(parents=True)

    @property
    def deployed(self) -> Path:
        return self.root / ".cache" / "local"

    def copy_wheels(self, *kinds: str) -> None:
        """Begin with what the project has fetched for its hosts, of these kinds all; the node's own is built here."""
        wheels = self.root / ".cache" / "wheels"
        wheels.mkdir(parents=True)
        if kinds:
            find_wheelhouse(WHEELS, kinds)
        for fetched in WHEELS.glob("dependencies-*.tar.gz"):
            shutil.copy2(fetched, wheels / fetched.name)

    def command(self, name: str, *arguments: str, inventory: str = "local") -> list[str]:
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        ports = ["-e", f"base_port={self.base_port}", "-e", f"validator_count={VALIDATORS}"]
        return [program, f"playbooks/{name}.yml", "-i", f"inventory/{inventory}", *ports, *arguments]

    def environment(self) -> dict[str, str]:
        """What a login shell would have: nothing that points Ansible, pip or Python anywhere."""
        kept = ("LANG", "TERM", "PIP_CERT", "PIP_FIND_LINKS", "PIP_INDEX_URL", "HTTPS_PROXY", "https_proxy")
        return {name: os.environ[name] for name in kept if name in os.environ} | {
            "HOME": str(self.home),
            "TESTBED_INFLUXDB_CACHE": os.environ.get(
                "TESTBED_INFLUXDB_CACHE", str(ROOT / ".cache" / "influxdb" / "bin")
            ),
            # Of the system and the Python that runs the tests: a personal rustc would write to HOME when pip asks it.
            "PATH": os.pathsep.join([f"{sys.base_prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin"]),
        }

    def play(self, name: str, *arguments: str, inventory: str = "local") -> Play:
        """Run a playbook to its end."""
        done = subprocess.run(
            self.command(name, *arguments, inventory=inventory),
            cwd=self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Play(done.returncode, done.stdout)

    def testbed(self, *arguments: str) -> str:
        """Run a verb of ``./testbed``, installed already, to its end, which must be a good one; what it printed."""
        done = self.try_testbed(*arguments)
        assert done.code == 0, done.output
        return done.output

    def try_testbed(self, *arguments: str) -> Play:
        """The same, whatever its end."""
        done = subprocess.run(
            [sys.executable, "-m", "control", *arguments],
            cwd=self.root,
            env=self.environment() | {"PYTHONPATH": f"{self.root}:{self.root / 'node'}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Play(done.returncode, done.stdout)

    def processes(self) -> list[str]:
        """The command lines of all running processes that have to do with this copy."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.root) in command and process.name != str(os.getpid()):
                found.append(command)
        return found

    def files(self) -> dict[str, bytes]:
        """The content of every file but caches, runs, and what git keeps."""
        found = {}
        for directory, names, files in os.walk(self.root):
            place = Path(directory).relative_to(self.root)
            if place == Path(".cache"):
                names[:] = [name for name in names if name not in CACHES]
                files = [name for name in files if name not in CACHES]
            if place == Path():
                names[:] = [name for name in names if name not in (".venv", "runs")]
            for name in files:
                path = Path(directory) / name
                found[str(place / name)] = path.read_bytes() if path.is_file() else b""
        return found


def listen(port: int) -> socket.socket:
    """Take a port, as a stranger."""
    stranger = socket.socket()
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    stranger.bind(("127.0.0.1", port))
    stranger.listen()
    return stranger


def _free_base_port() -> int:
    """Return a base below which no program gets a port by chance, with the ports of all validators free."""
    while True:
        base = random.randrange(20000, 32000, 200)
        try:
            for port in (*range(base + 1, base + 1 + VALIDATORS), *range(base + 101, base + 101 + VALIDATORS)):
                listen(port).close()
        except OSError:
            continue
        return base
