"""What was measured in the cells of a run, and the repeats of one shape pooled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.documents import CellSpec
from analysis.figures import Figure, summarize
from analysis.rates import RateFigures
from analysis.rounds import PHASES, RoundFigures
from analysis.statistics import Array
from analysis.traffic import COUNTERS

__all__ = [
    "DEFAULT_ENGINE",
    "MIB",
    "MeasuredCell",
    "Pool",
    "Traffic",
    "describe_size",
    "engine_label",
    "engine_stem",
    "group_engines",
    "group_pools",
    "phase_samples",
    "pool_cells",
    "traffic_samples",
]

MIB = 1 << 20
DEFAULT_ENGINE = "microchain"


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

    @property
    def engine(self) -> str:
        """The consensus protocol."""
        return self.spec.engine


@dataclass(frozen=True)
class Pool:
    """The rounds of all repeats of one shape; ``frame`` as in RoundFigures, ``reasons`` why figures are missing."""

    validators: int
    block_bytes: int
    transaction_bytes: int
    frame: pd.DataFrame
    reasons: dict[str, tuple[str, ...]]
    engine: str = DEFAULT_ENGINE

    def figure(self, phase: str) -> Figure:
        """Median and 90th percentile of one of PHASES, or why there is none."""
        return summarize(self.frame[phase], self.frame[f"{phase}_bound"], self.reasons[phase])


def pool_cells(cells: Iterable[MeasuredCell]) -> list[Pool]:
    """Pool the raw rounds of repeats; in order of block and transaction size, engine and committee size."""
    by_shape: dict[tuple[str, tuple[int, int, int]], list[RoundFigures]] = {}
    for cell in cells:
        if cell.rounds is not None:
            by_shape.setdefault((cell.engine, cell.shape), []).append(cell.rounds)
    pools = []
    for engine, shape in sorted(by_shape, key=lambda key: (key[1][1], key[1][2], key[0], key[1][0])):
        parts = by_shape[engine, shape]
        reasons = {phase: tuple(dict.fromkeys(r for part in parts for r in part.reasons[phase])) for phase in PHASES}
        frame = pd.concat([part.frame for part in parts], ignore_index=True)
        pools.append(Pool(*shape, frame, reasons, engine))
    return pools


def group_pools(pools: Sequence[Pool]) -> list[list[Pool]]:
    """Return the pools of each size of block and transaction and engine, by ascending committee size."""
    groups: dict[tuple[int, int, str], list[Pool]] = {}
    for pool in pools:
        groups.setdefault((pool.block_bytes, pool.transaction_bytes, pool.engine), []).append(pool)
    return list(groups.values())


def group_engines(pools: Sequence[Pool]) -> list[list[Pool]]:
    """Return the pools of each size of block and transaction, engines side by side, by ascending committee size."""
    groups: dict[tuple[int, int], list[Pool]] = {}
    for pool in sorted(pools, key=lambda p: (p.block_bytes, p.transaction_bytes, p.validators, p.engine)):
        groups.setdefault((pool.block_bytes, pool.transaction_bytes), []).append(pool)
    return list(groups.values())


def engine_stem(engine: str) -> str:
    """Return what a file name says of the engine: nothing of Microchain, else ``-pbft``."""
    return "" if engine == DEFAULT_ENGINE else f"-{engine}"


def engine_label(engine: str) -> str:
    """Return what a title says of the engine: nothing of Microchain, else ``, PBFT``."""
    return "" if engine == DEFAULT_ENGINE else f", {engine.upper()}"


def phase_samples(pools: Iterable[Pool], phase: str) -> dict[int, Array]:
    """Return the rounds' durations of one phase (ms) by committee size; none where the figure is refused."""
    return {
        pool.validators: pool.frame[phase].dropna().to_numpy(dtype=np.float64)
        for pool in pools
        if not pool.figure(phase).reason
    }


Traffic = dict[tuple[str, str], dict[int, Array]]
"""What all validators together sent for each round: one sample a cell, by (phase, ``messages`` or ``KB``), by K."""


def traffic_samples(cells: Iterable[MeasuredCell]) -> dict[tuple[int, int, str], Traffic]:
    """Return the traffic of each size of block and transaction and engine, but of cells without counters or rounds."""
    found: dict[tuple[int, int, str], dict[tuple[str, str], dict[int, list[float]]]] = {}
    for cell in cells:
        if cell.rounds is None or cell.traffic.empty or not cell.chain_rounds:
            continue
        count, *shape = cell.shape
        of_shape = found.setdefault((shape[0], shape[1], cell.engine), {})
        for phase, counters in cell.traffic.iterrows():
            for unit, counter, divisor in (("messages", COUNTERS[0], 1), ("KB", COUNTERS[1], 1024)):
                by_size = of_shape.setdefault((str(phase), unit), {})
                by_size.setdefault(count, []).append(float(counters[counter]) / cell.chain_rounds / divisor)
    return {
        shape: {what: {size: np.array(v) for size, v in by_size.items()} for what, by_size in of_shape.items()}
        for shape, of_shape in found.items()
    }


def describe_size(count: int) -> str:
    """Return a number of bytes as configured: 131072 → 128 KB."""
    for unit, name in ((MIB, "MB"), (1024, "KB")):
        if count and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B"
