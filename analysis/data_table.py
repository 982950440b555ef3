"""The one form of every table: text in rows and columns, from which terminal, HTML, CSV and LaTeX are rendered."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from analysis.figures import Figure

__all__ = ["Column", "DataTable", "Footnotes", "Section"]

Section = Literal["latency", "throughput", "traffic", "series", "validators", "boards", "clocks"]
"""The part of a report in which a table or figure stands."""


@dataclass(frozen=True)
class Column:
    """One column. ``unit`` holds for all its figures; empty if they have none, or say it themselves."""

    label: str
    unit: str = ""
    align: Literal["left", "right"] = "left"

    @property
    def heading(self) -> str:
        """Label and unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


@dataclass(frozen=True)
class DataTable:
    """A table as it is printed, without any markup.

    ``name`` is a file stem, unlike that of every other table of the run. Every row has one text for each column; an
    empty one repeats what stands above it. ``groups`` are the numbers of rows at which a new group begins. ``notes``
    explain dashes and terms; ``sources`` say where figures that are not this run's come from.
    """

    name: str
    title: str
    columns: list[Column]
    rows: list[list[str]]
    notes: list[str]
    section: Section
    sources: list[str] = field(default_factory=list)
    groups: Collection[int] = ()

    def __post_init__(self) -> None:
        """ValueError if a row does not have one text for each column."""
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.name}: a row does not have {len(self.columns)} texts")


@dataclass
class Footnotes:
    """Numbers the reasons of missing figures; they are printed under the table."""

    texts: list[str] = field(default_factory=list)

    def show(self, figure: Figure) -> str:
        """Return the figure's text, with the number of its reason if it has one."""
        if not figure.reason:
            return figure.text
        if figure.reason not in self.texts:
            self.texts.append(figure.reason)
        return f"{figure.text} ({self.texts.index(figure.reason) + 1})"

    def lines(self) -> list[str]:
        """Return the reasons, numbered."""
        return [f"({number}) {text}" for number, text in enumerate(self.texts, 1)]
