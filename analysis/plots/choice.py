"""Which cells get figures of their own: a report of a hundred cells shows a few."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.measured import MeasuredCell

__all__ = ["MAX_CELLS", "choose_cells", "describe_choice"]

MAX_CELLS = 4


def choose_cells(cells: Sequence[MeasuredCell]) -> list[MeasuredCell]:
    """Return the first repeat of each shape and offered rate; of more than MAX_CELLS shapes, evenly chosen ones.

    By ascending committee, block and transaction size; the smallest and the largest shape are always among them.
    """
    first: dict[tuple[int, int, int, str, float], MeasuredCell] = {}
    for cell in cells:
        rate = -1.0 if cell.rate is None else cell.rate.offered
        first.setdefault((*cell.shape, cell.engine, rate), cell)
    ordered = [first[shape] for shape in sorted(first)]
    if len(ordered) <= MAX_CELLS:
        return ordered
    return [ordered[int(i)] for i in np.linspace(0, len(ordered) - 1, MAX_CELLS).round()]


def describe_choice(cells: Sequence[MeasuredCell]) -> str:
    """Say that other cells are not drawn, if that is so; begins with a space."""
    hidden = len(cells) - len(choose_cells(cells))
    return f" Of {len(cells)} cells, {len(cells) - hidden} are drawn like this." if hidden else ""
