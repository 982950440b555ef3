"""Runs playbooks, the front door to the hosts: prints the command, keeps the log, ends what it started."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from control.errors import DeploymentFailed, UsageError
from control.project import ROOT, inventory_directory, shown_path

__all__ = ["ansible_environment", "log_tail", "playbook_command", "run_logged", "run_playbook"]

_LOG_TAIL_LINES = 40
_GRACE_S = 10.0


def playbook_command(
    name: str, inventory: str, variables: Mapping[str, Any] | None = None, arguments: Sequence[str] = ()
) -> list[str]:
    """Return the command line as a person would type it in the project's directory; UsageError for a wrong name."""
    inventory_directory(inventory)
    playbook = ROOT / "playbooks" / f"{name}.yml"
    if not playbook.exists():
        raise UsageError(f"{shown_path(playbook, ROOT)} does not exist")
    command = [_program(), f"playbooks/{name}.yml", "-i", f"inventory/{inventory}"]
    for key, value in (variables or {}).items():
        command += ["-e", f"{key}={value}" if isinstance(value, str) and " " not in value else json.dumps({key: value})]
    return [*command, *arguments]


def run_playbook(command: Sequence[str]) -> None:
    """Run in the foreground with Ansible's own output; DeploymentFailed if it does not succeed.

    Ctrl-C reaches Ansible too, which ends by itself.
    """
    print(f"$ {shlex.join(command)}", flush=True)
    with subprocess.Popen(command, cwd=ROOT, env=ansible_environment()) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
    if code:
        raise DeploymentFailed(f"{command[1]} failed (ansible-playbook ended with {code}); its output is above")


def run_logged(command: Sequence[str], log: Path, while_running: Callable[[], None]) -> int:
    """Run with the output in ``log``, calling ``while_running`` (which waits a little) until the end; the exit code.

    An interruption ends Ansible first, then goes on to the caller.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        stream.write(f"$ {shlex.join(command)}\n".encode())
        stream.flush()
        with _start(command, stream) as process:
            try:
                while process.poll() is None:
                    while_running()
            except BaseException:
                _end(process)
                raise
            return process.returncode


def log_tail(log: Path) -> str:
    """Return the last lines of a log, for an error message."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-_LOG_TAIL_LINES:])


def ansible_environment() -> dict[str, str]:
    """Return the environment for Ansible: ours, with its configuration and caches inside the project."""
    cache = ROOT / ".cache"
    return os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": str(cache / "ansible"),
        "ANSIBLE_LOCAL_TEMP": str(cache / "ansible" / "tmp"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "node")]),
    }


def _program() -> str:
    beside = Path(sys.executable).parent / "ansible-playbook"
    return shown_path(beside, ROOT) if beside.exists() else "ansible-playbook"


def _start(command: Sequence[str], stream: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start in a session of its own, so that Ctrl-C reaches us alone and we end it in order."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=ansible_environment(),
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt, then terminate, then kill; each only if the one before did not help."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
