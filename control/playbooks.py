"""Runs playbooks, the front door to the hosts: prints the command, keeps the log, ends what it started."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from control.errors import DeploymentFailed, UsageError
from control.namespace import NAMESPACES, is_inside
from control.project import ROOT, inventory_directory, shown_path

__all__ = [
    "ansible_environment",
    "control_namespace",
    "hosts_left_out",
    "log_tail",
    "playbook_command",
    "run_logged",
    "run_playbook",
]

_LOG_TAIL_LINES = 40
_GRACE_S = 10.0
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def playbook_command(
    name: str, inventory: str, variables: Mapping[str, Any] | None = None, arguments: Sequence[str] = ()
) -> list[str]:
    """Return the command line as a person would type it in the project's directory; UsageError for a wrong name.

    Hosts that are reached from a network namespace only (`control_namespace`) have Ansible run in that.
    """
    if not any(inventory_directory(inventory).glob("*.yml")):
        raise UsageError(f"inventory '{inventory}' has no hosts yet: './testbed emulate up' makes those of 'emulated'")
    inside = _enter(control_namespace(inventory))
    playbook = ROOT / "playbooks" / f"{name}.yml"
    if not playbook.exists():
        raise UsageError(f"{shown_path(playbook, ROOT)} does not exist")
    command = [*inside, _program(), f"playbooks/{name}.yml", "-i", f"inventory/{inventory}"]
    for key, value in (variables or {}).items():
        command += ["-e", f"{key}={value}" if isinstance(value, str) and " " not in value else json.dumps({key: value})]
    return [*command, *arguments]


def control_namespace(inventory: str, root: Path = ROOT) -> str:
    """Return the network namespace that an inventory's variable `control_namespace` names, or nothing.

    It stands in one of the inventory's files, plainly. UsageError if there is no such inventory, or a file is no YAML.
    """
    directory = inventory_directory(inventory, root)
    for path in sorted([*directory.glob("*.yml"), *directory.glob("group_vars/*.yml")]):
        try:
            content = yaml.load(path.read_bytes(), _VariablesLoader)
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"{shown_path(path, root)} can't be read: {error}") from None
        for name in _find_values(content, "control_namespace"):
            if not isinstance(name, str) or not _NAMESPACE.fullmatch(name):
                raise UsageError(f"{shown_path(path, root)}: control_namespace is {name!r}, no name of a namespace")
            return name
    return ""


class _VariablesLoader(yaml.SafeLoader):
    """Reads variables as Ansible writes them; what it keeps in a vault is none to us."""


_VariablesLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def _find_values(content: Any, key: str) -> Iterator[Any]:
    """Yield the values of a key, wherever it stands in nested mappings."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name == key:
                yield value
            else:
                yield from _find_values(value, key)


def _enter(namespace: str) -> list[str]:
    """Return what goes before a command that runs in a network namespace; DeploymentFailed if that can't be entered."""
    if not namespace or is_inside(namespace):
        return []
    if not (NAMESPACES / namespace).exists():
        raise DeploymentFailed(
            f"the network namespace '{namespace}' of this inventory does not exist: './testbed emulate up' makes it"
        )
    if os.geteuid():
        raise DeploymentFailed(f"only root may enter the network namespace '{namespace}': run this with sudo")
    return ["ip", "netns", "exec", namespace]


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
        name = next((word for word in command if word.endswith(".yml")), command[0])
        raise DeploymentFailed(f"{name} failed (ansible-playbook ended with {code}); its output is above")


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


def hosts_left_out(log: Path) -> list[str]:
    """Return the sentences about hosts that a playbook left out, as its last task (tasks/left_out.yml) gives them."""
    _, marker, text = log.read_text(errors="replace").rpartition("TASK [Name the hosts that were left out]")
    _, arrow, said = text.partition("\n\n")[0].partition("=> \n")
    if not marker or not arrow:
        return []
    try:
        return [str(sentence) for sentence in yaml.safe_load(said)["msg"]]
    except (yaml.YAMLError, KeyError, TypeError):
        return [" ".join(said.split())]


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
