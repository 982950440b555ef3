"""``bench rounds``: a round of 128 KB with 4 and with 16 validators, phase by phase."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from control.bench.local_run import local_run
from control.project import shown_path

__all__ = ["bench_rounds"]

_PHASES = ("T_ct", "T_bp", "T_cf")
_TARGETS = {4: (25, 20, 15), 16: (100, 100, 120)}
"""Medians to reach, ms, on a machine with 2 cores."""
_PROTOTYPE = {4: (31, 42, 84), 16: (140, 295, 1486)}
"""The chapter's prototype on such a machine, one transaction of 1 KB, concurrent driver: medians, ms."""


def bench_rounds(console: Console, validators: list[int], rounds: int) -> None:
    """Run the rounds and print medians beside targets; CheckFailed if a run is INVALID or a round failed."""
    spec: dict[str, Any] = {
        "name": "bench-rounds",
        "validators": validators,
        "block_bytes": "128K",
        "transaction_bytes": "1K",
        "workload": {"kind": "rounds", "rounds": rounds, "warmup": 5},
    }
    with local_run(spec) as local:
        for cell in local.run.cells():
            console.print(f"{cell.id}: {rounds} rounds …")
            local.run_cell(cell)
        figures = local.analyse()
        console.print(_table(figures))
        tables = shown_path(local.run.path / "tables.txt")
        console.print("Durations in ms. Prototype: one 1 KB transaction a round, on a machine with 2 cores.")
        console.print(f"Every round was justified and final on all validators; all tables: {tables}")


def _table(figures: dict[str, Any]) -> Table:
    table = Table("validators", "phase", "median (p90)", "reach", "prototype", box=None, pad_edge=False)
    cells = sorted((int(cell_id[1 : cell_id.index("-")]), cell) for cell_id, cell in figures.items())
    for count, cell in cells:
        for index, phase in enumerate(_PHASES):
            figure = cell[phase]
            shown = f"{figure['median']:.1f} ({figure['p90']:.1f})" if figure else "not measured"
            known = [f"≤ {_TARGETS[count][index]}", str(_PROTOTYPE[count][index])] if count in _TARGETS else ["", ""]
            table.add_row(str(count), phase, shown, *known)
    return table
