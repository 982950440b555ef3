"""Writes a run's figures and tables as files for papers and programs: ``report/figures`` and ``report/tables``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from analysis.data_table import DataTable
from analysis.plots import PlottedFigure
from analysis.rendering import to_csv, to_latex

__all__ = ["write_report_files"]


def write_report_files(run_dir: Path, tables: Sequence[DataTable], figures: Sequence[PlottedFigure]) -> None:
    """Write PNG and SVG of each figure, CSV and LaTeX of each table; what an earlier analysis left there goes.

    OSError if that fails. A link in the place of ``report`` is taken away, not followed.
    """
    folder, new = run_dir / "report", run_dir / ".report.new"
    _remove(new)
    (new / "figures").mkdir(parents=True)
    (new / "tables").mkdir()
    for figure in figures:
        if figure.svg:
            (new / "figures" / f"{figure.name}.svg").write_text(figure.svg, "utf-8")
        if figure.png:
            (new / "figures" / f"{figure.name}.png").write_bytes(figure.png)
    for table in tables:
        (new / "tables" / f"{table.name}.csv").write_text(to_csv(table), "utf-8", newline="")
        (new / "tables" / f"{table.name}.tex").write_text(to_latex(table), "utf-8")
    _remove(folder)
    new.rename(folder)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
