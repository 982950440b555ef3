"""Makes run directories whose figures are known: written by the real Recorder, with clocks set wrong on purpose."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from microchain.consensus.interface import BlockTrace, TransactionTrace, VoteTrace
from microchain.consensus.types import Digest, Epoch, Height, NodeId, Slot
from microchain.network.counters import PhaseCounters
from microchain.telemetry.recorder import Recorder
from microchain.telemetry.spool import Spool

RUN = "20260102-030405-synthetic-abcdef"
BASE_NS = 1_767_323_045_000_000_000
MS = 1_000_000
ROUND_MS = 1000.0
FACTORS = (1.0, 1.1, 1.2, 1.3, 1.4)
"""Round r takes FACTORS[r % 5] of the plan's times: with rounds in fives the median is 1.2 times the plan's."""


@dataclass(frozen=True)
class Plan:
    """What to make. Times in ms; ``skew_ms`` is how far each host's clock is ahead of the true time."""

    validators: int = 4
    rounds: int = 10
    warmup: int = 2
    transactions: int = 8
    block_bytes: int = 128 << 10
    transaction_bytes: int = 1024
    sample: float = 1.0
    T_ct: float = 20.0
    T_bp: float = 15.0
    T_cf: float = 10.0
    finality: float = 60.0
    client_host: str = "bench"
    hosts: tuple[str, ...] = ("bench",)
    skew_ms: dict[str, float] = field(default_factory=dict)
    rtt_ms: float = 0.5
    measure_clocks: bool = True
    cell: str = "k4-b128k"
    engine: str = "microchain"

    def host(self, index: int) -> str:
        return self.hosts[index % len(self.hosts)]

    def ns(self, host: str, true_ms: float) -> int:
        """What the host's clock shows at a true time."""
        return BASE_NS + round((true_ms + self.skew_ms.get(host, 0.0)) * MS)


def digest_of(*parts: object) -> Digest:
    return Digest(hashlib.sha256(repr(parts).encode()).digest())


def validator(index: int) -> str:
    return f"validator-{index + 1}"


def transaction_ids(plan: Plan, number: int) -> list[Digest]:
    return [digest_of(plan.cell, "transaction", number, index) for index in range(plan.transactions)]


def make_run(root: Path, *plans: Plan) -> Path:
    """Write a run with one cell for each plan; returns the run directory."""
    run = root / RUN
    for plan in plans or (Plan(),):
        make_cell(run / "cells" / plan.cell, plan)
    write(
        run / "environment.json",
        {
            "git": {"commit": "0123456789abcdef", "dirty": False},
            "host": {"cpu": "Test CPU", "cores": 2, "memory_bytes": 4 << 30, "kernel": "Linux 6.1", "python": "3.11.7"},
        },
    )
    return run


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(document))


def read(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())


def make_cell(directory: Path, plan: Plan) -> None:
    write(directory / "cell.json", cell_document(plan))
    write(directory / "outcome.json", {"status": "ok", "drained": True, "message": ""})
    rounds = range(plan.warmup + plan.rounds)
    records = [msgspec.json.encode(round_record(plan, number)) for number in rounds]
    (directory / "rounds.jsonl").write_bytes(b"\n".join(records) + b"\n")
    blocks = [
        [number + 1, digest_of(plan.cell, "block", number).hex(), plan.transactions, digest_of("body", number).hex()]
        for number in rounds
    ]
    for index in range(plan.validators):
        node = directory / "nodes" / validator(index)
        write(
            node / "digest.json",
            {
                "chain_id": digest_of(plan.cell, "chain").hex(),
                "finalized": {"height": blocks[-1][0], "id": blocks[-1][1]},
                "blocks": blocks,
                "own_votes": len(blocks),
                "evidence": [],
                "problems": [],
            },
        )
        record_validator(open_recorder(node / "spool", plan, validator(index), plan.host(index)), plan, index)
    record_client(open_recorder(directory / "client", plan, "client", plan.client_host), plan)


def cell_document(plan: Plan) -> dict[str, Any]:
    return {
        "id": plan.cell,
        "run": RUN,
        "experiment": "synthetic",
        "engine": plan.engine,
        "validators": [validator(index) for index in range(plan.validators)],
        "parameters": {"max_block_bytes": plan.block_bytes, "propose": "release"},
        "telemetry": {"sample": plan.sample, "interval_s": 1.0},
        "workload": {
            "kind": "rounds",
            "rounds": plan.rounds,
            "warmup": plan.warmup,
            "transactions": plan.transactions,
            "transaction_bytes": plan.transaction_bytes,
            "timeout_s": 60,
        },
        "seed": 1,
    }


def round_record(plan: Plan, number: int) -> dict[str, Any]:
    return {
        "round": number,
        "warmup": number < plan.warmup,
        "transaction_ids": [id[:8].hex() for id in transaction_ids(plan, number)],
        "bytes": plan.transactions * plan.transaction_bytes,
        "submitted_ns": plan.ns(plan.client_host, number * ROUND_MS),
        "block": digest_of(plan.cell, "block", number).hex(),
        "status": "ok",
    }


def open_recorder(directory: Path, plan: Plan, name: str, host: str) -> Recorder:
    spool = Spool(directory, interval_s=0)
    return Recorder(spool, run=RUN, cell=plan.cell, validator=name, host=host, sample=plan.sample)


def record_client(recorder: Recorder, plan: Plan) -> None:
    for number in range(plan.warmup + plan.rounds):
        start = number * ROUND_MS
        ids = transaction_ids(plan, number)
        for event, at in (("scheduled", start), ("submitted", start), ("accepted", start + 1.0)):
            recorder.transactions(event, ids, plan.ns(plan.client_host, at))
    record_clocks(recorder, plan, plan.client_host, 0)
    recorder.close(plan.ns(plan.client_host, 1e6))


def record_validator(recorder: Recorder, plan: Plan, index: int) -> None:
    """Validator ``index`` of K passes each stage at (index + 1)/K of its time, so the last one decides it."""
    host, share = plan.host(index), (index + 1) / plan.validators
    node = NodeId(digest_of("node", index))
    for number in range(plan.warmup + plan.rounds):
        factor, start = FACTORS[number % len(FACTORS)], number * ROUND_MS
        ids = tuple(transaction_ids(plan, number))
        block = digest_of(plan.cell, "block", number)
        recorder.trace(TransactionTrace("accepted", ids), plan.ns(host, start + plan.T_ct * factor * share))
        proposed = start + plan.T_ct * factor + 5.0

        def trace(event: Any, at: float, block: Digest = block, number: int = number) -> None:
            size = plan.transactions * plan.transaction_bytes
            trace = BlockTrace(
                event, block, Height(number + 1), Slot(1), Epoch(number + 1), node, size, plan.transactions
            )
            recorder.trace(trace, plan.ns(host, at))

        if index == 0:
            trace("proposed", proposed)
        else:
            trace("verified", proposed + plan.T_bp * factor * share)
        voted = proposed + plan.T_bp * factor
        vote = VoteTrace("sent", node, block, Epoch(number + 1), Epoch(number))
        recorder.trace(vote, plan.ns(host, voted + 0.001 * index))
        trace("justified", voted + plan.T_cf * factor * share)
        trace("finalized", start + plan.finality * factor * share)
        recorder.trace(
            TransactionTrace("finalized", ids, block, Height(number + 1)),
            plan.ns(host, start + plan.finality * factor * share),
        )
    record_clocks(recorder, plan, host, index)
    record_traffic(recorder, plan, host)
    recorder.close(plan.ns(host, 1e6))


def record_traffic(recorder: Recorder, plan: Plan, host: str) -> None:
    """Each round each validator sends one voting message of 200 bytes to each other one."""
    for number in range(plan.warmup + plan.rounds):
        sent = (number + 1) * (plan.validators - 1)
        traffic = PhaseCounters(sent, 200 * sent, sent, 200 * sent)
        recorder.messages({"voting": traffic}, plan.ns(host, number * ROUND_MS + 500))


def record_clocks(recorder: Recorder, plan: Plan, host: str, index: int) -> None:
    """Each node measures all others once a round, off by a quarter of the round trip (asymmetric paths)."""
    if not plan.measure_clocks:
        return
    for number in range(plan.warmup + plan.rounds):
        for other in range(plan.validators):
            if other == index and recorder.spool.directory.name == "spool":
                continue
            difference = plan.skew_ms.get(plan.host(other), 0.0) - plan.skew_ms.get(host, 0.0)
            offset = round((difference + plan.rtt_ms / 4 * (plan.host(other) != host)) * MS)
            rtt = round(plan.rtt_ms * MS)
            recorder.peer(validator(other), rtt, offset, rtt // 2, plan.ns(host, number * ROUND_MS))


__all__ = ["BASE_NS", "MS", "RUN", "Plan", "make_cell", "make_run", "read", "replace", "validator", "write"]
