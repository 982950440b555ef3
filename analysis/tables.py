"""The chapter's two tables in text: ours beside the prototype's and the chapter's; and what the phases cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.documents import CellSpec
from analysis.figures import MISSING, Figure, milliseconds, summarize
from analysis.rates import RateFigures
from analysis.reference import (
    CHAPTER,
    LATENCY_BLOCK_BYTES,
    LATENCY_REFERENCES,
    PROTOTYPE,
    THROUGHPUT_REFERENCES,
    THROUGHPUT_VALIDATORS,
)
from analysis.rounds import PHASES, RoundFigures
from analysis.traffic import COUNTERS

__all__ = ["MeasuredCell", "latency_tables", "rate_table", "sources", "throughput_table", "traffic_table"]

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


@dataclass
class _Notes:
    """Numbers the reasons of missing figures; they are printed under the table."""

    texts: list[str] = field(default_factory=list)

    def show(self, figure: Figure) -> str:
        if not figure.reason:
            return figure.text
        if figure.reason not in self.texts:
            self.texts.append(figure.reason)
        return f"{figure.text} ({self.texts.index(figure.reason) + 1})"

    def lines(self) -> list[str]:
        return [f"({number}) {text}" for number, text in enumerate(self.texts, 1)]


@dataclass(frozen=True)
class _Pool:
    """The rounds of all repeats of one shape."""

    shape: tuple[int, int, int]
    frame: pd.DataFrame
    reasons: dict[str, tuple[str, ...]]
    on_chapter_boards: bool

    def figure(self, phase: str) -> Figure:
        return summarize(self.frame[phase], self.frame[f"{phase}_bound"], self.reasons[phase])


def latency_tables(
    cells: Sequence[MeasuredCell], hardware: str, *, chapter_boards: bool = False
) -> list[RenderableType]:
    """Latency by committee size: one table for each size of block and transaction."""
    pools = _pool(cells, chapter_boards)
    shapes = sorted({pool.shape[1:] for pool in pools})
    return [_latency_table([p for p in pools if p.shape[1:] == shape], hardware) for shape in shapes]


def _latency_table(pools: Sequence[_Pool], hardware: str) -> RenderableType:
    _, block, transaction = pools[0].shape
    table = _table(f"Latency by committee size: {_size(block)} blocks of {_size(transaction)} transactions, ms")
    for column in ("K", "measured by"):
        table.add_column(column)
    for phase in PHASES:
        table.add_column(phase, justify="right")
    notes = _Notes()
    for pool in pools:
        count = pool.shape[0]
        label = f"this run, {len(pool.frame)} rounds, median \\[p90]"
        table.add_row(str(count), label, *(_escape(notes.show(pool.figure(phase))) for phase in PHASES))
        for reference in LATENCY_REFERENCES if block == LATENCY_BLOCK_BYTES else ():
            if reference.validators == count:
                figures = (reference.T_ct, reference.T_bp, reference.T_cf)
                table.add_row("", reference.source, *(f"{value:.0f}" for value in figures), MISSING, MISSING)
        if pool.on_chapter_boards and block == LATENCY_BLOCK_BYTES:
            _add_latency_ratio(table, pool)
        table.add_section()
    explanation = "T_bc = T_ct + T_bp + T_cf. Finality: first submission until final on all validators."
    return _with_notes(table, hardware, notes.lines(), explanation)


def _add_latency_ratio(table: Table, pool: _Pool) -> None:
    """How many times faster than the chapter; only ever called for its own boards."""
    for reference in LATENCY_REFERENCES:
        if reference.validators == pool.shape[0] and reference.source.startswith("chapter"):
            ratios = [
                MISSING if pool.figure(phase).reason else f"{published / float(pool.frame[phase].median()):.1f} x"
                for phase, published in (("T_ct", reference.T_ct), ("T_bp", reference.T_bp), ("T_cf", reference.T_cf))
            ]
            table.add_row("", "chapter / this run, same boards", *ratios, MISSING, MISSING)


def throughput_table(cells: Sequence[MeasuredCell], hardware: str, *, chapter_boards: bool = False) -> RenderableType:
    """Throughput by block size: MB/h and transactions a second while rounds run one after the other, and T_bc."""
    table = _table("Throughput by block size")
    for column in ("K", "block", "tx", "measured by"):
        table.add_column(column)
    for column in ("MB/h", "tx/s", "T_bc, ms"):
        table.add_column(column, justify="right")
    notes = _Notes()
    for pool in _pool(cells, chapter_boards):
        count, block, transaction = pool.shape
        figure = pool.figure("T_bc")
        megabytes, rate = _throughput(pool, figure)
        label = f"this run, {len(pool.frame)} rounds, median \\[p90]"
        table.add_row(
            str(count),
            _size(block),
            _size(transaction),
            label,
            *(_escape(notes.show(f)) for f in (megabytes, rate, figure)),
        )
        for reference in THROUGHPUT_REFERENCES if count == THROUGHPUT_VALIDATORS else ():
            if reference.block_bytes == block:
                duration = MISSING if reference.T_bc_ms is None else f"{reference.T_bc_ms:.0f}"
                table.add_row("", "", "", reference.source, f"{reference.mb_per_hour:.0f}", MISSING, duration)
        table.add_section()
    explanation = (
        "MB/h = size / T_bc * 3600 at the median T_bc; size: the round's transactions, MB = 2^20 bytes. The "
        "chapter prints this formula upside down (T_bc / size * 3600); its figures follow it as given here."
    )
    return _with_notes(table, hardware, notes.lines(), explanation)


def _throughput(pool: _Pool, duration: Figure) -> tuple[Figure, Figure]:
    """MB/h and tx/s at the median T_bc; none where T_bc is none."""
    if duration.reason:
        return duration, duration
    seconds = float(pool.frame["T_bc"].median()) / 1e3
    megabytes = float(pool.frame["bytes"].median()) / MIB
    return (
        Figure(f"{megabytes / seconds * 3600:.0f}"),
        Figure(f"{float(pool.frame['transactions'].median()) / seconds:.0f}"),
    )


def rate_table(cells: Sequence[MeasuredCell], hardware: str) -> RenderableType:
    """Open-loop cells: latency from the scheduled moment until final on all validators."""
    table = _table("Offered rate: scheduled moment until final on all validators, ms")
    for column in ("cell", "K", "offered tx/s", "finalized tx/s", "p50", "p90", "p99", "not final"):
        table.add_column(column, justify="left" if column == "cell" else "right")
    notes = _Notes()
    for cell in cells:
        if cell.rate is None:
            continue
        samples = cell.rate.latency.dropna()
        summary = summarize(cell.rate.latency, cell.rate.bound, ("no traced transaction is final on all validators",))
        bound = float(cell.rate.bound.max()) if len(samples) else 0.0
        error = f" ± {milliseconds(bound)}" if bound > 0 else ""
        quantiles = (
            [notes.show(summary)] * 3
            if summary.reason
            else [milliseconds(float(samples.quantile(q))) + error for q in (0.5, 0.9, 0.99)]
        )
        rates = [
            f"{rate:.1f}"
            if rate > 0
            else notes.show(Figure(MISSING, "no traced transaction became final in the measured time"))
            for rate in (cell.rate.offered, cell.rate.finalized)
        ]
        unfinished = int(cell.rate.latency.isna().sum())
        table.add_row(cell.spec.id, str(cell.shape[0]), *rates, *quantiles, str(unfinished) if unfinished else "none")
    return _with_notes(table, hardware, notes.lines(), "Warm-up left out; percentiles from raw samples.")


def traffic_table(cells: Sequence[MeasuredCell]) -> RenderableType:
    """Messages and bytes that all validators together sent, for each round and phase."""
    table = _table("Messages and bytes sent for each round")
    for column in ("cell", "K", "phase"):
        table.add_column(column)
    for column in ("messages", "KB", "messages / K", "messages / K²"):
        table.add_column(column, justify="right")
    notes = _Notes()
    for cell in cells:
        if cell.rounds is None:
            continue
        count, rounds = cell.shape[0], cell.chain_rounds
        if cell.traffic.empty or not rounds:
            reason = "no message counters" if rounds else "no round was finished"
            table.add_row(cell.spec.id, str(count), notes.show(Figure(MISSING, reason)))
            continue
        first = True
        for phase, counters in cell.traffic.iterrows():
            messages = float(counters[COUNTERS[0]]) / rounds
            kilobytes = float(counters[COUNTERS[1]]) / rounds / 1024
            figures = (messages, kilobytes, messages / count, messages / count**2)
            label = (cell.spec.id, str(count)) if first else ("", "")
            table.add_row(*label, str(phase), *(f"{figure:.1f}" if figure >= 0.05 else MISSING for figure in figures))
            first = False
        table.add_section()
    return _with_notes(
        table,
        "",
        notes.lines(),
        f"All validators together, warm-up included. {MISSING}: none, or fewer than one in twenty rounds.",
    )


def sources() -> RenderableType:
    """Where the figures beside ours come from."""
    return Group(Text(f"Prototype: {PROTOTYPE}", style="dim"), Text(f"Chapter: {CHAPTER}", style="dim"), Text())


def _pool(cells: Iterable[MeasuredCell], chapter_boards: bool) -> list[_Pool]:
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
        pools.append(_Pool(shape, frame, reasons, chapter_boards))
    return pools


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)


def _with_notes(table: Table, hardware: str, notes: Sequence[str], explanation: str) -> RenderableType:
    lines = [*notes, *([f"Measured on: {hardware}"] if hardware else []), explanation]
    return Group(table, *(Text(line, style="dim") for line in lines), Text())


def _escape(text: str) -> str:
    """Keep rich from reading ``[12.3]`` as markup."""
    return text.replace("[", r"\[")


def _size(count: int) -> str:
    for unit, name in ((MIB, "MB"), (1024, "KB")):
        if count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B"
