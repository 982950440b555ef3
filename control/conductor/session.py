"""One cell's connections: clients of all its validators, readiness, leases and the client's telemetry."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from microchain.client.load import now_ns
from microchain.client.node_client import NodeClient, NodeError, Unreachable
from microchain.client.signing import SigningPlan, sign_ahead
from microchain.client.transactions import SignedTransaction
from microchain.consensus.genesis import Genesis
from microchain.consensus.types import Height
from microchain.keys import SIGNING_KEY
from microchain.telemetry.recorder import CLIENT, Recorder
from microchain.telemetry.spool import Spool

from control.cells import Cell
from control.conductor.clocks import ClockExchange
from control.conductor.summary import RateSummary, RoundsSummary
from control.conductor.watch import CellFailed, Watch
from control.inventory import Deployment
from control.progress import Phase, Progress
from control.rundir import RunDirectory

__all__ = ["Session", "open_session"]

_POLL_S = 0.1
_QUIET_POLLS = 5
_SETTLING_S = 60.0
_LEASE_RENEWAL_S = 60.0
_CALL_TIMEOUT_S = 30.0

_log = logging.getLogger(__name__)


class Session:
    """A cell with open clients; made by `open_session`."""

    def __init__(
        self,
        cell: Cell,
        directory: Path,
        genesis: Genesis,
        deployment: Deployment,
        nodes: dict[str, NodeClient],
        recorder: Recorder,
    ) -> None:
        self.cell = cell
        self.directory = directory
        self.chain_id = genesis.chain_id()
        self.nodes = nodes
        self.watch = Watch(nodes)
        self.recorder = recorder
        self.clocks = ClockExchange(
            nodes, recorder, cell.telemetry.interval_s, deployment.validators_on(deployment.client_host())
        )
        self.summary: RoundsSummary | RateSummary | None = None
        self._run = RunDirectory(directory.parent.parent)
        self._deployment = deployment
        self._signed = 0

    def report(self, phase: Phase, done: int = 0, total: int = 0, message: str = "") -> None:
        """Append to the run's progress and to the log."""
        _log.info("%s %d/%d %s", phase, done, total, message)
        self._run.report(Progress(cell=self.cell.id, phase=phase, done=done, total=total, message=message))

    async def wait_ready(self, timeout_s: float) -> None:
        """Return when all validators are ready; CellFailed names each that is not, and what it lacks."""
        deadline = time.monotonic() + timeout_s
        reasons = await asyncio.gather(*(self._wait_one_ready(name, deadline) for name in self.nodes))
        late: dict[str, list[str]] = {}
        for name, reason in zip(self.nodes, reasons, strict=True):
            if reason:
                late.setdefault(reason, []).append(name)
        if late:
            count = sum(map(len, late.values()))
            shown = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in late.items())
            raise CellFailed(f"{count} of {len(self.nodes)} validators are not ready after {timeout_s:g} s: {shown}")

    async def _wait_one_ready(self, name: str, deadline: float) -> str:
        """Return an empty text once the validator reaches all its peers, or why it does not by the deadline."""
        while True:
            try:
                status = await self.nodes[name].status()
            except Unreachable:
                reason = "no answer (its node.log may say why)"
            except (NodeError, msgspec.MsgspecError, UnicodeDecodeError) as error:
                reason = str(error)
            else:
                reason = self._describe_unready(status)
                if not reason:
                    return ""
            if time.monotonic() > deadline:
                return reason
            await asyncio.sleep(_POLL_S)

    def _describe_unready(self, status: dict[str, Any]) -> str:
        """Return why a validator with this status is not ready; empty if it is."""
        chain = str(status.get("chain_id"))
        if chain != self.chain_id.hex():
            return f"runs chain {chain[:16]}, not this cell's {self.chain_id.hex()[:16]}"
        peers = status.get("peers", [])
        away = [peer["name"] for peer in peers if not peer["connected"]]
        if away:
            return f"is connected to {len(peers) - len(away)} of {len(peers)} peers, not to {', '.join(away)}"
        return "" if status.get("ready") else "says it is not ready"

    async def wait_settled(self, timeout_s: float = _SETTLING_S) -> None:
        """Return when all have what each validator sends of its own accord at the start, and have checked it.

        The members' deals cost each of them more than a round does. A chain that is not quiet after ``timeout_s`` is
        loaded all the same.
        """
        deadline, quiet = time.monotonic() + timeout_s, 0
        while quiet < _QUIET_POLLS:
            states = (await self.statuses()).values()
            found = {(state.get("jobs"), state.get("pool", {}).get("system")) for state in states}
            quiet = quiet + 1 if len(found) == 1 and all(jobs == 0 for jobs, _ in found) else 0
            if time.monotonic() > deadline:
                _log.warning("the validators still calculate after %g s: %s", timeout_s, found)
                return
            await asyncio.sleep(_POLL_S)

    async def prepare(self, count: int) -> list[SignedTransaction]:
        """Sign the next ``count`` transactions, an even share from each device; no two of a cell are equal."""
        devices = self._deployment.devices[: self.cell.devices]
        if not devices:
            raise CellFailed("no device may send transactions; run './testbed deploy', which makes their keys")
        valid_until = Height(self.watch.head + self.cell.parameters.max_validity)
        shares = [count // len(devices) + (index < count % len(devices)) for index in range(len(devices))]
        parts = []
        for device, share in zip(devices, shares, strict=True):
            plan = SigningPlan(
                chain_id=self.chain_id,
                scheme=self._deployment.signature,
                pem=_read_key(Path(device.keys)),
                valid_until=valid_until,
                size=self.cell.workload.transaction_bytes,
            )
            try:
                parts.append(await sign_ahead(plan, share, first_nonce=self.cell.seed % 2**32 + self._signed))
            except ValueError as error:
                raise CellFailed(f"transactions of {plan.size} bytes can't be made by {device.name}: {error}") from None
        self._signed += max(shares)
        return [part[index] for index in range(max(shares)) for part in parts if index < len(part)]

    async def keep_leases(self) -> None:
        """Put off the validators' own end again and again, until cancelled."""
        while True:
            results = await asyncio.gather(
                *(node.extend_lease(self.cell.lease_s) for node in self.nodes.values()), return_exceptions=True
            )
            for name, result in zip(self.nodes, results, strict=True):
                if isinstance(result, Exception):
                    _log.warning("the lease of %s was not extended: %s", name, result)
            await asyncio.sleep(_LEASE_RENEWAL_S)

    async def statuses(self) -> dict[str, Any]:
        """Return each validator's status, or why there is none."""
        answers = await asyncio.gather(*(node.status() for node in self.nodes.values()), return_exceptions=True)
        return {
            name: {"error": str(answer)} if isinstance(answer, BaseException) else answer
            for name, answer in zip(self.nodes, answers, strict=True)
        }


@asynccontextmanager
async def open_session(
    cell: Cell, directory: Path, genesis: Genesis, deployment: Deployment, token: str
) -> AsyncIterator[Session]:
    """Open clients and the client's spool, and close them whatever happens."""
    ca_file = Path(deployment.ca)
    async with AsyncExitStack() as stack:
        nodes = {}
        for name in cell.validators:
            endpoint = deployment.endpoint(name)
            if endpoint is None:
                raise CellFailed(f"{name} has no endpoint; it is not deployed (any more)")
            secure = endpoint.api.startswith("https")
            client = NodeClient(
                endpoint.api, ca_file=ca_file if secure else None, token=token, timeout_s=_CALL_TIMEOUT_S
            )
            nodes[name] = await stack.enter_async_context(client)
        spool = Spool(directory / "client")
        recorder = Recorder(
            spool,
            run=cell.run,
            cell=cell.id,
            validator=CLIENT,
            host=deployment.client_host(),
            sample=cell.telemetry.sample,
        )
        stack.callback(lambda: recorder.close(now_ns()))
        yield Session(cell, directory, genesis, deployment, nodes, recorder)


def _read_key(directory: Path) -> bytes:
    try:
        return (directory / SIGNING_KEY).read_bytes()
    except OSError as error:
        raise CellFailed(f"the device's key can't be read: {error}; run './testbed deploy'") from None
