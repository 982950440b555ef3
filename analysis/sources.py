"""Where a run's points come from: its own spools, or an InfluxDB server. Both give the same DataFrames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, Self

from microchain.telemetry.recorder import CLIENT

from analysis.documents import CellSpec
from analysis.points import PointTables
from analysis.problems import Problem
from analysis.spools import SpoolSession, read_spool

__all__ = ["SOURCES", "PointSource", "SourceError", "SourceName", "SpoolSource", "open_source"]

SourceName = Literal["spools", "influxdb"]
SOURCES: tuple[SourceName, ...] = ("spools", "influxdb")


class SourceError(ValueError):
    """A source that gives no points at all; the message says why and what to do."""


class PointSource(Protocol):
    """Reads the points of one cell after another; a context manager, so that connections end."""

    name: SourceName

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def read_cell(
        self, spec: CellSpec, directory: Path, tables: PointTables, problems: list[Problem]
    ) -> Sequence[SpoolSession]:
        """Add the points of a cell to ``tables``; ``directory`` is the cell's. SourceError if that can't be done.

        Returns what is known of the spools themselves (nothing, where only the points are known).
        """


class SpoolSource:
    """The spools in the run directory ``root``: complete, and needing nothing else."""

    name: SourceName = "spools"

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def read_cell(
        self, spec: CellSpec, directory: Path, tables: PointTables, problems: list[Problem]
    ) -> Sequence[SpoolSession]:
        """Read the spools of the cell's validators and of the load generator."""
        places = {name: directory / "nodes" / name / "spool" for name in spec.validators}
        places[CLIENT] = directory / "client"
        sessions: list[SpoolSession] = []
        for name, place in places.items():
            sessions += read_spool(place, tables, problems, run=spec.run, cell=spec.id, validator=name, root=self._root)
        return sessions


def open_source(name: SourceName, run_dir: Path, connection: Path | None = None) -> PointSource:
    """Return a source by its name; SourceError for an unknown one or an unusable connection file."""
    if name == "spools":
        return SpoolSource(run_dir)
    if name == "influxdb":
        # Here, so that reading spools neither needs nor loads the client (half a second).
        from analysis.influx import InfluxSource

        return InfluxSource.open(connection)
    raise SourceError(f"there is no source {name!r}; there are: {', '.join(SOURCES)}")
