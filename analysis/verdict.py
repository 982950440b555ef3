"""VALID, SUSPECT or INVALID, with every reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from analysis.causes import Cause, Level

__all__ = ["Level", "Reason", "Verdict", "against"]


@dataclass(frozen=True)
class Reason:
    """One reason against a cell, or against the whole run (``cell`` empty). ``text`` is what was found."""

    level: Level
    text: str
    cell: str = ""
    cause: Cause | None = None

    def to_json(self) -> dict[str, str]:
        """Return the reason as it stands in ``verdict.json``."""
        found = {"level": self.level.name, "cell": self.cell, "text": self.text}
        if self.cause is not None:
            found |= {"code": self.cause.code, "meaning": self.cause.meaning, "advice": self.cause.advice}
        return found


def against(cell: str, cause: Cause, text: str) -> Reason:
    """Return a reason of this cause against a cell (empty: the whole run)."""
    return Reason(cause.level, text, cell, cause)


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
            "reasons": [reason.to_json() for reason in self._ordered()],
        }

    def lines(self) -> list[str]:
        """Return the verdict as plain text, the worst reasons first; below those of one cause what it means."""
        lines = [f"{self.level.name}: {self.run}"]
        for cause, reasons in groupby(self._ordered(), key=lambda reason: reason.cause):
            lines += [f"  {r.level.name}  {f'{r.cell}: ' if r.cell else ''}{r.text}" for r in reasons]
            lines += [f"    → {cause.meaning} {cause.advice}"] if cause is not None else []
        return lines

    def _ordered(self) -> list[Reason]:
        """The worst first, those of one cause together, causes in the order in which they were found."""
        causes = list(dict.fromkeys(reason.cause for reason in self.reasons))
        return sorted(self.reasons, key=lambda reason: (-reason.level, causes.index(reason.cause)))


def _worst(reasons: Iterable[Reason]) -> Level:
    return max((reason.level for reason in reasons), default=Level.VALID)
