"""Whether InfluxDB holds what the spools hold, if a server was in use: as collect found it (docs/influxdb.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from analysis.causes import Cause
from analysis.documents import Natural, read_document
from analysis.problems import Problem
from analysis.run import Cell

__all__ = ["check_database"]

_SECTION = re.compile(rb"^\s*\[\s*influx\s*\]", re.MULTILINE)
_MAX_CONFIG = 1 << 20
_SHOWN = 3
_SHOWN_TEXT = 300


class _Record(Struct, kw_only=True):
    """``cells/<cell>/influxdb.json``, as far as the verdict needs it."""

    equal: bool
    points: Natural = 0
    differences: tuple[str, ...] = ()
    error: str = ""


class _Shipper(Struct, kw_only=True):
    """``nodes/<validator>/shipper.json``, as far as the verdict needs it."""

    rejected: Natural = 0


def check_database(root: Path, cell: Cell) -> Iterator[tuple[Cause, str]]:
    """Say what speaks against the points in InfluxDB; nothing if no server was in use."""
    directory = root / "cells" / cell.id
    nodes = {name: directory / "nodes" / name for name in cell.spec.validators}
    problems: list[Problem] = []
    for name, node in nodes.items():
        if (node / "shipper.json").exists():
            shipper = read_document(node / "shipper.json", _Shipper, problems, root)
            if shipper is not None and shipper.rejected:
                yield Cause.INFLUXDB_REFUSED, f"the InfluxDB server refused {shipper.rejected} lines of {name}"
    if (directory / "influxdb.json").exists():
        record = read_document(directory / "influxdb.json", _Record, problems, root)
        if record is not None:
            yield from _judge(record)
    else:
        streamed = [name for name, node in nodes.items() if _ships(node)]
        if streamed:
            text = f"{', '.join(streamed)} streamed to InfluxDB, and there is no record that it has all points"
            yield Cause.INFLUXDB_NOT_COMPARED, text
    yield from ((Cause.FILE_DAMAGED, str(problem)) for problem in problems)


def _judge(record: _Record) -> Iterator[tuple[Cause, str]]:
    if record.error:
        yield Cause.INFLUXDB_NOT_COMPARED, f"InfluxDB could not be compared: {_cut(record.error)}"
    elif not record.equal or record.differences:
        shown = "; ".join(_cut(text) for text in record.differences[:_SHOWN]) or "no difference is named"
        hidden = len(record.differences) - _SHOWN
        more = f"; and {hidden} more" if hidden > 0 else ""
        yield Cause.INFLUXDB_DIFFERS, f"InfluxDB and the spools differ: {shown}{more}"


def _ships(node: Path) -> bool:
    """Whether the validator was told of a server, or has streamed to one."""
    if (node / "shipper.json").exists():
        return True
    try:
        with (node / "config.toml").open("rb") as file:
            return _SECTION.search(file.read(_MAX_CONFIG)) is not None
    except OSError:
        return False


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}…"
