"""Loads a run directory: what was planned, what the conductor saw, and every point of every process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from analysis.documents import (
    CellSpec,
    Environment,
    LedgerDigest,
    Outcome,
    RoundRecord,
    read_document,
    read_records,
)
from analysis.epochs import find_epochs
from analysis.points import PointTables
from analysis.problems import Problem
from analysis.sources import SourceError, SourceName, open_source
from analysis.spools import SpoolSession

__all__ = ["Cell", "NotARun", "Run", "SourceError", "load"]


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

    Every DataFrame of points has ``cell``, ``validator``, ``host`` (category; validator ``client`` is the load
    generator) and ``time`` (int64), is ordered by cell, validator and time, and has no index of its own. Then follow
    (docs/telemetry.md has the meaning of each field, docs/analysis.md examples; int64, and str for ids and names,
    unless said otherwise):

    - ``transactions``: event (category), id (16 hex digits), local (boolean), height (Int64), block (16 hex digits, NaN
      where there is none)
    - ``blocks``: event (category), id (64 hex digits), height, slot, epoch, proposer, size (bytes), transactions,
      detail (NaN where there is none)
    - ``votes``: event (category), voter, target (64 hex digits), target_epoch, source_epoch
    - ``messages``: phase (category), sent_messages, sent_bytes, received_messages, received_bytes (cumulative)
    - ``peers``: peer (category), rtt_ns, offset_ns (the peer's clock minus the point's own), bound_ns
    - ``boards``: cpu_percent (float64), load1 (float64), memory_total_bytes, memory_available_bytes, and what the board
      has of temperature_c (float64), frequency_hz (Int64), throttled (Int64), …_now (boolean)
    - ``processes``: cpu_user_s, cpu_system_s (float64, cumulative), rss_bytes, threads
    - ``spools``: points, dropped, shift_ns, closed (bool): the reports of each process about its own telemetry

    Derived ones: ``epochs`` and ``clocks`` (their own docstrings), and ``rounds`` with one row for each record of
    rounds.jsonl: cell (category), round, warmup (bool), transactions, bytes, submitted_ns (Int64), block (NaN: none),
    status.

    ``source`` says where the points came from; ``sessions`` are known of spools only.
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
    spools: pd.DataFrame
    rounds: pd.DataFrame
    sessions: list[SpoolSession]
    problems: list[Problem]
    source: SourceName = "spools"

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """What each validator saw of each epoch's checkpoint; see ``analysis.epochs.find_epochs``."""
        return find_epochs(self.blocks, self.votes)

    @cached_property
    def clocks(self) -> pd.DataFrame:
        """Each host's clock against the reference; see ``analysis.clock_offsets.find_clock_offsets``."""
        from analysis.clock_offsets import find_clock_offsets  # which is built on Run

        return find_clock_offsets(self)


def load(run_dir: Path | str, *, source: SourceName = "spools", connection: Path | str | None = None) -> Run:
    """Load a run directory, its points from its spools or from an InfluxDB server.

    ``connection`` is the server's connection file (default: that of this project's own server). NotARun if the path is
    no run directory; SourceError if the server can't be asked; everything else that is wrong is in ``problems``.
    """
    run_dir = Path(run_dir)
    cells_dir = run_dir / "cells"
    if not cells_dir.is_dir():
        raise NotARun(f"{run_dir} is no run directory: it has no folder cells")
    problems: list[Problem] = []
    environment = read_document(run_dir / "environment.json", Environment, problems, run_dir)
    tables = PointTables()
    cells: dict[str, Cell] = {}
    sessions: list[SpoolSession] = []
    with open_source(source, run_dir, None if connection is None else Path(connection)) as points:
        for directory in sorted(path for path in cells_dir.iterdir() if path.is_dir()):
            cell = _load_cell(directory, problems, run_dir)
            if cell is not None:
                cells[cell.id] = cell
                sessions += points.read_cell(cell.spec, directory, tables, cell.problems)
    if source == "influxdb" and tables.empty and cells:
        raise SourceError(
            f"InfluxDB holds no point of this run; `./testbed influx backfill {run_dir.name}` writes them"
        )
    return Run(
        path=run_dir,
        name=run_dir.resolve().name,
        environment=environment,
        cells=cells,
        transactions=tables.take_frame("transaction"),
        blocks=tables.take_frame("block"),
        votes=tables.take_frame("vote"),
        messages=tables.take_frame("messages"),
        peers=tables.take_frame("peer"),
        boards=tables.take_frame("board"),
        processes=tables.take_frame("process"),
        spools=tables.take_frame("spool"),
        rounds=_rounds_frame(cells),
        sessions=sessions,
        problems=problems,
        source=points.name,
    )


def _load_cell(directory: Path, run_problems: list[Problem], root: Path) -> Cell | None:
    """Read a cell's documents; None, and a problem of the run, if it does not say what it is."""
    spec = read_document(directory / "cell.json", CellSpec, run_problems, root)
    if spec is None:
        return None
    if spec.id != directory.name:
        run_problems.append(Problem(f"cells/{directory.name}/cell.json", f"is of cell {spec.id!r}"))
        return None
    problems: list[Problem] = []
    digests = {
        validator: read_document(directory / "nodes" / validator / "digest.json", LedgerDigest, problems, root)
        for validator in spec.validators
    }
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
    rows = [(cell.id, record) for cell in cells.values() for record in cell.rounds]
    records = [record for _, record in rows]
    # Column by column: in rows a missing moment would make floats of all, which do not hold a time in ns.
    columns: dict[str, tuple[str, Sequence[object]]] = {
        "cell": ("category", [cell for cell, _ in rows]),
        "round": ("int64", [record.round for record in records]),
        "warmup": ("bool", [record.warmup for record in records]),
        "transactions": ("int64", [len(record.transaction_ids) for record in records]),
        "bytes": ("int64", [record.bytes for record in records]),
        "submitted_ns": ("Int64", [record.submitted_ns for record in records]),
        "block": ("str", [record.block for record in records]),
        "status": ("str", [record.status for record in records]),
    }
    return pd.DataFrame({name: pd.Series(list(values), dtype=dtype) for name, (dtype, values) in columns.items()})
