"""The report: what stands in it, in which order, and that nothing of a run gets a hold on the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import analysis.html
from analysis import load
from analysis.__main__ import main
from analysis.html import REPORT, make_report, render, write_html
from analysis.html_facts import read_facts
from analysis.html_page import Page
from analysis.html_svg import UnsuitableSvg, inline_svg
from analysis.plots import PlottedFigure
from analysis.report import analyse, write_report
from tests.analysis.hostile import IMAGE, SCRIPT, make_hostile_run
from tests.analysis.synthetic import Plan, make_run, read, write

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="288pt" height="144pt" '
    'viewBox="0 0 288 144"><defs><clipPath id="c"><rect width="9" height="9"/></clipPath></defs>{}</svg>'
)
VOID = {"meta", "link", "br", "hr", "img", "input", "path", "circle"}


@dataclass
class Parsed(HTMLParser):
    """Elements, headings and links of a page."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> Iterator[str]:
        return (value for _, attributes in self.tags if (value := attributes.get(attribute)) is not None)


def parse(path: Path) -> Parsed:
    parsed = Parsed()
    parsed.feed(path.read_text("utf-8"))
    return parsed


def report_of(path: Path) -> Parsed:
    run = load(path)
    report = analyse(run)
    write_report(report, path)
    return parse(make_report(run, report))


def figure(name: str, svg: str = SVG.format("")) -> PlottedFigure:
    return PlottedFigure(name, f"Figure {name}", "What it shows.", svg, b"png", "latency")


def page_of(path: Path, monkeypatch: pytest.MonkeyPatch, *figures: PlottedFigure) -> tuple[Page, bytes]:
    """The page with the figures given, as it is handed to the template."""
    pages: list[Page] = []

    def keep(page: Page) -> bytes:
        pages.append(page)
        return render(page)

    monkeypatch.setattr(analysis.html, "render", keep)
    written = write_html(path, analyse(load(path)), figures).read_bytes()
    return pages[0], written


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parsed]:
    path = make_run(tmp_path_factory.mktemp("sound"))
    return path, report_of(path)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parsed]:
    path = make_hostile_run(tmp_path_factory.mktemp("hostile"))
    return path, report_of(path)


def test_verdict_and_summary_come_first_then_tables_figures_and_the_rest(sound: tuple[Path, Parsed]) -> None:
    sections = [attributes["id"] for tag, attributes in sound[1].tags if tag == "section"]
    assert sections == ["verdict", "summary", "tables", "figures", "environment", "reproduce", "data"]
    assert "VALID" in sound[1].text


def test_the_summary_says_what_was_measured_with_its_uncertainty(sound: tuple[Path, Parsed]) -> None:
    text = sound[1].text.replace("\u00a0", " ")
    assert "4 validators agree on one block after the other" in text
    assert "Measured on Test CPU, 2 cores, 4.0 GiB" in text
    # T_ct is planned as 20 ms, and its median is 1.2 times that: the 2nd to 9th of ten samples in fives.
    assert re.search(r"Tct · transactions on all\s*24\.0 ms\s*p90 28\.0 · 95 % interval 20\.0 to 28\.0", text), text


def test_every_reason_stands_beside_the_verdict_the_worst_first(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    for validator, problems in (("validator-1", None), ("validator-2", ["height 3: wrong parent"])):
        digest = path / "cells/k4-b128k/nodes" / validator / "digest.json"
        document = read(digest)
        document["problems"] = problems
        write(digest, document)
    text = " ".join(report_of(path).text.split())
    assert "INVALID There are 2 reasons against this run" in text
    assert text.index("wrong parent") < text.index("was not audited")


@pytest.mark.parametrize("kind", ["sound", "hostile"])
def test_the_page_is_well_formed_for_those_who_do_not_see_it(kind: str, request: pytest.FixtureRequest) -> None:
    _, page = request.getfixturevalue(kind)
    assert page.tags[0] == ("html", {"lang": "en"})
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip([1, *page.headings], page.headings, strict=False))
    ids = list(page.values("id"))
    assert len(ids) == len(set(ids))
    assert set(page.values("aria-labelledby")) <= set(ids)
    tables = [tag for tag, _ in page.tags].count("table")
    assert tables == [tag for tag, _ in page.tags].count("caption") >= 4
    assert {a.get("scope") for tag, a in page.tags if tag == "th"} == {"col", "row"}
    drawings = [a for tag, a in page.tags if tag == "svg"]
    assert all(a.get("aria-hidden") == "true" or (a.get("role") == "img" and a.get("aria-label")) for a in drawings)


@pytest.mark.parametrize("kind", ["sound", "hostile"])
def test_links_lead_to_places_and_files_that_are_there(kind: str, request: pytest.FixtureRequest) -> None:
    path, page = request.getfixturevalue(kind)
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    ids = set(page.values("id"))
    for link in links:
        assert link and (link[1:] in ids if link.startswith("#") else (path / unquote(link)).is_file()), link
    assert {"report/tables/throughput.csv", "report/tables/throughput.tex"} <= set(links)


@pytest.mark.parametrize("kind", ["sound", "hostile"])
def test_the_page_can_load_and_do_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    _, page = request.getfixturevalue(kind)
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and str(policies[0]).startswith("default-src 'none';")
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "base", "img", "audio", "video"}
    assert not any(attribute.startswith("on") for _, attributes in page.tags for attribute in attributes)
    for attribute in ("src", "srcset", "action", "formaction", "data", "poster", "background"):
        assert not list(page.values(attribute))
    for attribute in ("href", "xlink:href"):
        addresses = [value for value in page.values(attribute) if re.match(r"\s*[a-z]+:", value, re.IGNORECASE)]
        assert not [value for value in addresses if not value.startswith("data:image/png;base64,")]


def test_hostile_texts_are_shown_as_they_are_without_control_characters(hostile: tuple[Path, Parsed]) -> None:
    path, page = hostile
    assert SCRIPT in page.text and IMAGE in page.text
    raw = (path / REPORT).read_text("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", raw)
    assert "\ufffd[31m\ufffd" in raw


def test_commands_to_type_hold_nothing_that_a_run_could_slip_in(hostile: tuple[Path, Parsed]) -> None:
    commands = [line for command in read_facts(hostile[0]).commands for line in command.lines]
    assert "./testbed deploy -i local" in commands
    assert not [line for line in commands if "script" in line or line.startswith("git checkout")]


def test_a_run_is_reproduced_from_its_commit_and_its_changes(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    write(path / "environment.json", {"git": {"commit": "0123456789abcdef", "dirty": True, "diff": "+x"}})
    write(path / "inventory.json", {"name": "pi"})
    lines = [line for command in read_facts(path).commands for line in command.lines]
    assert lines[0] == "git checkout 0123456789abcdef"
    assert lines[1].endswith(f"runs/{path.name}/environment.json | git apply")
    assert f"./testbed experiment runs/{path.name}/spec.yml -i pi" in lines


def test_what_is_missing_or_broken_is_said(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (path / "inventory.json").write_bytes(b'{"name": "\xff"}')
    (path / "cells.json").write_text("[" * 100_000)
    text = " ".join(report_of(path).text.split())
    assert "inventory.json: can't be read" in text
    assert "cells.json: can't be read" in text
    assert "resolved.json: missing" in text


def test_files_that_changed_since_the_seal_are_marked(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (path / "spec.yml").write_text("name: x\n")
    (path / "SHA256SUMS").write_text(f"{'0' * 64}  spec.yml\n")
    assert "CHANGED since" in report_of(path).text


def test_the_largest_drawings_are_left_to_their_files_if_the_page_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(tmp_path)
    large = SVG.format("<g>" + '<path d="M0 0"/>' * 20_000 + "</g>")
    page, _ = page_of(path, monkeypatch, figure("small"), figure("large", large))
    assert len(render(page)) > 300_000
    html = render(page, limit=200_000)
    assert len(html) <= 200_000
    assert html.count(b'role="img"') == 1 and b"Left out of this page for its size" in html


def test_endless_documents_make_no_endless_page(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    write(path / "environment.json", {"git": {"diff": "x" * 3_000_000, "status": "y" * 3_000_000}})
    (path / "spec.yml").write_text("z" * 3_000_000)
    ids = ["i" * 5_000 for _ in range(2_000)]
    write(path / "cells.json", [{"id": id} for id in ids])
    report_of(path)
    assert (path / REPORT).stat().st_size < 1_000_000


def test_a_report_that_fails_leaves_the_verdict_and_no_older_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run(tmp_path)
    (path / REPORT).write_text("an older page")

    def fail(*_: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(analysis.html, "build_figures", fail)
    assert main([str(path), "--report"]) == 3
    assert read(path / "verdict.json")["verdict"] == "VALID"
    assert not (path / REPORT).exists()
    assert "no ink" in capsys.readouterr().err


def test_without_the_option_no_page_is_made(tmp_path: Path) -> None:
    path = make_run(tmp_path, Plan())
    assert main([str(path)]) == 0
    assert not (path / REPORT).exists() and not (path / "report").exists()


def test_links_in_the_place_of_the_report_are_not_followed(tmp_path: Path) -> None:
    path, elsewhere = make_run(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("mine")
    (path / "report").symlink_to(elsewhere)
    (path / REPORT).symlink_to(elsewhere / "kept")
    assert main([str(path), "--report"]) == 0
    assert (elsewhere / "kept").read_text() == "mine" and list(elsewhere.iterdir()) == [elsewhere / "kept"]
    assert (path / REPORT).is_file() and not (path / REPORT).is_symlink()


class TestInlineSvg:
    """Drawings on the page."""

    def test_ids_are_unique_in_the_page_and_references_follow(self) -> None:
        svg = inline_svg(SVG.format('<g id="a" clip-path="url(#c)"><use xlink:href="#a"/></g>'), "one", "One")
        assert 'id="one-c"' in svg and 'clip-path="url(#one-c)"' in svg and 'href="#one-a"' in svg

    def test_style_sheets_and_metadata_go_and_the_size_is_the_pages(self) -> None:
        svg = inline_svg(SVG.format("<style>*{stroke-linejoin:round}</style><metadata>x</metadata>"), "one", "One")
        assert "<style" not in svg and "metadata" not in svg and "height=" not in svg.split(">")[0]
        assert 'role="img"' in svg and 'aria-label="One"' in svg

    def test_text_stays_text(self) -> None:
        svg = inline_svg(SVG.format("<text>&lt;script&gt;alert(1)&lt;/script&gt;</text>"), "one", '"><script>')
        assert "<script" not in svg and "&lt;script&gt;alert(1)" in svg and "&quot;&gt;&lt;script&gt;" in svg

    @pytest.mark.parametrize(
        "content",
        [
            "<script>alert(1)</script>",
            '<g onload="alert(1)"/>',
            "<foreignObject/>",
            '<a xlink:href="#a"><text>x</text></a>',
            '<image xlink:href="https://example.invalid/x.png"/>',
            '<image href="data:image/svg+xml;base64,AAAA"/>',
            '<use xlink:href="other.svg#x"/>',
            '<g style="fill:url(https://example.invalid/x)"/>',
            '<set attributeName="href" to="javascript:alert(1)"/>',
        ],
    )
    def test_what_acts_or_loads_is_refused(self, content: str) -> None:
        with pytest.raises(UnsuitableSvg):
            inline_svg(SVG.format(content), "one", "One")

    @pytest.mark.parametrize("text", ["", "<svg", "<html/>", '<svg xmlns="http://www.w3.org/2000/svg"/>'])
    def test_what_is_no_drawing_is_refused(self, text: str) -> None:
        with pytest.raises(UnsuitableSvg):
            inline_svg(text, "one", "One")

    def test_a_refused_drawing_is_named_in_its_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bad = figure("bad", SVG.format("<script>alert(1)</script>"))
        _, html = page_of(make_run(tmp_path), monkeypatch, bad)
        assert b"The drawing can&#39;t stand on this page" in html and b"<script" not in html
