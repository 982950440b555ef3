"""The hosts of an inventory and how they are reached, as `ansible-inventory --list` tells it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jinja2.meta
import msgspec
import yaml
from jinja2.nativetypes import NativeEnvironment
from msgspec import Struct, field

from control.errors import UsageError
from control.playbooks import ansible_environment
from control.project import ROOT, inventory_directory

__all__ = ["Host", "Hosts", "read_hosts"]

_TIMEOUT_S = 180.0
_DEPTH = 10
"""Variables may name variables; so deep."""


class Host(Struct, frozen=True, kw_only=True):
    """One host. ``options`` are what Ansible gives to ssh, in the form of ``ssh_config``; ``root`` is `testbed_root`.

    Its validators' directories are below ``state`` (`host_state`). A `local` one is this machine, by this user.
    """

    name: str
    local: bool = False
    address: str = ""
    port: int | None = None
    user: str | None = None
    keys: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    password: str | None = None
    become_password: str | None = None
    root: str = ""
    state: str = ""
    backend: Literal["supervisor", "systemd"] = "supervisor"

    def __repr__(self) -> str:
        return f"Host({self.name!r}, {self.address!r})"  # no passwords in tracebacks


class Hosts(Struct, frozen=True):
    """The hosts chosen, by name; ``namespace`` is the network namespace that they are reached from, or empty."""

    hosts: dict[str, Host]
    namespace: str = ""


def read_hosts(inventory: str, limit: str = "", *, root: Path = ROOT) -> Hosts:
    """Ask Ansible for the hosts of ``inventory/NAME``; ``limit`` is a pattern of Ansible's.

    UsageError if there is no such inventory or host, or a variable that is needed here can't be worked out.
    """
    directory = inventory_directory(inventory, root)
    variables = _ask_ansible(directory, limit, root)
    if not variables:
        raise UsageError(
            f"no host of inventory '{inventory}' matches '{limit}'"
            if limit
            else f"inventory '{inventory}' has no hosts"
        )
    magic = {
        "playbook_dir": str(root / "playbooks"),
        "inventory_dir": str(directory),
        "ansible_playbook_python": sys.executable,
    }
    readers = {name: _Variables(name, {**magic, "inventory_hostname": name, **own}) for name, own in variables.items()}
    namespaces = {reader.text("control_namespace") or "" for reader in readers.values()}
    if len(namespaces) > 1:
        raise UsageError(f"inventory '{inventory}': control_namespace differs between hosts ({', '.join(namespaces)})")
    return Hosts({name: _make_host(name, reader) for name, reader in readers.items()}, namespaces.pop())


def _ask_ansible(directory: Path, limit: str, root: Path) -> dict[str, dict[str, Any]]:
    """Return each host's variables, as they were written."""
    beside = Path(sys.executable).parent / "ansible-inventory"
    command = [str(beside) if beside.exists() else "ansible-inventory", "--list"]
    command += ["--inventory", str(directory), "--playbook-dir", str(root / "playbooks")]
    command += ["--limit", limit] if limit else []
    try:
        done = subprocess.run(
            command, cwd=root, env=ansible_environment(), capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"ansible-inventory can't be run: {error}") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()[-2000:]
        raise UsageError(f"{directory} can't be read by ansible-inventory:\n{reason}")
    try:
        return msgspec.json.decode(done.stdout, type=_Listing).meta.hostvars
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"ansible-inventory's answer about {directory} makes no sense: {error}") from None


class _Meta(Struct):
    hostvars: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Listing(Struct):
    meta: _Meta = field(name="_meta", default_factory=_Meta)


class _Variables:
    """One host's variables, with the few templates worked out that an inventory uses to say where things are."""

    def __init__(self, host: str, values: Mapping[str, Any]) -> None:
        self._host = host
        self._values = values
        self._environment = NativeEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        self._environment.filters.update(
            basename=os.path.basename, dirname=os.path.dirname, from_yaml=yaml.safe_load, to_json=json.dumps
        )

    def text(self, *names: str) -> str | None:
        """Return the first of these variables that the inventory has, or None."""
        for name in names:
            value = self._values.get(name)
            if isinstance(value, dict) and "__ansible_vault" in value:
                continue  # only Ansible opens it
            if value not in (None, ""):
                return str(self._render(name, value))
        return None

    def _render(self, name: str, value: Any, depth: int = _DEPTH) -> Any:
        if not isinstance(value, str) or "{" not in value:
            return value
        try:
            if not depth:
                raise jinja2.TemplateError("variables name each other in a circle")
            template = self._environment.from_string(value)
            needed = jinja2.meta.find_undeclared_variables(self._environment.parse(value))
            known = {n: self._render(n, self._values[n], depth - 1) for n in needed if n in self._values}
            result = template.render(known)
            if isinstance(result, jinja2.Undefined):
                raise jinja2.UndefinedError(f"{', '.join(needed)} is undefined")
            return result
        except (jinja2.TemplateError, TypeError, ValueError, yaml.YAMLError) as error:
            raise UsageError(
                f"{self._host}: {name} ('{value}') can't be worked out without a playbook ({error}); write it plainly"
            ) from None


def _make_host(name: str, variables: _Variables) -> Host:
    port = variables.text("ansible_port", "ansible_ssh_port")
    if port is not None and not (port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"{name}: ansible_port is '{port}'; give 1 to 65535")
    backend = variables.text("service_backend") or "supervisor"
    if backend not in ("supervisor", "systemd"):
        raise UsageError(f"{name}: service_backend is '{backend}'; there are supervisor and systemd")
    key = variables.text("ansible_ssh_private_key_file", "ansible_private_key_file")
    arguments = [variables.text(f"ansible_ssh_{kind}_args") or "" for kind in ("common", "extra")]
    root = variables.text("testbed_root") or ""
    return Host(
        name=name,
        local=variables.text("ansible_connection") == "local",
        address=variables.text("ansible_host", "ansible_ssh_host") or name,
        port=None if port is None else int(port),
        user=variables.text("ansible_user", "ansible_ssh_user"),
        keys=() if key is None else (str(Path(key).expanduser()),),
        options=_to_options(name, " ".join(arguments)),
        password=variables.text("ansible_password", "ansible_ssh_password", "ansible_ssh_pass"),
        become_password=variables.text("ansible_become_password", "ansible_become_pass"),
        root=root,
        state=variables.text("host_state") or root,
        backend="systemd" if backend == "systemd" else "supervisor",
    )


def _to_options(name: str, arguments: str) -> tuple[str, ...]:
    """Return the options among ssh's arguments as lines of an ssh_config: ``-o``, ``-i`` and ``-J``."""
    short = {"-o": "", "-i": "IdentityFile ", "-J": "ProxyJump "}
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise UsageError(f"{name}: the arguments for ssh ('{arguments}') can't be read: {error}") from None
    options = []
    while words:
        word = words.pop(0)
        if word[:2] in short:
            value = word[2:] or (words.pop(0) if words else "")
            options.append(short[word[:2]] + " ".join(value.split("=", 1)))
    return tuple(options)
