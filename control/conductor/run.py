"""Runs one cell and writes how it ended. Whatever happens, ``outcome.json`` says so, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from microchain.consensus.genesis import Genesis, GenesisError
from microchain.genesis_file import load_genesis
from msgspec import Struct

from control.cells import Cell, CellRate
from control.conductor.rate import run_rate
from control.conductor.rounds import run_rounds
from control.conductor.session import Session, open_session
from control.conductor.summary import RateSummary, RoundsSummary
from control.conductor.watch import CellFailed
from control.errors import UsageError
from control.inventory import Deployment
from control.progress import Progress
from control.rundir import RunDirectory, write_json

__all__ = ["Outcome", "conduct"]

_log = logging.getLogger(__name__)


class Outcome(Struct, kw_only=True):
    """``outcome.json``. ``message`` is the reason if the cell failed; ``statuses`` are the validators' at the end."""

    cell: str
    status: Literal["ok", "failed"]
    drained: bool
    message: str = ""
    chain_id: str = ""
    started: str
    ended: str
    seconds: float
    summary: RoundsSummary | RateSummary | None = None
    statuses: dict[str, Any] = {}


async def conduct(
    cell: Cell, directory: Path, deployment: Deployment, *, ready_timeout_s: float, subscribe_timeout_s: float = 30.0
) -> Outcome:
    """Run the cell; the outcome is also in ``outcome.json`` and in the run's progress."""
    started, began = datetime.now(UTC), time.monotonic()
    outcome = Outcome(cell=cell.id, status="failed", drained=False, started=started.isoformat(), ended="", seconds=0.0)
    try:
        genesis, token = _read_inputs(directory, deployment)
        outcome.chain_id = genesis.chain_id().hex()
        async with open_session(cell, directory, genesis, deployment, token) as session:
            try:
                await session.wait_ready(ready_timeout_s)
                await session.wait_settled()
                session.report("ready", len(cell.validators), len(cell.validators))
                await _run_watched(session, subscribe_timeout_s)
            finally:
                outcome.summary = session.summary
                outcome.statuses = await session.statuses()
        outcome.status, outcome.drained = "ok", True
    except (CellFailed, UsageError) as error:
        outcome.message = str(error)
    except asyncio.CancelledError:
        outcome.message = "interrupted by the operator"
    except Exception as error:
        _log.exception("the conductor failed")
        outcome.message = f"the conductor itself failed ({type(error).__name__}: {error}); see conductor.log"
    outcome.ended = datetime.now(UTC).isoformat()
    outcome.seconds = round(time.monotonic() - began, 3)
    write_json(directory / "outcome.json", outcome)
    RunDirectory(directory.parent.parent).report(
        Progress(cell=cell.id, phase="drained" if outcome.drained else "failed", message=outcome.message)
    )
    return outcome


def _read_inputs(directory: Path, deployment: Deployment) -> tuple[Genesis, str]:
    try:
        return load_genesis(directory / "genesis.json"), Path(deployment.token_file).read_text().strip()
    except (GenesisError, OSError, UnicodeDecodeError) as error:
        raise UsageError(str(error)) from None


async def _run_watched(session: Session, subscribe_timeout_s: float) -> None:
    """Run the workload while all validators' events are read and leases kept; a lost validator ends it at once."""
    try:
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(session.watch.follow(name)) for name in session.nodes]
            background.append(group.create_task(session.keep_leases()))
            await session.clocks.begin()
            background.append(group.create_task(session.clocks.keep()))
            try:
                async with asyncio.timeout(subscribe_timeout_s):
                    await session.watch.wait_subscribed()
            except TimeoutError:
                raise CellFailed(f"not all event streams were open after {subscribe_timeout_s:g} s") from None
            workload = session.cell.workload
            if isinstance(workload, CellRate):
                await run_rate(session, workload)
            else:
                await run_rounds(session, workload)
            session.clocks.end()
            session.watch.stop()
            for task in background:
                task.cancel()
    except* CellFailed as failures:
        raise _first_failure(failures) from None


def _first_failure(failures: BaseExceptionGroup[CellFailed]) -> CellFailed:
    first = failures.exceptions[0]
    return first if isinstance(first, CellFailed) else _first_failure(first)
