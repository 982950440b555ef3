"""Renders a DataTable for the terminal, as CSV and as LaTeX. What a table says is from files that may be hostile."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.data_table import DataTable

__all__ = ["clean", "sources_to_rich", "to_csv", "to_latex", "to_rich"]

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_NUMBER = re.compile(r"-\d+(\.\d+)?( .*)?")
_LATEX_TERMS = re.compile(r"\bT_(ct|bp|cf|bc)\b")
_LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",
        "]": "{]}",
        "—": "---",
        "–": "--",  # noqa: RUF001
        "…": r"\ldots{}",
        "±": r"$\pm$",
        "×": r"$\times$",  # noqa: RUF001
        "·": r"$\cdot$",
        "²": "$^2$",
        "°": r"$^\circ$",
        "µ": r"$\mu$",
        "Δ": r"$\Delta$",
        "→": r"$\to$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
    }
)


def clean(text: str) -> str:
    """Return the text without characters that would steer a terminal or reorder a line."""
    return _CONTROL.sub("\ufffd", text)


def to_rich(table: DataTable) -> RenderableType:
    """Return the table with its notes for a rich console; its sources are left to sources_to_rich."""
    drawn = Table(
        title=Text(clean(table.title)), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False
    )
    for column in table.columns:
        drawn.add_column(Text(clean(column.heading)), justify=column.align)
    for number, row in enumerate(table.rows):
        if number and number in table.groups:
            drawn.add_section()
        drawn.add_row(*(Text(clean(text)) for text in row))
    return Group(drawn, *(Text(clean(note), style="dim") for note in table.notes), Text())


def sources_to_rich(tables: Iterable[DataTable]) -> RenderableType | None:
    """Return the sources of all tables, each once; None if they have none."""
    lines = dict.fromkeys(source for table in tables for source in table.sources)
    return Group(*(Text(clean(line), style="dim") for line in lines), Text()) if lines else None


def to_csv(table: DataTable) -> str:
    """Return heading and rows (RFC 4180), without title and notes.

    Empty cells are filled from above, where that is what they mean. A text that a spreadsheet would take for a formula
    begins with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_defuse(column.heading) for column in table.columns])
    writer.writerows([_defuse(cell) for cell in row] for row in _filled(table))
    return text.getvalue()


def _filled(table: DataTable) -> list[list[str]]:
    """Rows in which an empty cell says what stands above it in its group."""
    rows: list[list[str]] = []
    for number, row in enumerate(table.rows):
        above = rows[-1] if rows and number not in table.groups else [""] * len(row)
        rows.append([text or upper for text, upper in zip(row, above, strict=True)])
    return rows


def _defuse(text: str) -> str:
    text = clean(text)
    return f"'{text}" if text[:1] in tuple("=+-@") and not _NUMBER.fullmatch(text) else text


def to_latex(table: DataTable) -> str:
    """Return a ``table`` environment with a plain ``tabular``; no package is needed."""
    columns = "".join("r" if column.align == "right" else "l" for column in table.columns)
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{_latex(table.title)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', table.name)}}}",
        r"\small",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\hline",
        _latex_row(column.heading for column in table.columns),
        r"\hline",
    ]
    for number, row in enumerate(table.rows):
        if number and number in table.groups:
            lines.append(r"\hline")
        lines.append(_latex_row(row))
    lines += [r"\hline", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {_latex(note)}" for note in (*table.notes, *table.sources)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex_row(texts: Iterable[str]) -> str:
    return " & ".join(_latex(text) for text in texts) + r" \\"


def _latex(text: str) -> str:
    """Escape a text; the chapter's terms are set as mathematics."""
    parts = _LATEX_TERMS.split(clean(text))
    return "".join(
        f"$T_{{{part}}}$" if position % 2 else part.translate(_LATEX_ESCAPES) for position, part in enumerate(parts)
    )
