"""Compares the points of a spool with those that a server holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from control.influx.columns import Column, ColumnKey, Series, Spool, Times

__all__ = ["Comparison", "compare"]

_NONE: Times = np.empty(0, dtype=np.int64)


@dataclass
class Comparison:
    """What differs, as times of points by series; all empty if both hold the same. Times are sorted."""

    lacking: dict[Series, Times] = field(default_factory=dict)
    """Points of the spool of which the server lacks something."""
    changed: dict[Series, Times] = field(default_factory=dict)
    """Points of which the server has another value."""
    extra: dict[Series, Times] = field(default_factory=dict)
    """Points of the server, or fields of them, that the spool does not have."""

    def wanted(self) -> dict[Series, Times]:
        """Points to be written to the server (again)."""
        both = self.lacking.keys() | self.changed.keys()
        return {each: np.union1d(self.lacking.get(each, _NONE), self.changed.get(each, _NONE)) for each in both}

    def __bool__(self) -> bool:
        return bool(self.lacking or self.changed or self.extra)


def compare(spool: Spool, server: Iterable[tuple[ColumnKey, Column]]) -> Comparison:
    """Compare a spool with the server's columns, which are taken one at a time."""
    found = Comparison()
    missing = dict(spool.columns)
    for key, column in server:
        there, there_bits, _ = column.settle()
        here, here_bits, _ = missing.pop(key, Column()).settle()
        common, here_at, there_at = np.intersect1d(here, there, assume_unique=True, return_indices=True)
        _add(found.changed, key.series, common[here_bits[here_at] != there_bits[there_at]])
        _add(found.lacking, key.series, np.setdiff1d(here, there, assume_unique=True))
        _add(found.extra, key.series, np.setdiff1d(there, here, assume_unique=True))
    for key, column in missing.items():
        _add(found.lacking, key.series, column.settle()[0])
    return found


def _add(found: dict[Series, Times], series: Series, times: Times) -> None:
    if times.size:
        found[series] = np.union1d(found.get(series, _NONE), times)
