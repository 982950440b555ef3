"""A cluster for tests: keys, authority, genesis document and configurations in a directory.

In-process nodes, on the test's own event loop::

    cluster = make_cluster(tmp_path, 4, parameters={"propose": "pool"})
    async with cluster.nodes() as nodes:            # list[Node], all started and connected
        outcomes = await nodes[0].submit([cluster.transaction(b"hello")])

Real processes (`python -m microchain.cli run`), for tests that kill::

    process = cluster.spawn(0)                      # subprocess.Popen; its log is cluster.log(0)
    await cluster.wait_ready(0)                     # until GET /v1/status says ready
    process.kill(); process.wait()
    process = cluster.spawn(0)                      # the same data directory

The keys are made once for each test session and scheme (``signature="ed25519"``, the quick one, or ``"rsa-2048"``).
A device ``device-1`` is registered for signing transactions. Ports are free ones of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import aiohttp
from microchain.config import NodeConfig, load_config
from microchain.consensus.engines import create_engine
from microchain.consensus.genesis import Genesis, encode_genesis, node_id
from microchain.consensus.objects import TRANSACTION_TAG, TransactionBody, encode_body, seal
from microchain.crypto.authority import Authority, create_authority, sign_request
from microchain.crypto.hashing import tagged_hash
from microchain.crypto.signatures import SigningKey
from microchain.genesis_file import build_genesis
from microchain.keys import Bundle, create_keys, load_signing_key
from microchain.runtime.node import EngineFactory, Node

Scheme = Literal["ed25519", "rsa-2048"]
TOKEN = "test-token"
_NODE_SOURCE = Path(__file__).resolve().parents[1] / "node"


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


@functools.cache
def _key_store() -> Path:
    path = Path(tempfile.mkdtemp(prefix="microchain-test-keys-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def _authority(name: str) -> Authority:
    now = datetime.now(UTC)
    return create_authority(name, not_before=now - timedelta(days=1), not_after=now + timedelta(days=2))


@functools.cache
def make_keys(name: str, scheme: Scheme, role: Literal["validator", "device"]) -> tuple[Path, Bundle]:
    """Return a key directory (made once) with a certificate of the tests' authority, and its bundle."""
    directory = _key_store() / scheme / name
    bundle, _ = create_keys(directory, name, role=role, signature=scheme, hosts=["127.0.0.1"])
    certify(directory, bundle)
    return directory, bundle


def certify(directory: Path, bundle: Bundle, authority: str = "testbed") -> None:
    """Sign the bundle's request with a tests' authority and put certificate and authority into the directory."""
    now, issuer = datetime.now(UTC), _authority(authority)
    certificate = sign_request(
        bundle.csr.encode(),
        issuer,
        name=bundle.name,
        hosts=["127.0.0.1"],
        not_before=now - timedelta(days=1),
        not_after=now + timedelta(days=1),
    )
    (directory / "tls.crt").write_bytes(certificate)
    (directory / "ca.crt").write_bytes(issuer.certificate)


@dataclass
class Cluster:
    """Directories and configurations of ``names``; see the module's docstring."""

    root: Path
    genesis: Genesis
    names: list[str]
    device: SigningKey
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def config(self, index: int) -> NodeConfig:
        """The configuration of one node."""
        return load_config(self.config_path(index))

    def config_path(self, index: int) -> Path:
        return self.root / self.names[index] / "config.toml"

    def log(self, index: int) -> Path:
        """Where the standard error of spawned processes goes."""
        return self.root / self.names[index] / "node.log"

    def transaction(self, payload: bytes, *, valid_until: int = 1000, size: int | None = None) -> bytes:
        """A data transaction of device-1; with ``size``, the payload is padded so that the envelope has that size."""
        if size is not None:
            payload += bytes(size - len(self.transaction(payload, valid_until=valid_until)) - 8)
            while len(raw := self.transaction(payload, valid_until=valid_until)) < size:
                payload += bytes(size - len(raw))
            return raw
        sender = node_id(self.device.public_key)
        signed = encode_body(TransactionBody(1, self.genesis.chain_id(), 0, sender, valid_until, payload))
        return seal(signed, self.device.sign(tagged_hash(TRANSACTION_TAG, signed)))

    @asynccontextmanager
    async def nodes(
        self,
        indexes: Sequence[int] | None = None,
        *,
        connected: bool = True,
        engine_factory: EngineFactory = create_engine,
    ) -> AsyncIterator[list[Node]]:
        """Start nodes on this event loop (all of them by default), wait until each is linked to all, stop them."""
        chosen = range(len(self.names)) if indexes is None else indexes
        async with AsyncExitStack() as stack:
            nodes = []
            for index in chosen:
                node = Node(self.config(index), engine_factory=engine_factory)
                await node.start()
                nodes.append(node)
                stack.push_async_callback(node.stop)
            if connected:
                for node in nodes:
                    await until(lambda node=node: linked(node) >= len(nodes) - 1)  # type: ignore[misc]
            yield nodes

    def spawn(self, index: int, *, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start `microchain-node run` for one node; `terminate` ends whatever still runs."""
        environment = {**os.environ, "PYTHONPATH": str(_NODE_SOURCE), **(environment or {})}
        with self.log(index).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "microchain.cli", "run", "--config", str(self.config_path(index))],
                stderr=log,
                stdout=log,
                env=environment,
            )
        self.processes.append(process)
        return process

    def terminate(self) -> None:
        """Kill all spawned processes that still run."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    async def request(self, index: int, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Ask a node's API; returns (status, decoded JSON body)."""
        context = ssl.create_default_context(cafile=str(self.config(index).node.keys / "ca.crt"))
        url = f"https://{self.config(index).listen.api}{path}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, ssl=context, headers=headers, **options) as response,
        ):
            return response.status, await response.json()

    async def wait_ready(self, index: int, seconds: float = 120.0) -> None:
        """Wait until a spawned node says that it is ready."""

        async def ready() -> bool:
            try:
                _, status = await self.request(index, "GET", "/v1/status")
            except (aiohttp.ClientError, OSError):
                return False
            return bool(status["ready"])

        async with asyncio.timeout(seconds):
            while True:
                if await ready():
                    return
                await asyncio.sleep(0.05)


def linked(node: Node) -> int:
    """How many peers a node is connected to."""
    return sum(peer["connected"] for peer in node.status()["peers"])


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until the condition holds; TimeoutError if it does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


def make_cluster(
    root: Path,
    validators: int,
    *,
    scheme: Scheme = "ed25519",
    parameters: Mapping[str, Any] | None = None,
    lease_s: float = 0.0,
) -> Cluster:
    """Make everything that ``validators`` nodes need below ``root``."""
    names = [f"validator-{number + 1}" for number in range(validators)]
    keys = {name: make_keys(name, scheme, "validator") for name in names}
    device_keys, device_bundle = make_keys("device-1", scheme, "device")
    ports = free_ports(2 * validators)
    addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=False)}
    genesis = build_genesis(
        {"signature": scheme, **(parameters or {})},
        [*(bundle for _, bundle in keys.values()), device_bundle],
        secrets.token_hex(16),
        addresses,
    )
    root.mkdir(parents=True, exist_ok=True)
    (root / "genesis.json").write_bytes(encode_genesis(genesis))
    (root / "token").write_text(TOKEN + "\n")
    for name, api_port in zip(names, ports[validators:], strict=True):
        (root / name / "data").mkdir(parents=True, exist_ok=True)
        (root / name / "config.toml").write_text(
            f"""[node]
name = "{name}"
data = "{root / name / "data"}"
genesis = "{root / "genesis.json"}"
keys = "{keys[name][0]}"
[listen]
peer = "{addresses[name]}"
api = "127.0.0.1:{api_port}"
[api]
token_file = "{root / "token"}"
[telemetry]
run = "test"
cell = "test"
host = "localhost"
interval_s = 0.2
[lease]
seconds = {lease_s}
"""
        )
    return Cluster(root, genesis, names, load_signing_key(device_keys, scheme))
