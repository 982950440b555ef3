"""All tables of a run, in the order in which they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.data_table import Column, DataTable, Section
from analysis.run import Run
from analysis.tables.latency import latency_tables
from analysis.tables.throughput import rate_table, throughput_table
from analysis.tables.traffic import traffic_table

if TYPE_CHECKING:
    from analysis.report import Report

__all__ = ["Column", "DataTable", "Section", "build_tables"]


def build_tables(run: Run, report: Report) -> list[DataTable]:
    """Return every table for which something was measured or planned; ``report`` is the analysis of ``run``."""
    cells, hardware = report.cells, report.hardware
    tables: list[DataTable] = []
    if any(cell.rounds is not None for cell in cells):
        tables += latency_tables(cells, hardware, chapter_boards=report.chapter_boards)
        tables += [throughput_table(cells, hardware), traffic_table(cells)]
    if any(cell.rate is not None for cell in cells):
        tables.append(rate_table(cells, hardware))
    return tables
