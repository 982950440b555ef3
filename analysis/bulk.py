"""Reads many lines of one series at once: one regular expression for the form in which nodes write them.

It accepts a strict part of line protocol (fields in the order of the schema, no escapes), and of that gives exactly
what ``microchain.telemetry.line_protocol`` gives; every other line is left to the parser there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from analysis.points import Batch, Column, PointTables, Series, make_column
from analysis.schema import SCHEMAS

__all__ = ["parse_bulk"]

_VALUES = {
    str: r'"([^"\\\n]++)"',
    int: r"(-?[0-9]{1,19})i",
    float: r"([+-]?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]{1,4})?)",
    bool: r"(true|false)",
}


_CONVERT: dict[type, Callable[[str], int | float | bool]] = {int: int, float: float, bool: "true".__eq__}


@cache
def _pattern(measurement: str) -> re.Pattern[str]:
    """Return the pattern of ``fields timestamp`` in the schema's order; one group for each field, then the time."""
    schema = SCHEMAS[measurement]
    required = [f"{name}={_VALUES[kind]}" for name, kind in schema.required.items()]
    optional = [f"(?:,{name}={_VALUES[kind]})?" for name, kind in schema.optional.items()]
    return re.compile(f"^{','.join(required)}{''.join(optional)} (-?[0-9]{{1,19}})$", re.MULTILINE)


def parse_bulk(series: Series, lines: Sequence[str], tables: PointTables) -> Batch | None:
    """Parse what follows the series head in each line; None if any of the lines needs the full parser."""
    rows = _pattern(series.measurement).findall("\n".join(lines))
    if len(rows) != len(lines):
        return None
    *texts, stamps = zip(*rows, strict=True)
    try:
        times = np.fromiter(map(int, stamps), np.int64, len(rows))
        kinds = SCHEMAS[series.measurement].fields.values()
        columns = [_column(kind, column, tables) for kind, column in zip(kinds, texts, strict=True)]
    except OverflowError:
        return None
    finite = all(
        column is None or column.values.dtype != float or np.isfinite(column.values).all() for column in columns
    )
    return Batch(series, times, columns) if finite else None


def _column(kind: type, texts: Sequence[str], tables: PointTables) -> Column | None:
    """Convert one field's texts; an absent field is an empty text, which no present one is."""
    if not any(texts):
        return None
    if kind is str:
        values = [text or None for text in tables.intern(texts)]
        return make_column(str, values)
    convert = _CONVERT[kind]
    if all(texts):
        return make_column(kind, list(map(convert, texts)))
    return make_column(kind, [convert(text) if text else None for text in texts])
