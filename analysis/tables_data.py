"""All tables of a run, in the order in which they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.credits import read_mean_credits
from analysis.data_table import Column, DataTable, Section
from analysis.run import Run
from analysis.tables.boards import board_table
from analysis.tables.growth import growth_tables, traffic_growth_tables
from analysis.tables.latency import latency_tables
from analysis.tables.quantiles import quantile_tables, rate_quantile_table
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
        tables += quantile_tables(cells, hardware)
        tables += growth_tables(cells, hardware, read_mean_credits(run))
        tables += [throughput_table(cells, hardware), traffic_table(cells), *traffic_growth_tables(cells)]
    if any(cell.rate is not None for cell in cells):
        tables += [rate_table(cells, hardware), rate_quantile_table(cells, hardware)]
    boards = board_table(run)
    return [*tables, boards] if boards is not None else tables
