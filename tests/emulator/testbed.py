"""An emulated testbed of a test's own, driven by its command line as a person would."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from emulator.settings import ROOT, Settings, read_settings

__all__ = ["EMULATION", "Testbed", "make_testbed"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MISSING = [t for t in ("systemd-nspawn", "ip", "nft", "ssh", "mmdebstrap") if not shutil.which(t, path=_PATH)]
_REASON = "boots hosts, which needs root" if os.geteuid() else f"boots hosts, and {', '.join(_MISSING)} is missing"

# One at a time; the base image, if it has to be made first, takes minutes.
EMULATION = [
    pytest.mark.emulation,
    pytest.mark.xdist_group("emulation"),
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(os.geteuid() or _MISSING), reason=_REASON),
]


class Testbed:
    """Verbs of the emulator, in an environment of its own."""

    __test__ = False

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = {**os.environ, **environment}
        self.settings: Settings = read_settings(environment)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "emulator", *arguments],
            env=self.environment,
            cwd=ROOT,
            umask=0o077,  # as careful people have it; hosts must not notice
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def try_run(self, *arguments: str) -> tuple[int, str]:
        """Return exit code and output."""
        with self.start(*arguments) as process:
            output = process.communicate()[0]
        return process.returncode, output

    def run(self, *arguments: str) -> str:
        code, output = self.try_run(*arguments)
        assert code == 0, f"emulate {' '.join(arguments)} ended with {code}:\n{output}"
        return output

    def inside(self, host: str, script: str) -> tuple[int, str]:
        """Run a shell script in a host."""
        return self.try_run("exec", host, "--", "sh", "-c", script)

    def status(self) -> dict[str, Any]:
        found = json.loads(self.run("status", "--json"))
        return {host["name"]: host for host in found["hosts"]} | {"links": found["links"]}

    def ssh(self, address: str, script: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Log in as the control machine does: with its key, knowing the host's."""
        known = f'UserKnownHostsFile="{self.settings.known_hosts}"'
        checks = ["-F", "none", "-o", known, "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
        command = ["ssh", *checks, "-i", str(self.settings.key), *options, f"pi@{address}", script]
        entered = ["ip", "netns", "exec", self.settings.lab, *command]
        return subprocess.run(entered, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def make_testbed(directory: Path, inventory: Path | None = None) -> Testbed:
    """Return one whose names nobody else has; its base image is everybody's."""
    prefix = f"t{secrets.token_hex(2)}"
    environment = {
        "TESTBED_EMULATOR_PREFIX": prefix,
        "TESTBED_EMULATOR_NET": "10.77.77",
        "TESTBED_EMULATOR_DIR": str(directory),
        **({"TESTBED_EMULATOR_INVENTORY": str(inventory)} if inventory else {}),
    }
    return Testbed(environment)
