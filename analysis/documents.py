"""The JSON documents of a run directory, as far as the analysis reads them; unknown keys are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from analysis.problems import Problem

__all__ = [
    "CellSpec",
    "Environment",
    "HostFacts",
    "LedgerDigest",
    "Outcome",
    "RateWorkload",
    "RoundRecord",
    "RoundsWorkload",
    "read_document",
    "read_records",
]

_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bad JSON: a text that is no UTF-8 inside a string is not a MsgspecError."""

Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class RoundsWorkload(Struct, tag="rounds", tag_field="kind", kw_only=True):
    """One block at a time: submit, release, wait for finality."""

    rounds: Natural
    warmup: Natural = 0
    transactions: Natural
    transaction_bytes: Natural


class RateWorkload(Struct, tag="rate", tag_field="kind", kw_only=True):
    """Open loop: ``rate`` transactions a second."""

    rate: float
    duration_s: float
    warmup_s: float = 0.0
    transaction_bytes: Natural


class CellParameters(Struct, kw_only=True):
    """The genesis parameters that label figures."""

    max_block_bytes: Natural
    signature: str = ""


class CellTelemetry(Struct, kw_only=True):
    """How the cell was traced."""

    sample: float = 1.0
    interval_s: float = 1.0


class CellSpec(Struct, kw_only=True):
    """``cell.json``: what was planned."""

    id: str
    run: str
    experiment: str = ""
    engine: str = "microchain"
    validators: Annotated[tuple[str, ...], Meta(min_length=1)]
    parameters: CellParameters
    telemetry: CellTelemetry = msgspec.field(default_factory=CellTelemetry)
    workload: RoundsWorkload | RateWorkload


class RoundRecord(Struct, kw_only=True):
    """One line of ``rounds.jsonl``. Ids are the first 16 hex digits; times are ns since 1970 on the client's clock."""

    round: Natural
    warmup: bool = False
    transaction_ids: tuple[Annotated[str, Meta(pattern="^[0-9a-f]{16}$")], ...]
    bytes: Natural
    submitted_ns: Natural | None = None
    block: str | None = None
    status: str


class Outcome(Struct, kw_only=True):
    """``outcome.json``: how the cell ended. ``refused``: the deployment had too few validators, so it was not begun."""

    status: str
    refused: bool = False
    drained: bool | None = None
    message: str = ""


class LedgerDigest(Struct, kw_only=True):
    """``digest.json``: what a validator's ledger holds.

    ``blocks`` are (height, id, number of clients' transactions, body digest).
    ``problems`` are the findings of the ledger's own audit; None: it was not audited.
    """

    class Head(Struct):
        """Height and id of the last finalized block."""

        height: Natural
        id: str

    chain_id: str
    finalized: Head
    blocks: tuple[tuple[Natural, str, Natural, str], ...]
    own_votes: Natural = 0
    evidence: tuple[Any, ...] = ()
    problems: tuple[str, ...] | None = None


class HostFacts(Struct, kw_only=True):
    """The machine that a figure was measured on. ``emulated``: by what, if it is not a machine of its own."""

    cpu: str = ""
    cores: int | None = None
    memory_bytes: int | None = None
    kernel: str = ""
    python: str = ""
    board: str | None = None
    governor: str = ""
    emulated: str = ""


class GitState(Struct, kw_only=True):
    """The commit of the project that ran."""

    commit: str | None = None
    dirty: bool | None = None


class Environment(Struct, kw_only=True):
    """``environment.json``. ``hosts`` are the validators' machines by name; empty if all ran on ``host``."""

    git: GitState = msgspec.field(default_factory=GitState)
    host: HostFacts = msgspec.field(default_factory=HostFacts)
    hosts: dict[str, HostFacts] = {}


Document = TypeVar("Document", bound=Struct)


def read_document(path: Path, kind: type[Document], problems: list[Problem], root: Path) -> Document | None:
    """Read one JSON document; None, and a problem, if it is missing or broken."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        problems.append(Problem(str(path.relative_to(root)), "missing"))
    except (OSError, *_MALFORMED) as error:
        problems.append(Problem(str(path.relative_to(root)), f"can't be read: {error}"))
    return None


def read_records(path: Path, kind: type[Document], problems: list[Problem], root: Path) -> list[Document]:
    """Read one JSON object a line; a broken line is a problem and is left out."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        problems.append(Problem(str(path.relative_to(root)), error.strerror or str(error)))
        return []
    records = []
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(lines, 1):
        try:
            records.append(decoder.decode(line))
        except _MALFORMED as error:
            problems.append(Problem(str(path.relative_to(root)), f"broken record: {error}", number))
    return records
