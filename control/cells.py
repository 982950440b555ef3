"""A sweep is the product of an experiment's lists; each combination and repeat is one cell."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any

import msgspec
from microchain.consensus.genesis import Parameters
from msgspec import Meta, Struct

from control.spec import EngineName, Entry, Experiment, RateWorkload, RoundsWorkload, TelemetrySettings, shown_size

__all__ = ["Cell", "CellRate", "CellRounds", "CellWorkload", "Combination", "combinations", "compute_run_id", "expand"]

LEASE_MARGIN_S = 900.0
START_S = 8.0
"""What genesis, start and collecting of a cell take, for the plan's estimate."""
ROUNDS_IDLE_INTERVAL_MS = 600_000
"""While rounds are measured no idle block may come between: longer than any round."""


class CellRounds(Struct, tag="rounds", tag_field="kind", frozen=True, kw_only=True):
    """The rounds workload of one cell, every number settled."""

    rounds: int
    warmup: int
    transactions: int
    transaction_bytes: int
    timeout_s: float
    entry: Entry


class CellRate(Struct, tag="rate", tag_field="kind", frozen=True, kw_only=True):
    """The open-loop workload of one cell, every number settled."""

    rate: float
    duration_s: float
    warmup_s: float
    drain_s: float
    transaction_bytes: int
    entry: Entry


CellWorkload = CellRounds | CellRate


class Cell(Struct, frozen=True, kw_only=True):
    """``cell.json``: all that is needed to run one cell, given the deployed validators.

    ``refused`` says why it can't be run on this deployment; its ``validators`` are too few then.
    """

    id: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9.-]{0,63}$")]
    run: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9-]{0,127}$")]
    experiment: str
    engine: EngineName
    validators: tuple[str, ...]
    parameters: Parameters
    telemetry: TelemetrySettings
    workload: CellWorkload
    seed: int
    devices: int
    planned_s: float
    lease_s: float
    refused: str = ""


class Combination(Struct, frozen=True):
    """One point of a sweep: committee size, block and transaction bytes, and which repeat of it."""

    engine: EngineName
    validators: int
    block_bytes: int
    transaction_bytes: int
    repeat: int

    @property
    def id(self) -> str:
        """The cell's id, such as ``k4-b128K-t1K-r1``; before it the engine if that is another than Microchain."""
        return self.load_id if self.engine == "microchain" else f"{self.engine}-{self.load_id}"

    @property
    def load_id(self) -> str:
        """The id of what is offered, the same for every engine."""
        block, size = shown_size(self.block_bytes), shown_size(self.transaction_bytes)
        return f"k{self.validators}-b{block}-t{size}-r{self.repeat}"


def combinations(experiment: Experiment) -> tuple[Combination, ...]:
    """Return the sweep in the order to run it: every combination once, then the repeats, so that drift hits all."""
    swept = list(
        product(experiment.validators, experiment.block_bytes, experiment.transaction_bytes, experiment.engine)
    )
    return tuple(
        Combination(engine, validators, block, size, repeat)
        for repeat in range(1, experiment.repeats + 1)
        for validators, block, size, engine in swept
    )


def expand(experiment: Experiment, run: str, validators: Sequence[str], signature: str) -> tuple[Cell, ...]:
    """Return the cells of a run. ``validators`` are the names to take committees from, in order.

    A cell that needs more of them than there are is refused.
    """
    return tuple(_make_cell(experiment, c, run, validators, signature) for c in combinations(experiment))


def compute_run_id(run: str, cell_id: str, attempt: int) -> str:
    """Return the genesis run id (32 hex digits) of one attempt at a cell: each attempt is a chain of its own."""
    return hashlib.sha256(f"{run}/{cell_id}/{attempt}".encode()).hexdigest()[:32]


def _make_cell(experiment: Experiment, c: Combination, run: str, validators: Sequence[str], signature: str) -> Cell:
    workload = _settle(experiment, c)
    planned = START_S + _workload_seconds(workload, c)
    return Cell(
        id=c.id,
        run=run,
        experiment=experiment.name,
        engine=c.engine,
        validators=tuple(validators[: c.validators]),
        parameters=_parameters(experiment, c, signature),
        telemetry=experiment.telemetry,
        workload=workload,
        seed=int.from_bytes(hashlib.sha256(f"{experiment.seed}/{c.load_id}".encode()).digest()[:8]) >> 1,
        devices=experiment.devices,
        planned_s=round(planned, 1),
        lease_s=round(planned + LEASE_MARGIN_S, 1),
        refused=_find_shortage(experiment, c, len(validators)),
    )


def _find_shortage(experiment: Experiment, c: Combination, deployed: int) -> str:
    """Say, with the numbers, that the hosts have too few validators for a cell; empty if they have enough."""
    if c.validators <= deployed:
        return ""
    where = {"boards": "boards have", "desktops": "desktops have", "all": "hosts have"}[experiment.hosts]
    missing = c.validators - deployed
    return (
        f"it needs {c.validators} validators and the deployment's {where} {deployed}: "
        f"{missing} {'is' if missing == 1 else 'are'} missing"
    )


def _settle(experiment: Experiment, c: Combination) -> CellWorkload:
    workload = experiment.workload
    settings: dict[str, Any] = msgspec.structs.asdict(workload) | {"transaction_bytes": c.transaction_bytes}
    if isinstance(workload, RateWorkload):
        return CellRate(**settings)
    settings["transactions"] = workload.transactions or c.block_bytes // c.transaction_bytes
    return CellRounds(**settings)


def _parameters(experiment: Experiment, c: Combination, signature: str) -> Parameters:
    settings: dict[str, Any] = {
        "engine": c.engine,
        "max_block_bytes": c.block_bytes,
        "max_tx_bytes": c.transaction_bytes,
        "signature": signature,
    }
    if isinstance(experiment.workload, RoundsWorkload):
        settings |= {"propose": "release", "idle_interval_ms": ROUNDS_IDLE_INTERVAL_MS}
    return msgspec.convert(settings | experiment.parameters, Parameters)


def _workload_seconds(workload: CellWorkload, c: Combination) -> float:
    """A rough guess for the plan; the live display replaces it by what finished cells took."""
    if isinstance(workload, CellRate):
        return workload.warmup_s + workload.duration_s + 5.0
    return (workload.rounds + workload.warmup) * (0.1 + 0.03 * c.validators + 0.3 * c.block_bytes / (1 << 20))
