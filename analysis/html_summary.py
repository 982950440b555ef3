"""The run in words, and its main figures with their uncertainty: what stands first in the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.documents import RateWorkload, RoundsWorkload
from analysis.figures import MISSING, milliseconds, summarize
from analysis.measured import MIB, MeasuredCell, Pool, describe_size, engine_label, group_pools, pool_cells
from analysis.rounds import PHASES
from analysis.statistics import estimate_quantile, median_interval

__all__ = ["FigureGroup", "KeyFigure", "Summary", "summarise_in_words"]

_SHOWN_GROUPS = 4
_EXPLANATION = (
    "Medians of raw samples. p90: nine of ten samples are at most this. The interval holds the true median with 95 % "
    "confidence, whatever the samples' distribution; ± is the error of the clocks where several hosts took part."
)
_LABELS = {
    "T_ct": "T_ct · transactions on all",
    "T_bp": "T_bp · block verified on all",
    "T_cf": "T_cf · block justified on all",
    "T_bc": "T_bc · the three together",
    "finality": "Submission to finality",
}


@dataclass(frozen=True)
class KeyFigure:
    """One figure; ``spread`` is all that is known of its uncertainty, or why there is no figure."""

    label: str
    value: str
    unit: str
    spread: str


@dataclass(frozen=True)
class FigureGroup:
    """The main figures of one shape of cell."""

    shape: str
    figures: tuple[KeyFigure, ...]


@dataclass(frozen=True)
class Summary:
    """Paragraphs, then figures, then what is to be known of them."""

    words: tuple[str, ...]
    groups: tuple[FigureGroup, ...]
    notes: tuple[str, ...]


def summarise_in_words(cells: Sequence[MeasuredCell], hardware: str) -> Summary:
    """Say what was measured, on what, and the figures that matter most."""
    if not cells:
        return Summary(("Nothing was measured: the run has no readable cell.",), (), ())
    pools = pool_cells(cells)
    rates = [cell for cell in cells if cell.rate is not None]
    words = [*_what(cells), f"Measured on {hardware}."]
    words += [_main_figure(pools)] if pools else []
    words += [_main_rate(rates)] if rates else []
    groups = [_round_group(pool) for pool in _chosen(pools)]
    groups += [_rate_group(cell) for cell in rates[:_SHOWN_GROUPS]]
    notes = [_EXPLANATION]
    hidden = len(pools) + len(rates) - len(groups)
    if hidden > 0:
        notes.append(f"Shown are the smallest and largest committees; the tables have all {len(pools) + len(rates)}.")
    return Summary(tuple(words), tuple(groups), tuple(notes))


def _what(cells: Sequence[MeasuredCell]) -> list[str]:
    sentences = []
    rounds = [cell for cell in cells if isinstance(cell.spec.workload, RoundsWorkload)]
    if rounds:
        planned = [cell.spec.workload for cell in rounds if isinstance(cell.spec.workload, RoundsWorkload)]
        counts = sorted({workload.rounds for workload in planned})
        warmups = sorted({workload.warmup for workload in planned})
        text = f"{_committees(rounds)} agree on one block after the other: {_sizes(rounds)}, {_numbers(counts)} rounds"
        text += f" in each of {len(rounds)} cells" if len(rounds) > 1 else ""
        sentences.append(f"{text} after {_numbers(warmups)} to warm up.")
    offered = [cell for cell in cells if isinstance(cell.spec.workload, RateWorkload)]
    if offered:
        workloads = [cell.spec.workload for cell in offered if isinstance(cell.spec.workload, RateWorkload)]
        speeds = _numbers(sorted({w.rate for w in workloads}))
        seconds = _numbers(sorted({w.duration_s for w in workloads}))
        sentences.append(
            f"{_committees(offered)} are given an even load of {speeds} transactions a second for {seconds} s, "
            f"however slow they are: {_sizes(offered)}."
        )
    return sentences


def _committees(cells: Sequence[MeasuredCell]) -> str:
    sizes = sorted({cell.shape[0] for cell in cells})
    return f"Committees of {_numbers(sizes)} validators" if len(sizes) > 1 else f"{sizes[0]} validators"


def _sizes(cells: Sequence[MeasuredCell]) -> str:
    blocks = _join([describe_size(size) for size in sorted({cell.shape[1] for cell in cells})])
    transactions = _join([describe_size(size) for size in sorted({cell.shape[2] for cell in cells})])
    return f"blocks of up to {blocks}, transactions of {transactions}"


def _main_figure(pools: Sequence[Pool]) -> str:
    """The time of a block with the smallest and the largest committee of the first shape."""
    alike = [pool for pool in pools if (pool.block_bytes, pool.transaction_bytes) == _first_shape(pools)]
    ends = [end for group in group_pools(alike) for end in (group[:1] if len(group) == 1 else [group[0], group[-1]])]
    missing = [pool.figure("T_bc").reason for pool in ends]
    if all(missing):
        return f"There is no figure of a whole block: {missing[0]}."
    parts = [f"{_in_text(pool)} with {pool.validators} validators{engine_label(pool.engine)}" for pool in ends]
    block, transaction = (describe_size(size) for size in _first_shape(pools))
    return (
        f"A block of {block} ({transaction} transactions) took {' and '.join(parts)} in its three phases together, "
        "T_bc: its transactions accepted, the block verified, and the block justified, each time on all validators."
    )


def _first_shape(pools: Sequence[Pool]) -> tuple[int, int]:
    return pools[0].block_bytes, pools[0].transaction_bytes


def _in_text(pool: Pool) -> str:
    figure = pool.figure("T_bc")
    if figure.reason:
        return f"an unknown time ({figure.reason})"
    samples = pool.frame["T_bc"].dropna()
    ends = median_interval(samples)
    text = f"{milliseconds(float(samples.median()))} ms"
    return f"{text} (median; 95 % interval {_range(ends)})" if ends else f"{text} (median of {len(samples)} rounds)"


def _main_rate(cells: Sequence[MeasuredCell]) -> str:
    cell = cells[0]
    assert cell.rate is not None
    figure = summarize(cell.rate.latency, cell.rate.bound, ("no traced transaction is final on all validators",))
    if figure.reason:
        return f"In cell {cell.spec.id} there is no latency: {figure.reason}."
    samples = cell.rate.latency.dropna()
    tail = _tail(cell.rate.latency)
    return (
        f"At {cell.rate.offered:g} offered transactions a second, {cell.rate.finalized:.1f} a second became final; "
        f"half of those final within {milliseconds(float(samples.median()))} ms of the moment they were due"
        + (f", 99 of 100 within {tail.value} ms." if tail.unit else ".")
    )


def _chosen(pools: Sequence[Pool]) -> list[Pool]:
    """All of few shapes; of many the smallest and largest committee of the first and the last."""
    if len(pools) <= _SHOWN_GROUPS:
        return list(pools)
    found: list[Pool] = []
    for shape in (_first_shape(pools), (pools[-1].block_bytes, pools[-1].transaction_bytes)):
        alike = [pool for pool in pools if (pool.block_bytes, pool.transaction_bytes) == shape]
        found += [pool for pool in (alike[0], alike[-1]) if all(pool is not other for other in found)]
    return found


def _round_group(pool: Pool) -> FigureGroup:
    figures = [_duration(_LABELS[phase], pool, phase) for phase in PHASES]
    block, transaction = describe_size(pool.block_bytes), describe_size(pool.transaction_bytes)
    shape = (
        f"{pool.validators} validators{engine_label(pool.engine)} · blocks of {block} · "
        f"transactions of {transaction} · {len(pool.frame)} rounds"
    )
    reasons = {figure.spread for figure in figures if figure.value == MISSING}
    if len(reasons) == 1 and all(figure.value == MISSING for figure in figures):
        return FigureGroup(shape, (KeyFigure("All figures", MISSING, "", reasons.pop()),))
    return FigureGroup(shape, (*figures, _throughput(pool)))


def _duration(label: str, pool: Pool, phase: str) -> KeyFigure:
    figure = pool.figure(phase)
    if figure.reason:
        return KeyFigure(label, MISSING, "", figure.reason)
    return _key_figure(label, pool.frame[phase], pool.frame[f"{phase}_bound"])


def _key_figure(label: str, values: pd.Series, bounds: pd.Series) -> KeyFigure:
    samples = values.dropna()
    bound = float(bounds.loc[samples.index].max())
    parts = [f"p90 {milliseconds(float(samples.quantile(0.9)))}"]
    ends = median_interval(samples)
    parts += [f"95 % interval {_range(ends)}"] if ends else []
    parts += [f"clocks ± {milliseconds(bound)}"] if bound > 0 else []
    return KeyFigure(label, milliseconds(float(samples.median())), "ms", " · ".join(parts))


def _throughput(pool: Pool) -> KeyFigure:
    """Transactions a second at the median T_bc."""
    label = "Throughput, round after round"
    figure = pool.figure("T_bc")
    if figure.reason:
        return KeyFigure(label, MISSING, "", figure.reason)
    samples = pool.frame["T_bc"].dropna()
    count, size = float(pool.frame["transactions"].median()), float(pool.frame["bytes"].median()) / MIB

    def per_second(milliseconds: float) -> str:
        return f"{count / milliseconds * 1e3:.0f}" if milliseconds > 0 else MISSING

    median = float(samples.median())
    spread = f"{size / median * 3.6e6:.0f} MB/h"
    ends = median_interval(samples)
    spread += f" · 95 % interval {per_second(ends[1])} to {per_second(ends[0])}" if ends else ""
    return KeyFigure(label, per_second(median), "tx/s", spread)


def _rate_group(cell: MeasuredCell) -> FigureGroup:
    rate = cell.rate
    assert rate is not None
    block, transaction = describe_size(cell.shape[1]), describe_size(cell.shape[2])
    shape = f"{cell.shape[0]} validators · {rate.offered:g} tx/s offered · blocks of {block}"
    shape += f" · transactions of {transaction}"
    figure = summarize(rate.latency, rate.bound, ("no traced transaction is final on all validators",))
    label = "Due to finality, median"
    if figure.reason:
        return FigureGroup(shape, (KeyFigure(label, MISSING, "", figure.reason),))
    unfinished = int(rate.latency.isna().sum())
    return FigureGroup(
        shape,
        (
            _key_figure(label, rate.latency, rate.bound),
            _tail(rate.latency),
            KeyFigure(
                "Finalized in the measured time",
                f"{rate.finalized:.1f}" if rate.finalized > 0 else MISSING,
                "tx/s" if rate.finalized > 0 else "",
                f"{unfinished} traced transactions not final" if unfinished else "every traced transaction final",
            ),
        ),
    )


def _tail(latency: pd.Series) -> KeyFigure:
    """The 99th percentile, which is unknown with few samples and may have no upper bound."""
    label = "Due to finality, 99th percentile"
    estimate = estimate_quantile(latency.to_numpy(dtype=np.float64, na_value=np.nan), 0.99)
    if estimate is None:
        return KeyFigure(label, MISSING, "", f"{latency.count()} samples are too few for it")
    low, high = (
        "no bound" if end is None else milliseconds(end) for end in (estimate.interval.low, estimate.interval.high)
    )
    spread = f"95 % interval {low} to {high} · {estimate.samples} samples"
    return KeyFigure(label, milliseconds(estimate.value), "ms", spread)


def _range(ends: tuple[float, float]) -> str:
    return f"{milliseconds(ends[0])} to {milliseconds(ends[1])}"


def _numbers(values: Sequence[float]) -> str:
    return _join([f"{value:g}" for value in values])


def _join(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
