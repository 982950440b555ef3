"""What stands on the page, in the order of the template: bounded, whatever a run directory holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from analysis.data_table import Column, DataTable
from analysis.html_facts import MAX_TEXT, Facts, Machine
from analysis.html_summary import Summary
from analysis.html_svg import UnsuitableSvg, inline_svg
from analysis.plots import PlottedFigure
from analysis.verdict import Level, Verdict

__all__ = ["Page", "PageFigure", "PageTable", "build_page"]

_MAX_REASONS = 100
_MAX_ROWS = 400
_MAX_CELLS = 200
_MAX_CELL_TEXT = 300
_MAX_REASON_TEXT = 2000
_SHORT_HASH = 16
_LONG_TEXT = 14


@dataclass(frozen=True)
class Link:
    """A file beside the report; ``href`` is relative to it."""

    label: str
    href: str


@dataclass(frozen=True)
class PageCell:
    """One text of a table and the class it is set with."""

    text: str
    align: str


@dataclass(frozen=True)
class PageRow:
    """``kind``: ``group`` begins a group, ``own`` is this run's among others' figures."""

    cells: tuple[PageCell, ...]
    kind: str


@dataclass(frozen=True)
class PageTable:
    """A table ready to be set."""

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[PageRow, ...]
    notes: tuple[str, ...] = ()
    files: tuple[Link, ...] = ()

    @property
    def short(self) -> str:
        """The title for the list of contents."""
        return self.title.split(":")[0]


@dataclass(frozen=True)
class PageFigure:
    """A figure ready to be set; without ``svg``, ``absent`` says why, or the caption if there is nothing to draw."""

    id: str
    title: str
    caption: str
    svg: Markup | None
    absent: str
    files: tuple[Link, ...]

    def left_out(self) -> PageFigure:
        """The same without its drawing, because the page would be too large."""
        return replace(self, svg=None, absent="Left out of this page for its size; the files below have it.")


@dataclass(frozen=True)
class PageReason:
    """What was found, in a cell or (``cell`` empty) in the whole run."""

    cell: str
    text: str


@dataclass(frozen=True)
class PageCause:
    """The reasons of one cause, with what they mean and what to do about it (one sentence or more; may be empty)."""

    level: str
    meaning: str
    reasons: tuple[PageReason, ...]


@dataclass(frozen=True)
class PageVerdict:
    """The verdict, the worst causes first; ``hidden`` is how many more reasons there are."""

    level: str
    sentence: str
    causes: tuple[PageCause, ...]
    hidden: int


@dataclass(frozen=True)
class PageGit:
    """The state of the project; ``cut``: not all of it is quoted."""

    commit: str
    dirty: bool | None
    status: str
    diff: str
    cut: bool


@dataclass(frozen=True)
class Page:
    """Everything that the template shows."""

    facts: Facts
    title: str
    description: str
    started: str
    verdict: PageVerdict
    summary: Summary
    cells: PageTable
    tables: tuple[PageTable, ...]
    sources: tuple[str, ...]
    figures: tuple[PageFigure, ...]
    hardware: str
    environment_tables: tuple[PageTable, ...]
    git: PageGit
    inventory: str
    signature: str
    seed: str
    files: PageTable
    raw_sentence: str
    problems: tuple[str, ...]
    made: str
    tools: str


def build_page(
    run_dir: Path,
    facts: Facts,
    verdict: Verdict,
    summary: Summary,
    hardware: str,
    tables: Sequence[DataTable],
    figures: Sequence[PlottedFigure],
    *,
    made: str,
    tools: str,
) -> Page:
    """Put the page together; links go to files that are there."""
    resolved, inventory = facts.resolved, facts.inventory
    return Page(
        facts=facts,
        title=_cut((resolved.name if resolved else "") or facts.name, 120),
        description=_cut(resolved.description if resolved else "", 1000),
        started=_started(facts),
        verdict=_verdict(verdict),
        summary=summary,
        cells=_cells(facts, verdict),
        tables=tuple(_table(run_dir, table) for table in tables),
        sources=tuple(dict.fromkeys(source for table in tables for source in table.sources)),
        figures=tuple(_figure(run_dir, figure) for figure in figures),
        hardware=hardware,
        environment_tables=tuple(_environment(facts)),
        git=_git(facts),
        inventory=_cut(inventory.name if inventory else "", 100),
        signature=_cut(inventory.signature if inventory else "", 100),
        seed="" if resolved is None or resolved.seed is None else str(resolved.seed),
        files=_files(facts),
        raw_sentence=_raw_sentence(facts),
        problems=tuple(_cut(str(problem), _MAX_REASON_TEXT) for problem in facts.problems[:_MAX_REASONS]),
        made=made,
        tools=tools,
    )


def _verdict(verdict: Verdict) -> PageVerdict:
    reasons = verdict.to_json()["reasons"]
    count = "There is one reason" if len(reasons) == 1 else f"There are {len(reasons)} reasons"
    sentence = {
        Level.VALID: "Every check passed: nothing was found that speaks against these figures.",
        Level.SUSPECT: f"{count} to read these figures with care.",
        Level.INVALID: f"{count} against this run; its figures must not be relied on.",
    }[verdict.level]
    causes: dict[tuple[str, str], list[PageReason]] = {}
    for reason in reasons[:_MAX_REASONS]:
        meaning = " ".join(part for part in (reason.get("meaning", ""), reason.get("advice", "")) if part)
        found = PageReason(_cut(reason["cell"], 200), _cut(reason["text"], _MAX_REASON_TEXT))
        causes.setdefault((reason["level"], meaning), []).append(found)
    shown = tuple(PageCause(level, meaning, tuple(found)) for (level, meaning), found in causes.items())
    return PageVerdict(verdict.level.name, sentence, shown, max(0, len(reasons) - _MAX_REASONS))


def _started(facts: Facts) -> str:
    """When the first cell began, as the conductor wrote it, to the second."""
    moments = sorted(cell.end.started for cell in facts.cells if cell.end is not None and cell.end.started)
    if not moments:
        return ""
    return f"{_cut(moments[0], 40).split('.')[0].replace('T', ' ')} UTC"


def _table(run_dir: Path, table: DataTable) -> PageTable:
    rows = []
    own = [any(text.startswith("this run") for text in row) for row in table.rows[:_MAX_ROWS]]
    mixed = not all(own)
    for number, row in enumerate(table.rows[:_MAX_ROWS]):
        kinds = (["group"] if number and number in table.groups else []) + (["own"] if own[number] and mixed else [])
        cells = (_cell(text, column.align) for text, column in zip(row, table.columns, strict=True))
        rows.append(PageRow(tuple(cells), " ".join(kinds)))
    notes = list(table.notes)
    if len(table.rows) > _MAX_ROWS:
        notes.insert(0, f"The first {_MAX_ROWS} of {len(table.rows)} rows; the files have them all.")
    files = _links(run_dir, "report/tables", table.name, {"csv": "CSV", "tex": "LaTeX"})
    return PageTable(f"table-{table.name}", table.title, tuple(table.columns), tuple(rows), tuple(notes), files)


def _cell(text: str, align: str) -> PageCell:
    """``level`` marks a verdict, ``text`` what may be broken where there is little room."""
    kind = f" level {text}" if text in Level.__members__ else " text" if len(text) > _LONG_TEXT else ""
    return PageCell(_cut(text, _MAX_CELL_TEXT), align + kind)


def _figure(run_dir: Path, figure: PlottedFigure) -> PageFigure:
    svg, absent = None, ""
    try:
        svg = inline_svg(figure.svg, f"figure-{figure.name}", figure.title) if figure.svg else None
    except UnsuitableSvg as error:
        absent = f"The drawing can't stand on this page: {error}."
    files = _links(run_dir, "report/figures", figure.name, {"svg": "SVG", "png": "PNG"})
    return PageFigure(f"figure-{figure.name}", figure.title, figure.caption, svg, absent, files)


def _links(run_dir: Path, folder: str, name: str, kinds: dict[str, str]) -> tuple[Link, ...]:
    paths = {label: f"{folder}/{name}.{suffix}" for suffix, label in kinds.items()}
    return tuple(Link(label, quote(path)) for label, path in paths.items() if (run_dir / path).is_file())


def _simple(
    id: str,
    title: str,
    columns: list[Column],
    rows: list[list[str]],
    *,
    wrap: tuple[int, ...] = (),
    code: tuple[int, ...] = (),
) -> PageTable:
    """A table of facts; the columns numbered in ``wrap`` may break their lines, those in ``code`` are digits."""
    kinds = [
        f"{column.align}{' wrap' if i in wrap else ''}{' code' if i in code else ''}"
        for i, column in enumerate(columns)
    ]
    shown = tuple(PageRow(tuple(_cell(text, kind) for text, kind in zip(row, kinds, strict=True)), "") for row in rows)
    return PageTable(id, title, tuple(columns), shown)


def _cells(facts: Facts, verdict: Verdict) -> PageTable:
    columns = [
        Column("cell"),
        Column("validators", align="right"),
        Column("load"),
        Column("ended"),
        Column("took", "s", "right"),
        Column("verdict"),
    ]
    rows = []
    for cell in facts.cells[:_MAX_CELLS]:
        end, plan = cell.end, cell.plan
        ended = "not run" if end is None else f"{end.status}{f': {end.message}' if end.message else ''}"
        rows.append(
            [
                plan.id,
                str(len(plan.validators)),
                _describe_load(plan.workload),
                ended,
                "—" if end is None or end.seconds is None else f"{end.seconds:.1f}",
                verdict.level_of(plan.id).name,
            ]
        )
    return _simple("cells", "Cells of the run", columns, rows, wrap=(3,))


def _describe_load(workload: dict[str, object]) -> str:
    """Say a workload of cells.json in a few words; it may hold anything."""
    if workload.get("kind") == "rounds":
        return f"{workload.get('rounds')} rounds of {workload.get('transactions')} transactions"
    if workload.get("kind") == "rate":
        return f"{workload.get('rate')} tx/s for {workload.get('duration_s')} s"
    return str(workload.get("kind", ""))


def _environment(facts: Facts) -> list[PageTable]:
    tables = []
    machines = list(facts.machines.items())[:_MAX_CELLS]
    if machines:
        columns = [
            Column("host"),
            Column("machine"),
            Column("cores", align="right"),
            Column("memory", "GiB", "right"),
            Column("system"),
            Column("kernel"),
            Column("architecture"),
            Column("Python"),
        ]
        tables.append(_simple("hosts", "Hosts", columns, [_machine(name, facts) for name, facts in machines]))
    inventory = facts.inventory
    if inventory is not None and inventory.validators:
        rows = [
            [host, str(len(names)), _cut(", ".join(names), _MAX_CELL_TEXT)]
            for host, names in list(inventory.validators_by_host().items())[:_MAX_CELLS]
        ]
        columns = [Column("host"), Column("validators", align="right"), Column("names")]
        tables.append(_simple("placement", "Where the validators were deployed", columns, rows, wrap=(2,)))
    if facts.cells:
        rows = [
            [
                cell.plan.id,
                "—" if cell.plan.seed is None else str(cell.plan.seed),
                (cell.end.chain_id[:_SHORT_HASH] if cell.end is not None else "") or "—",
            ]
            for cell in facts.cells[:_MAX_CELLS]
        ]
        columns = [Column("cell"), Column("seed", align="right"), Column("chain")]
        tables.append(_simple("seeds", "Seeds and chains of the cells", columns, rows, code=(2,)))
    if facts.surroundings is not None and facts.surroundings.versions:
        versions = list(facts.surroundings.versions.items())[:_MAX_CELLS]
        columns = [Column("software"), Column("version")]
        tables.append(_simple("versions", "Versions", columns, [[name, version] for name, version in versions]))
    return tables


def _machine(name: str, facts: Machine) -> list[str]:
    return [
        name,
        facts.board or facts.cpu or "—",
        "—" if facts.cores is None else str(facts.cores),
        "—" if facts.memory_bytes is None else f"{facts.memory_bytes / 2**30:.1f}",
        facts.system or "—",
        facts.kernel or "—",
        facts.architecture or "—",
        facts.python or "—",
    ]


def _git(facts: Facts) -> PageGit:
    if facts.surroundings is None:
        return PageGit("", None, "", "", False)
    git = facts.surroundings.git
    cut = git.diff_truncated or len(git.diff) > MAX_TEXT or len(git.status) > MAX_TEXT
    return PageGit(_cut(git.commit or "", 100), git.dirty, git.status[:MAX_TEXT], git.diff[:MAX_TEXT], cut)


def _files(facts: Facts) -> PageTable:
    states = {True: "as sealed", False: "CHANGED since", None: "—"}
    rows = [[file.path, f"{file.size:,}", states[file.sealed], file.sha256] for file in facts.files[:_MAX_CELLS]]
    columns = [Column("file"), Column("size", "bytes", "right"), Column("seal"), Column("SHA-256")]
    return _simple("files", "Files", columns, rows, code=(3,))


def _raw_sentence(facts: Facts) -> str:
    text = f"The raw data are {facts.raw_files} files of {facts.raw_bytes / 1e6:.1f} MB in cells/."
    if facts.sealed_files is None:
        return f"{text} The run is not sealed: it has no checksums."
    return (
        f"{text} SHA256SUMS (SHA-256 {facts.seal_sha256}) seals {facts.sealed_files} files; what an analysis makes "
        "of them (figures, tables, verdict, this page) is not sealed and may be made again."
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
