"""Analyses a whole run: figures, tables and the verdict."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from microchain.telemetry.recorder import CLIENT
from rich.console import Console, RenderableType
from rich.text import Text

from analysis.causes import Cause
from analysis.checks import check_cell
from analysis.documents import RateWorkload
from analysis.hardware import describe_hardware, is_chapter_hardware
from analysis.measured import MeasuredCell
from analysis.rates import measure_rate
from analysis.rendering import sources_to_rich, to_rich
from analysis.rounds import measure_rounds
from analysis.run import Run
from analysis.summary import summarise
from analysis.tables_data import DataTable, build_tables
from analysis.timeline import build_timeline
from analysis.traffic import count_traffic
from analysis.verdict import Level, Verdict, against

__all__ = ["PLAIN_WIDTH", "Report", "analyse", "write_report"]

PLAIN_WIDTH = 112
_STYLES = {Level.VALID: "bold green", Level.SUSPECT: "bold yellow", Level.INVALID: "bold red"}


@dataclass(frozen=True)
class Report:
    """What the analysis of one run found."""

    cells: tuple[MeasuredCell, ...]
    verdict: Verdict
    hardware: str
    chapter_boards: bool
    tables: tuple[DataTable, ...] = ()

    def renderables(self) -> list[RenderableType]:
        """Return tables and verdict for a rich console."""
        parts: list[RenderableType] = [to_rich(table) for table in self.tables]
        sources = sources_to_rich(self.tables)
        if sources is not None:
            parts.append(sources)
        head, *reasons = self.verdict.lines()
        return [*parts, Text(head, style=_STYLES[self.verdict.level]), *(Text(line) for line in reasons)]


def analyse(run: Run) -> Report:
    """Measure and judge every cell of a loaded run."""
    hosts: dict[str, str] = {}
    measured, reasons = [], [against("", Cause.FILE_DAMAGED, str(problem)) for problem in run.problems]
    for cell in run.cells.values():
        if cell.outcome is not None and cell.outcome.refused:
            reasons.append(against(cell.id, Cause.CELL_REFUSED, f"the cell was not run: {cell.outcome.message}"))
            continue
        timeline = build_timeline(run, cell)
        hosts |= timeline.hosts
        workload = cell.spec.workload
        rate = measure_rate(timeline, workload) if isinstance(workload, RateWorkload) else None
        rounds = None if rate is not None else measure_rounds(timeline)
        finished = sum(record.status == "ok" for record in cell.rounds)
        measured.append(MeasuredCell(cell.spec, rounds, rate, count_traffic(run, cell), finished))
        reasons += check_cell(run, cell, timeline, rounds, rate)
    if not run.cells:
        reasons.append(against("", Cause.NOTHING_MEASURED, "the run has no readable cell: nothing was measured"))
    client_host = hosts.pop(CLIENT, "")
    machines = set(hosts.values())
    report = Report(
        tuple(measured),
        Verdict(run.name, tuple(run.cells), tuple(dict.fromkeys(reasons))),
        describe_hardware(run.environment, machines, client_host),
        is_chapter_hardware(run.environment, machines, client_host),
    )
    return replace(report, tables=tuple(build_tables(run, report)))


def write_report(report: Report, directory: Path) -> None:
    """Write ``verdict.json``, ``figures.json`` and ``tables.txt`` into the run directory."""
    verdict = msgspec.json.format(msgspec.json.encode(report.verdict.to_json()), indent=2) + b"\n"
    (directory / "verdict.json").write_bytes(verdict)
    figures = msgspec.json.format(msgspec.json.encode(summarise(report.cells)), indent=2) + b"\n"
    (directory / "figures.json").write_bytes(figures)
    plain = Console(file=io.StringIO(), width=PLAIN_WIDTH, color_system=None)
    with plain.capture() as text:
        plain.print(*report.renderables(), sep="\n")
    lines = (line.rstrip() for line in text.get().splitlines())
    (directory / "tables.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
