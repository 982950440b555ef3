"""VALID, SUSPECT or INVALID, with every reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

__all__ = ["Level", "Reason", "Verdict"]


class Level(IntEnum):
    """How far a run can be trusted; the worst reason decides."""

    VALID = 0
    SUSPECT = 1
    INVALID = 2


@dataclass(frozen=True)
class Reason:
    """One reason against a cell, or against the whole run (``cell`` empty)."""

    level: Level
    text: str
    cell: str = ""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a run; ``cells`` are all its cells, with or without reasons against them."""

    run: str
    cells: tuple[str, ...]
    reasons: tuple[Reason, ...]

    @property
    def level(self) -> Level:
        """The worst of all reasons; VALID if there is none."""
        return _worst(self.reasons)

    def level_of(self, cell: str) -> Level:
        """The worst of the reasons against one cell or against the whole run."""
        return _worst(reason for reason in self.reasons if reason.cell in ("", cell))

    def to_json(self) -> dict[str, Any]:
        """Return ``verdict.json``."""
        return {
            "run": self.run,
            "verdict": self.level.name,
            "cells": {cell: self.level_of(cell).name for cell in self.cells},
            "reasons": [{"level": r.level.name, "cell": r.cell, "text": r.text} for r in self._ordered()],
        }

    def lines(self) -> list[str]:
        """Return the verdict as plain text, the worst reasons first."""
        head = f"{self.level.name}: {self.run}"
        return [head, *(f"  {r.level.name}  {f'{r.cell}: ' if r.cell else ''}{r.text}" for r in self._ordered())]

    def _ordered(self) -> list[Reason]:
        return sorted(self.reasons, key=lambda reason: -reason.level)


def _worst(reasons: Iterable[Reason]) -> Level:
    return max((reason.level for reason in reasons), default=Level.VALID)
