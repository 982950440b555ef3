"""Loads a run directory: what was planned, what the conductor saw, and every point of every spool."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from microchain.telemetry.recorder import CLIENT

from analysis.documents import (
    CellSpec,
    Environment,
    LedgerDigest,
    Outcome,
    RoundRecord,
    read_document,
    read_records,
)
from analysis.problems import Problem
from analysis.spools import SpoolSession, SpoolTables, read_spool

__all__ = ["Cell", "NotARun", "Run", "load"]


class NotARun(ValueError):
    """The path is no run directory."""


@dataclass
class Cell:
    """One cell: ``spec`` as planned, ``outcome`` as it ended, ``digests`` of the ledgers by validator (None: none)."""

    spec: CellSpec
    outcome: Outcome | None
    rounds: list[RoundRecord]
    digests: dict[str, LedgerDigest | None]
    problems: list[Problem] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.spec.id


@dataclass
class Run:
    """A loaded run. Times are int64 ns since 1970 on the clock of the point's own host, uncorrected.

    Every DataFrame has ``cell``, ``validator``, ``host`` (categories; validator ``client`` is the load generator) and
    ``time``, then (docs/telemetry.md has the meaning of each field):

    - ``transactions``: event (category), id (16 hex digits), local (bool or None), height (Int64), block (16 digits)
    - ``blocks``: event, id (64 hex digits), height, slot, epoch, proposer, size (bytes), transactions, detail
    - ``votes``: event, voter, target (64 hex digits), target_epoch, source_epoch
    - ``messages``: phase, sent_messages, sent_bytes, received_messages, received_bytes (cumulative)
    - ``peers``: peer, rtt_ns, offset_ns (the peer's clock minus the point's own), bound_ns
    - ``boards``: cpu_percent, load1, memory_total_bytes, memory_available_bytes, and what the board has of
      temperature_c, frequency_hz, throttled (Int64), …_now (bool or None)
    - ``processes``: cpu_user_s, cpu_system_s (cumulative), rss_bytes, threads

    ``rounds`` has one row for each record of rounds.jsonl: cell, round, warmup, transactions, bytes, submitted_ns
    (Int64), block, status.
    """

    path: Path
    name: str
    environment: Environment | None
    cells: dict[str, Cell]
    transactions: pd.DataFrame
    blocks: pd.DataFrame
    votes: pd.DataFrame
    messages: pd.DataFrame
    peers: pd.DataFrame
    boards: pd.DataFrame
    processes: pd.DataFrame
    rounds: pd.DataFrame
    sessions: list[SpoolSession]
    problems: list[Problem]


def load(run_dir: Path) -> Run:
    """Load a run directory. NotARun if it is none; everything else that is wrong is listed in ``problems``."""
    cells_dir = run_dir / "cells"
    if not cells_dir.is_dir():
        raise NotARun(f"{run_dir} is no run directory: it has no folder cells")
    problems: list[Problem] = []
    environment = read_document(run_dir / "environment.json", Environment, problems, run_dir)
    tables = SpoolTables()
    cells = {}
    for directory in sorted(path for path in cells_dir.iterdir() if path.is_dir()):
        spec = read_document(directory / "cell.json", CellSpec, problems, run_dir)
        if spec is None:
            continue
        if spec.id != directory.name:
            problems.append(Problem(f"cells/{directory.name}/cell.json", f"is of cell {spec.id!r}"))
            continue
        cells[spec.id] = _load_cell(directory, spec, tables, run_dir)
    return Run(
        path=run_dir,
        name=run_dir.resolve().name,
        environment=environment,
        cells=cells,
        transactions=tables.frame("transaction"),
        blocks=tables.frame("block"),
        votes=tables.frame("vote"),
        messages=tables.frame("messages"),
        peers=tables.frame("peer"),
        boards=tables.frame("board"),
        processes=tables.frame("process"),
        rounds=_rounds_frame(cells),
        sessions=tables.sessions,
        problems=problems,
    )


def _load_cell(directory: Path, spec: CellSpec, tables: SpoolTables, root: Path) -> Cell:
    problems: list[Problem] = []
    digests: dict[str, LedgerDigest | None] = {}
    for validator in spec.validators:
        node = directory / "nodes" / validator
        digests[validator] = read_document(node / "digest.json", LedgerDigest, problems, root)
        read_spool(node / "spool", tables, problems, run=spec.run, cell=spec.id, validator=validator, root=root)
    read_spool(directory / "client", tables, problems, run=spec.run, cell=spec.id, validator=CLIENT, root=root)
    rounds: list[RoundRecord] = []
    if spec.workload.__struct_config__.tag == "rounds":
        rounds = _read_rounds(directory / "rounds.jsonl", problems, root)
    outcome = read_document(directory / "outcome.json", Outcome, problems, root)
    return Cell(spec, outcome, rounds, digests, problems)


def _read_rounds(path: Path, problems: list[Problem], root: Path) -> list[RoundRecord]:
    """Read the rounds; if one is recorded twice (a cell run again into its old directory) the last record counts."""
    records = read_records(path, RoundRecord, problems, root)
    by_number = {record.round: record for record in records}
    if len(by_number) < len(records):
        repeated = len(records) - len(by_number)
        problems.append(Problem(str(path.relative_to(root)), f"{repeated} rounds are recorded more than once"))
    return list(by_number.values())


def _rounds_frame(cells: dict[str, Cell]) -> pd.DataFrame:
    rows = [
        (cell.id, r.round, r.warmup, len(r.transaction_ids), r.bytes, r.submitted_ns, r.block, r.status)
        for cell in cells.values()
        for r in cell.rounds
    ]
    columns = ["cell", "round", "warmup", "transactions", "bytes", "submitted_ns", "block", "status"]
    return pd.DataFrame.from_records(rows, columns=columns).astype({"submitted_ns": "Int64"})
