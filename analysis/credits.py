"""E(D): the mean credit of a cell's committee, from its genesis document."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from analysis.run import Run

__all__ = ["read_mean_credits"]


class _Member(Struct):
    role: str
    credit: float = 100.0
    """What genesis takes for a member that names none."""


class _Genesis(Struct):
    registry: list[_Member]


def read_mean_credits(run: Run) -> dict[int, float]:
    """Return the mean credit by committee size; a size whose cells differ, or can't be read, is left out."""
    found: dict[int, set[float]] = {}
    for cell in run.cells.values():
        credit = _mean_credit(run.path / "cells" / cell.id / "genesis.json")
        found.setdefault(len(cell.spec.validators), set()).add(credit)
    return {size: credits.pop() for size, credits in found.items() if len(credits) == 1 and min(credits) > 0}


def _mean_credit(path: Path) -> float:
    """Zero if the document is missing or broken: its cell says so elsewhere, where it matters."""
    try:
        genesis = msgspec.json.decode(path.read_bytes(), type=_Genesis)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0.0
    credits = [member.credit for member in genesis.registry if member.role == "validator"]
    return sum(credits) / len(credits) if credits else 0.0
