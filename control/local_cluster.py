"""Validators as plain processes of this machine, without Ansible: for benchmarks, which look at the processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from microchain.config import load_config
from microchain.keys import create_keys
from msgspec import Struct

from control.cells import Cell
from control.enrol import Enrolment, Host, Validator, enrol
from control.errors import CheckFailed
from control.inventory import Deployment, read_deployment
from control.project import ROOT

__all__ = ["LocalCluster", "Variant", "free_ports"]

_ADDRESS = "127.0.0.1"
_STOP_S = 10.0

_CONFIG = """\
[node]
name = "{name}"
data = "{data}"
genesis = "{genesis}"
keys = "{home}/keys"
[listen]
peer = "{peer}"
api = "{api}"
[api]
token_file = "{token}"
[telemetry]
run = "{run}"
cell = "{cell}"
host = "local"
sample = {sample}
interval_s = {interval_s}
[lease]
seconds = {lease_s}
"""


class Variant(Struct, frozen=True):
    """How one validator differs: sections that its configuration has besides, a program in place of the node's own."""

    sections: str = ""
    program: Path | None = None


class LocalCluster:
    """Keys, certificates and processes of ``count`` validators below ``root``. Use as a context manager."""

    def __init__(self, root: Path, count: int, signature: Literal["rsa-2048", "ed25519"] = "rsa-2048") -> None:
        self.root = root.resolve()
        self.names = [f"validator-{number}" for number in range(1, count + 1)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.variants: dict[str, Variant] = {}
        self._signature = signature

    @property
    def state(self) -> Path:
        """What deploy would keep on the control side: authority, bundles, devices, endpoints.json."""
        return self.root / "control"

    @property
    def endpoints(self) -> Path:
        return self.state / "endpoints.json"

    def deployment(self) -> Deployment:
        return read_deployment(self.endpoints)

    def __enter__(self) -> LocalCluster:
        ports = free_ports(2 * len(self.names))
        placed = tuple(Validator(name, ports.pop(), ports.pop()) for name in self.names)
        bundles = []
        for name in self.names:
            bundle, _ = create_keys(self._home(name) / "keys", name, signature=self._signature, hosts=[_ADDRESS])
            bundles.append(bundle)
        request = Enrolment(
            hosts=(Host("local", _ADDRESS, placed),), bundles=tuple(bundles), devices=1, signature=self._signature
        )
        enrol(request, self.state)
        for name in self.names:
            keys = self._home(name) / "keys"
            shutil.copyfile(self.state / "certificates" / f"{name}.crt", keys / "tls.crt")
            shutil.copyfile(self.state / "authority" / "ca.crt", keys / "ca.crt")
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @contextmanager
    def running(self, cell: Cell, directory: Path) -> Iterator[None]:
        """Run the cell's validators on fresh data; stop them and collect what they leave into the cell's directory."""
        try:
            for name in cell.validators:
                self._start(name, cell, directory)
            yield
        finally:
            self.stop()
            for name in cell.validators:
                self._collect(name, directory / "nodes" / name)
        (directory / "sealed").touch()

    def stop(self) -> None:
        """Ask all processes to stop, and kill those that don't."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def _home(self, name: str) -> Path:
        return self.root / "validators" / name

    def _start(self, name: str, cell: Cell, directory: Path) -> None:
        home, endpoint = self._home(name), self.deployment().endpoint(name)
        variant = self.variants.get(name, Variant())
        if endpoint is None:
            raise CheckFailed(f"{name} is not one of this cluster's {len(self.names)} validators")
        shutil.rmtree(home / "data", ignore_errors=True)
        (home / "data").mkdir()
        text = _CONFIG.format(
            name=name,
            home=home,
            data=home / "data",
            genesis=directory / "genesis.json",
            peer=endpoint.peer,
            api=endpoint.api.removeprefix("https://"),
            token=self.state / "token",
            run=cell.run,
            cell=cell.id,
            sample=cell.telemetry.sample,
            interval_s=cell.telemetry.interval_s,
            lease_s=cell.lease_s,
        )
        (home / "config.toml").write_text(text + variant.sections)
        load_config(home / "config.toml")
        with (home / "node.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                _node_command("run", home, variant.program),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=_node_environment(),
            )

    def _collect(self, name: str, target: Path) -> None:
        """Bring what cell.yml would collect: digest, log, configuration, spool."""
        home = self._home(name)
        target.mkdir(parents=True, exist_ok=True)
        command = [*_node_command("inspect", home), "--digest"]
        done = subprocess.run(command, capture_output=True, env=_node_environment(), check=False, timeout=120)
        if done.returncode == 0:
            (target / "digest.json").write_bytes(done.stdout)
        for file in (home / "node.log", home / "config.toml", home / "data/shipper.json", home / "data/rejected.lp"):
            if file.exists():
                shutil.copyfile(file, target / file.name)
        if (home / "data" / "spool").exists():
            shutil.copytree(home / "data" / "spool", target / "spool", dirs_exist_ok=True)
        shutil.rmtree(home / "data", ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.create_server((_ADDRESS, 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def _node_command(verb: str, home: Path, program: Path | None = None) -> Sequence[str]:
    code = ["-m", "microchain.cli"] if program is None else [str(program)]
    return [sys.executable, "-P", *code, verb, "--config", str(home / "config.toml")]


def _node_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "node"), "PYTHONOPTIMIZE": "2"}
