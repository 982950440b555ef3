"""Runs programs of the machine; a failure becomes one sentence with the program's own words."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from emulator.errors import EmulationFailed

__all__ = ["ENVIRONMENT", "await_process", "run", "succeeds"]

# What we start speaks one language, and finds the programs that only root's PATH has.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name.startswith("TESTBED_EMULATOR_")},
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
}

_MISSING = 127


def run(*command: str, standard_input: str | None = None) -> str:
    """Run to the end and return what it wrote; EmulationFailed with its last words if it fails or isn't there."""
    done = _run(command, standard_input)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-3:] or [f"it ended with {done.returncode}"]
        raise EmulationFailed(f"{' '.join(command)}: {'; '.join(words)}")
    return done.stdout


def succeeds(*command: str, standard_input: str | None = None) -> bool:
    """Run to the end; was it well?"""
    return _run(command, standard_input).returncode == 0


def await_process(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process of this terminal, which gets Ctrl-C too; its exit code as a shell has it."""
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue
        return code if code >= 0 else 128 - code


def _run(command: Sequence[str], standard_input: str | None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=standard_input,
            stdin=subprocess.DEVNULL if standard_input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=ENVIRONMENT,
            check=False,
        )
    except FileNotFoundError:
        words = f"{command[0]} is not installed; './testbed doctor' says how to get it"
        return subprocess.CompletedProcess(command, _MISSING, "", words)
