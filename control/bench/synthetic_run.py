"""Makes a sealed run of any size without running it: what the analysis reads, as nodes would have written it.

Every validator has a host of its own, whose clock is some milliseconds off; a block takes a round of 128 transactions.
The figures in it mean nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml
from microchain.consensus.interface import BlockTrace, TransactionTrace, VoteTrace
from microchain.consensus.types import Digest, Epoch, Height, NodeId, Slot
from microchain.network.counters import PhaseCounters
from microchain.telemetry.recorder import CLIENT, Recorder
from microchain.telemetry.spool import Spool

from control.cells import Cell, CellRounds
from control.inventory import Deployment, Device, Endpoint
from control.plan import create_run
from control.rundir import RunDirectory, write_json
from control.seal import seal
from control.spec_reader import load_experiment

__all__ = ["make_synthetic_run"]

_COMMITTEES = (4, 8, 16)
_TRANSACTIONS = 128
_ROUND_NS = 500_000_000
_MS = 1_000_000
_BEGIN_NS = 1_767_323_045_000_000_000
_PHASES = ("transactions", "proposal", "voting", "anti-entropy", "sync", "link")
_WARMUP = 2


def make_synthetic_run(target: Path, points: int) -> RunDirectory:
    """Make the run directory ``target`` with about ``points`` points in cells of 4, 8 and 16 validators."""
    each_round = sum(_count_points(validators) for validators in _COMMITTEES)
    spec = {
        "name": "bench-analysis",
        "validators": list(_COMMITTEES),
        "block_bytes": "128K",
        "transaction_bytes": "1K",
        "workload": {"kind": "rounds", "rounds": max(1, round(points / each_round) - _WARMUP), "warmup": _WARMUP},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.with_suffix(".yml")
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    run = create_run(target, file, load_experiment(file), "bench", _deployment(max(_COMMITTEES)))
    file.unlink()
    for cell in run.cells():
        _Cell(cell, run.cell(cell.id)).write()
    seal(run)
    return run


def _count_points(validators: int) -> int:
    """Points of one round: of transactions, blocks and votes, and every second round those of an interval."""
    each = 4 * _TRANSACTIONS + 5 + validators + (len(_PHASES) + validators + 2) // 2
    return validators * each + 3 * _TRANSACTIONS


def _deployment(validators: int) -> Deployment:
    endpoints = [
        Endpoint(name=f"validator-{number}", host=f"pi-{number:02}", api="https://127.0.0.1:1", peer="127.0.0.1:1")
        for number in range(1, validators + 1)
    ]
    return Deployment(ca="", token_file="", endpoints=tuple(endpoints), devices=(Device(name="device-1", keys=""),))


def _digest(*parts: object) -> Digest:
    return Digest(hashlib.sha256(repr(parts).encode()).digest())


class _Cell:
    """Writes what one cell leaves."""

    def __init__(self, cell: Cell, directory: Path) -> None:
        assert isinstance(cell.workload, CellRounds)
        self._cell, self._directory = cell, directory
        self._rounds = range(1, cell.workload.rounds + cell.workload.warmup + 1)
        self._ids = {number: [_digest(cell.id, number, i) for i in range(_TRANSACTIONS)] for number in self._rounds}
        self._blocks = {number: _digest(cell.id, "block", number) for number in self._rounds}
        self._nodes = {name: NodeId(_digest(name)) for name in cell.validators}

    def write(self) -> None:
        """Write documents and spools."""
        write_json(self._directory / "outcome.json", {"status": "ok", "drained": True, "message": ""})
        records = [msgspec.json.encode(self._round(number)) + b"\n" for number in self._rounds]
        (self._directory / "rounds.jsonl").write_bytes(b"".join(records))
        digest = self._ledger()
        for index, name in enumerate(self._cell.validators):
            node = self._directory / "nodes" / name
            node.mkdir(parents=True)
            write_json(node / "digest.json", digest)
            recorder = self._open(node / "spool", name, f"pi-{index + 1:02}")
            for number in self._rounds:
                self._record_round(recorder, index, number)
            recorder.close(self._at(index, self._rounds[-1] + 1, 0))
        self._record_client()
        (self._directory / "sealed").touch()

    def _round(self, number: int) -> dict[str, Any]:
        return {
            "round": number,
            "warmup": number <= _WARMUP,
            "transaction_ids": [id[:8].hex() for id in self._ids[number]],
            "bytes": _TRANSACTIONS * 1024,
            "submitted_ns": self._at(0, number, 0),
            "block": self._blocks[number].hex(),
            "status": "ok",
        }

    def _ledger(self) -> dict[str, Any]:
        blocks = [(number, self._blocks[number].hex(), _TRANSACTIONS, "00" * 32) for number in self._rounds]
        return {
            "chain_id": _digest(self._cell.id).hex(),
            "finalized": {"height": blocks[-1][0], "id": blocks[-1][1]},
            "blocks": blocks,
            "problems": [],
        }

    def _open(self, directory: Path, name: str, host: str) -> Recorder:
        spool = Spool(directory, interval_s=0)
        names = {node: name for name, node in self._nodes.items()}
        return Recorder(spool, run=self._cell.run, cell=self._cell.id, validator=name, host=host, names=names)

    def _at(self, index: int, number: int, after_ms: float) -> int:
        """The time on the clock of host ``index`` (0: of the load generator, and of the first validator)."""
        return _BEGIN_NS + number * _ROUND_NS + round((after_ms + 3.0 * index) * _MS)

    def _record_round(self, recorder: Recorder, index: int, number: int) -> None:
        validators = self._cell.validators
        late = (index + 1) / len(validators)
        ids, block = tuple(self._ids[number]), self._blocks[number]
        proposer = self._nodes[validators[number % len(validators)]]

        def at(after_ms: float) -> int:
            return self._at(index, number, after_ms)

        def trace(event: Any, after_ms: float) -> None:
            size = _TRANSACTIONS * 1024
            height, epoch = Height(number), Epoch(number)
            recorder.trace(
                BlockTrace(event, block, height, Slot(1), epoch, proposer, size, _TRANSACTIONS), at(after_ms)
            )

        own = self._nodes[validators[index]]
        recorder.trace(TransactionTrace("accepted", ids, local=index == 0), at(40 * late))
        if own == proposer:
            trace("proposed", 50)
        else:
            trace("received", 50 + 10 * late)
            trace("verified", 50 + 40 * late)
        trace("adopted", 51 + 40 * late)
        recorder.trace(TransactionTrace("included", ids, block, Height(number)), at(51 + 40 * late))
        for voter in validators:
            event: Any = "sent" if self._nodes[voter] == own else "received"
            vote = VoteTrace(event, self._nodes[voter], block, Epoch(number), Epoch(number - 1))
            recorder.trace(vote, at(100 + 20 * late))
        trace("justified", 130 + 20 * late)
        recorder.trace(TransactionTrace("committed", ids, block, Height(number)), at(130 + 20 * late))
        trace("finalized", 200 + 20 * late)
        recorder.trace(TransactionTrace("finalized", ids, block, Height(number)), at(200 + 20 * late))
        if number % 2 == 0:
            self._record_interval(recorder, index, number, at(300))
        recorder.spool.flush()

    def _record_interval(self, recorder: Recorder, index: int, number: int, at: int) -> None:
        """What comes every second: counters, clocks, board."""
        counts = {phase: PhaseCounters(number * 10, number * 2000, number * 10, number * 2000) for phase in _PHASES}
        recorder.messages(counts, at)
        for other, name in enumerate(self._cell.validators):
            if other != index:
                recorder.peer(name, 400_000, 3 * _MS * (other - index) + 50_000, 200_000, at)
        recorder.board(at)

    def _record_client(self) -> None:
        recorder = self._open(self._directory / CLIENT, CLIENT, "pi-01")
        events: Sequence[tuple[str, float]] = (("scheduled", 0), ("submitted", 1), ("accepted", 20))
        for number in self._rounds:
            for event, after_ms in events:
                recorder.transactions(event, self._ids[number], self._at(0, number, after_ms))
            recorder.spool.flush()
        recorder.close(self._at(0, self._rounds[-1] + 1, 0))
