"""What was measured in the cells of a run, and the repeats of one shape pooled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from analysis.documents import CellSpec
from analysis.figures import Figure, summarize
from analysis.rates import RateFigures
from analysis.rounds import PHASES, RoundFigures

__all__ = ["MIB", "MeasuredCell", "Pool", "describe_size", "pool_cells"]

MIB = 1 << 20


@dataclass(frozen=True)
class MeasuredCell:
    """A cell with what was measured in it: rounds or a rate, and the traffic of all validators."""

    spec: CellSpec
    rounds: RoundFigures | None
    rate: RateFigures | None
    traffic: pd.DataFrame
    chain_rounds: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(validators, block bytes, transaction bytes): repeats of one shape are pooled."""
        return len(self.spec.validators), self.spec.parameters.max_block_bytes, self.spec.workload.transaction_bytes


@dataclass(frozen=True)
class Pool:
    """The rounds of all repeats of one shape; ``frame`` as in RoundFigures, ``reasons`` why figures are missing."""

    validators: int
    block_bytes: int
    transaction_bytes: int
    frame: pd.DataFrame
    reasons: dict[str, tuple[str, ...]]

    def figure(self, phase: str) -> Figure:
        """Median and 90th percentile of one of PHASES, or why there is none."""
        return summarize(self.frame[phase], self.frame[f"{phase}_bound"], self.reasons[phase])


def pool_cells(cells: Iterable[MeasuredCell]) -> list[Pool]:
    """Pool the raw rounds of repeats; in order of block, transaction and committee size."""
    by_shape: dict[tuple[int, int, int], list[RoundFigures]] = {}
    for cell in cells:
        if cell.rounds is not None:
            by_shape.setdefault(cell.shape, []).append(cell.rounds)
    pools = []
    for shape in sorted(by_shape, key=lambda s: (s[1], s[2], s[0])):
        parts = by_shape[shape]
        reasons = {phase: tuple(dict.fromkeys(r for part in parts for r in part.reasons[phase])) for phase in PHASES}
        frame = pd.concat([part.frame for part in parts], ignore_index=True)
        pools.append(Pool(*shape, frame, reasons))
    return pools


def describe_size(count: int) -> str:
    """Return a number of bytes as configured: 131072 → 128 KB."""
    for unit, name in ((MIB, "MB"), (1024, "KB")):
        if count and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B"
