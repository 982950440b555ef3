"""One table, the same in terminal, CSV and LaTeX; hostile names steer none of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from analysis import load
from analysis.data_table import Column, DataTable, Footnotes
from analysis.figures import Figure
from analysis.rendering import to_csv, to_latex, to_rich
from analysis.report import PLAIN_WIDTH, analyse
from tests.analysis.synthetic import Plan, make_run

TABLE = DataTable(
    name="example",
    title="Latency & growth",
    columns=[Column("K"), Column("measured by"), Column("T_ct", "ms", "right")],
    rows=[["4", "this run [p90]", "812 ± 3.0"], ["", "chapter_1", "— (1)"], ["16", "this run", "0.50"]],
    notes=["(1) 100 % lost: K² → ∞"],
    section="latency",
    groups=[0, 2],
)


def terminal(table: DataTable, width: int = PLAIN_WIDTH) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as text:
        console.print(to_rich(table))
    return text.get()


def with_cell(text: str) -> DataTable:
    return dataclasses.replace(TABLE, rows=[["4", text, "1.0"]], groups=())


def test_the_terminal_shows_units_rows_and_notes() -> None:
    lines = [" ".join(line.split()) for line in terminal(TABLE).splitlines()]
    assert lines[0] == "Latency & growth"
    assert {"K measured by T_ct, ms", "4 this run [p90] 812 ± 3.0", "chapter_1 — (1)", "16 this run 0.50"} <= set(lines)
    assert "(1) 100 % lost: K² → ∞" in lines


def test_csv_is_one_line_a_row_with_empty_cells_filled_within_their_group() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(TABLE))))
    assert rows == [
        ["K", "measured by", "T_ct, ms"],
        ["4", "this run [p90]", "812 ± 3.0"],
        ["4", "chapter_1", "— (1)"],
        ["16", "this run", "0.50"],
    ]


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "+cmd", "-cmd|x"])
def test_a_name_is_no_formula_in_a_spreadsheet(text: str) -> None:
    assert list(csv.reader(io.StringIO(to_csv(with_cell(text)))))[1][1] == f"'{text}"


@pytest.mark.parametrize("text", ["-3.2", "-0.25 ± 1.0", "—"])
def test_a_negative_number_stays_a_number(text: str) -> None:
    assert list(csv.reader(io.StringIO(to_csv(with_cell(text)))))[1][1] == text


def test_latex_is_balanced_escaped_and_has_a_rule_between_groups() -> None:
    latex = to_latex(TABLE)
    assert r"\caption{Latency \& growth}" in latex and r"\label{tab:example}" in latex
    assert r"\begin{tabular}{llr}" in latex and "$T_{ct}$, ms" in latex
    assert r"4 & this run {[}p90{]} & 812 $\pm$ 3.0 \\" in latex
    assert r" & chapter\_1 & --- (1) \\" in latex
    assert latex.count(r"\hline") == 4
    assert latex.count(r"\begin{") == latex.count(r"\end{") == 2


@pytest.mark.parametrize("text", [r"\input{/etc/passwd}", r"a & b \\ c", "%", "#1^2~_$x$", "}{"])
def test_a_name_is_no_command_in_latex(text: str) -> None:
    row = next(line for line in to_latex(with_cell(text)).splitlines() if line.startswith("4 & "))
    assert row.endswith(r" & 1.0 \\")
    inner = row.removeprefix("4 & ").removesuffix(r" & 1.0 \\")
    bare = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum)\{\}|\\[{}&%$#_]", "", inner)
    assert not set(bare) & set("\\{}&%$#_~^")


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\rb", "\x9b2J", "a\u202eb"])
def test_a_name_does_not_steer_a_terminal(text: str) -> None:
    for rendered in (terminal(with_cell(text)), to_csv(with_cell(text)), to_latex(with_cell(text))):
        assert "\ufffd" in rendered
        assert not set(rendered) & set("\x1b\x9b\u202e") and "a\rb" not in rendered


def test_markup_in_a_name_is_text() -> None:
    assert "[bold]x[/bold]" in terminal(with_cell("[bold]x[/bold]"))


def test_a_row_that_lacks_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="table example: a row does not have 3 texts"):
        dataclasses.replace(TABLE, rows=[["4", "x"]])


def test_a_reason_has_one_number_however_often_it_is_given() -> None:
    notes = Footnotes()
    shown = [notes.show(Figure(*f)) for f in (("—", "lost"), ("1.0",), ("—", "late"), ("—", "lost"))]
    assert shown == ["— (1)", "1.0", "— (2)", "— (1)"]
    assert notes.lines() == ["(1) lost", "(2) late"]


def test_every_table_of_a_run_fits_the_terminal_and_renders_everywhere(tmp_path: Path) -> None:
    plans = [
        Plan(
            validators=k, cell=f"k{k:02}-b128K-t1K-r1", T_ct=100.0 * k, T_cf=1000.0 * k, finality=1300.0 * k, rounds=20
        )
        for k in (4, 5, 8, 16)
    ]
    report = analyse(load(make_run(tmp_path, *plans)))
    assert len({table.name for table in report.tables}) == len(report.tables) >= 3
    for table in report.tables:
        drawn = terminal(table)
        assert max(map(len, drawn.splitlines())) <= PLAIN_WIDTH
        assert all(word in drawn for row in table.rows for text in row for word in text.split()), (
            f"{table.name} was cut"
        )
        assert len(list(csv.reader(io.StringIO(to_csv(table))))) == len(table.rows) + 1
        assert to_latex(table).count(r" \\") == len(table.rows) + 1
