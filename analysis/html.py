"""Writes ``report.html``: one self-contained page of a run, that loads nothing and trusts nothing of what it shows."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from analysis.html_facts import read_facts
from analysis.html_page import Page, build_page
from analysis.html_summary import summarise_in_words
from analysis.plots import PlottedFigure, build_figures
from analysis.report import Report
from analysis.report_files import write_report_files
from analysis.run import Run

__all__ = ["MAX_BYTES", "REPORT", "make_report", "render", "write_html"]

REPORT = "report.html"
MAX_BYTES = 5_000_000
_TEMPLATES = Path(__file__).parent / "templates"
_TOOLS = ("pandas", "numpy", "matplotlib")
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
"""Control characters (but tab and line end), those that reorder a line, and what is no character."""
_TERM = re.compile(r"\bT_(ct|bp|cf|bc)\b")
_CODE = re.compile(r"`([^`<>\n]{1,80})`")
_KEPT_TOGETHER = re.compile(r"(?<=\d) (?=(?:ms|s|KB|MB|GiB|B|%|tx/s|cores|validators|rounds)\b)|(?<=±) (?=\d)")


def make_report(run: Run, report: Report) -> Path:
    """Draw the figures, write them and the tables as files, and the page; returns the page's path.

    An older page goes first, so that none stands there which says something else than the verdict.
    """
    (run.path / REPORT).unlink(missing_ok=True)
    figures = build_figures(run, report)
    write_report_files(run.path, report.tables, figures)
    return write_html(run.path, report, figures)


def write_html(run_dir: Path, report: Report, figures: Sequence[PlottedFigure]) -> Path:
    """Write the page into the run directory, whole or not at all, and return its path. OSError if that fails.

    Tables and figures link to their files in ``report/`` where these are there already.
    """
    page = build_page(
        run_dir,
        read_facts(run_dir),
        report.verdict,
        summarise_in_words(report.cells, report.hardware),
        report.hardware,
        report.tables,
        figures,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        tools=", ".join(f"{name} {metadata.version(name)}" for name in _TOOLS),
    )
    path = run_dir / REPORT
    temporary = run_dir / f".{REPORT}.{os.getpid()}"
    try:
        temporary.write_bytes(render(page))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render(page: Page, limit: int = MAX_BYTES) -> bytes:
    """Return the page as UTF-8; the largest drawings are left to their files until it is no longer than ``limit``."""
    html = _render(page)
    while len(html) > limit:
        sizes = {figure.id: len(figure.svg) for figure in page.figures if figure.svg is not None}
        if not sizes:
            break
        largest = max(sizes, key=lambda id: sizes[id])
        figures = (figure.left_out() if figure.id == largest else figure for figure in page.figures)
        page = replace(page, figures=tuple(figures))
        html = _render(page)
    return html


def _render(page: Page) -> bytes:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=_show,
    )
    environment.filters["text"] = _set_text
    css = Markup((_TEMPLATES / "report.css").read_text("utf-8"))
    return environment.get_template("report.html.jinja").render(page=page, css=css).encode("utf-8")


def _set_text(value: str) -> Markup:
    """Set the chapter's terms with their index and what is to be typed as code; keep figures and units on one line."""
    text = _KEPT_TOGETHER.sub("\u00a0", _STEERING.sub("\ufffd", value))
    html = _TERM.sub(r"T<sub>\1</sub>", str(escape(text)))
    return Markup(_CODE.sub(r"<code>\1</code>", html))


def _show(value: object) -> object:
    """Keep what would steer or reorder text out of the page; our own markup stays."""
    return _STEERING.sub("\ufffd", value) if isinstance(value, str) and not isinstance(value, Markup) else value
