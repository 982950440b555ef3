"""Messages and bytes that all validators together sent, for each round and phase."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.data_table import Column, DataTable, Footnotes
from analysis.figures import MISSING, Figure
from analysis.measured import MeasuredCell
from analysis.traffic import COUNTERS

__all__ = ["traffic_table"]


def traffic_table(cells: Sequence[MeasuredCell]) -> DataTable:
    """Return messages and KB for each round, phase by phase, and messages by K and K²."""
    notes = Footnotes()
    rows: list[list[str]] = []
    groups = []
    for cell in cells:
        if cell.rounds is None:
            continue
        groups.append(len(rows))
        count, rounds = cell.shape[0], cell.chain_rounds
        label = [cell.spec.id, str(count)]
        if cell.traffic.empty or not rounds:
            reason = "no message counters" if rounds else "no round was finished"
            rows.append([*label, notes.show(Figure(MISSING, reason)), *[MISSING] * 4])
            continue
        for phase, counters in cell.traffic.iterrows():
            messages = float(counters[COUNTERS[0]]) / rounds
            kilobytes = float(counters[COUNTERS[1]]) / rounds / 1024
            figures = (messages, kilobytes, messages / count, messages / count**2)
            rows.append([*label, str(phase), *(f"{figure:.1f}" if figure >= 0.05 else MISSING for figure in figures)])
            label = ["", ""]
    return DataTable(
        name="traffic",
        title="Messages and bytes sent for each round",
        columns=[
            *(Column(label) for label in ("cell", "K", "phase")),
            *(Column(label, align="right") for label in ("messages", "KB", "messages / K", "messages / K²")),
        ],
        rows=rows,
        notes=[
            *notes.lines(),
            f"All validators together, warm-up included. {MISSING}: none, or fewer than one in twenty rounds.",
        ],
        section="traffic",
        groups=groups,
    )
