"""The watch on a screen, or in a pipe: a pure function of what is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from control.remote.lines import plain
from control.watch.view import Lag, Row

__all__ = ["render"]

_NONE = "—"
_NARROW = 100
"""Below so many columns the least important values are left out."""

_HOT_C = 80.0  # from here on every Raspberry Pi slows down
_LONGEST_REASON = 200
_NOT_RUNNING = "Connection refused"
_HEADLINES = 2  # an empty one and the table's own, below the sweep's


def render(
    rows: Sequence[Row], sweep: str, *, interval_s: float, width: int, height: int | None = None
) -> RenderableType:
    """Return the sweep's line, the validators' table, and why some of them do not answer.

    With a ``height`` (in lines) rows that have no place are counted instead of shown, silent validators' first.
    """
    reasons = _reasons(rows)
    places = len(rows)
    if height is not None:
        places = max(1, height - _HEADLINES - len(reasons) - -(-len(sweep) // width))
    shown = rows if len(rows) <= places else _choose(rows, places - 1)
    table = Table(*_columns(width), box=None, pad_edge=False)
    for row in shown:
        table.add_row(*_cells(row, interval_s, width))
    hidden = len(rows) - len(shown)
    more = [Text(f"… and {hidden} more, for which the screen is too low", style="dim")] if hidden else []
    return Group(Text(sweep, style="bold"), Text(""), table, *more, *reasons)


def _choose(rows: Sequence[Row], count: int) -> list[Row]:
    """Return so many rows in their order, those of validators that answer before others."""
    chosen = sorted(range(len(rows)), key=lambda index: (bool(rows[index].away), index))[:count]
    return [rows[index] for index in sorted(chosen)]


def _columns(width: int) -> list[Column]:
    names = ["height", "lag", "tx/s", "CPU %", "MB", "°C", "peers", "clock ±"]
    wide = ["host CPU %"] if width >= _NARROW else []
    return [Column("validator"), *(Column(name, justify="right", no_wrap=True) for name in [*names, *wide]), Column("")]


def _cells(row: Row, interval_s: float, width: int) -> list[Text]:
    name = Text(plain(row.name), no_wrap=True, overflow="ellipsis")
    if row.away:
        return [name, Text("away", style="dim" if row.away == _NOT_RUNNING else "red")]
    hot = row.temperature_c is not None and row.temperature_c >= _HOT_C
    full = row.connected == row.peers
    cells = [
        Text(_shown(row.height, "{:d}")),
        Text(_shown_lag(row.lag, interval_s)),
        Text(_shown(row.rate, "{:.1f}")),
        Text(_shown(row.cpu_percent, "{:.0f}")),
        Text(_shown(row.memory_bytes, "{:.0f}", lambda value: value / 1e6)),
        Text(_shown(row.temperature_c, "{:.0f}"), style="red" if hot else ""),
        Text(f"{row.connected}/{row.peers}", style="" if full else "yellow"),
        Text(_shown_bound(row.clock_bound_ns)),
    ]
    wide = [Text(_shown(row.board_cpu_percent, "{:.0f}"))] if width >= _NARROW else []
    notes = Text(", ".join(row.notes), style="yellow", no_wrap=True, overflow="ellipsis")
    return [name, *cells, *wide, notes]


def _shown(value: float | None, form: str, scale: Callable[[float], float] = lambda value: value) -> str:
    return _NONE if value is None else form.format(scale(value))


def _shown_lag(lag: Lag | None, interval_s: float) -> str:
    """Blocks, and for how long the first of them has been seen: polls see no less than the time between two."""
    if lag is None:
        return _NONE
    if lag.seconds is None:
        return f"{lag.blocks}"
    if not lag.blocks:
        return "0"
    if lag.at_least:
        return f"{lag.blocks} ≥{lag.seconds:.0f} s"
    return f"{lag.blocks} <{lag.seconds + interval_s:.0f} s"


def _shown_bound(nanoseconds: int | None) -> str:
    if nanoseconds is None:
        return _NONE
    milliseconds = nanoseconds / 1e6
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def _reasons(rows: Sequence[Row]) -> list[Text]:
    """Return a line for each reason why validators do not answer, with their names."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.away:
            names.setdefault(row.away, []).append(row.name)
    return [_reason(reason, away) for reason, away in names.items()]


def _reason(reason: str, names: Sequence[str]) -> Text:
    who = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    told = plain(reason)[:_LONGEST_REASON]
    if reason == _NOT_RUNNING:
        told = "nobody listens; validators run only while a cell does"
    return Text(f"{who}: {told}", style="yellow", no_wrap=True, overflow="ellipsis")
