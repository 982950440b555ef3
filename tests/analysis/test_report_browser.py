"""The report in a real browser: on a phone, in a dark room, in print; what it loads, and whether it can be read."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from analysis import load
from analysis.html import MAX_BYTES, REPORT, make_report
from analysis.report import analyse, write_report
from tests.analysis.hostile import make_hostile_run
from tests.analysis.synthetic import Plan, make_run, write

CHROMIUM = shutil.which("chromium") or ""
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on PATH (Debian's package chromium)"),
]
Scheme = Literal["dark", "light"]
A4_PX = 690
"""The width of A4 without the page's margins, at 96 px an inch."""

# The ratio of luminances (WCAG 2.2) of each text that is seen and what is behind it.
CONTRASTS = """() => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n };
  const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c[3] === 1) return c;
      if (c[3] !== 0) throw new Error('a ground that is seen through: ' + e.outerHTML.slice(0, 100));
    }
    return [255, 255, 255, 1];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const style = getComputedStyle(element);
    const text = walker.currentNode.data.trim();
    if (!text || element.closest('.hidden, .skip') || !element.getClientRects().length) continue;
    const svg = element instanceof SVGElement;
    const colour = parse(svg ? style.fill : style.color);
    const [a, b] = [luminance(colour), luminance(ground(element))].sort((x, y) => y - x);
    found.push({ratio: (a + 0.05) / (b + 0.05), svg, text: text.slice(0, 60),
                is: `${colour} on ${ground(element)} in <${element.tagName} ${element.className}>`});
  }
  return found;
}"""
# What reaches beyond the page's width and is in no box of its own that scrolls.
OUTSIDE = """() => [...document.body.querySelectorAll('*')].filter(e => {
  if (e.closest('svg svg, .hidden, .skip') || e.ownerSVGElement) return false;
  for (let p = e.parentElement; p; p = p.parentElement)
    if (/auto|scroll|hidden/.test(getComputedStyle(p).overflowX) && p !== document.body) return false;
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(e => e.outerHTML.slice(0, 120))"""


@dataclass
class Shown:
    """An opened report, with what the browser said and asked for meanwhile."""

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


def make(path: Path) -> Path:
    run = load(path)
    report = analyse(run)
    write_report(report, path)
    return make_report(run, report)


@pytest.fixture(scope="module", params=["sound", "hostile"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    plans = [Plan(validators=count, cell=f"k{count}-b128k") for count in (4, 8)]
    if request.param == "hostile":
        return make(make_hostile_run(root, *plans))
    path = make_run(root, *plans)
    dirty = {"commit": "0" * 40, "dirty": True, "status": " M node/x.py\n", "diff": "+ a very long line " * 40}
    machine = {"cpu": "Test CPU", "cores": 2, "memory_bytes": 4 << 30, "kernel": "Linux 6.1", "python": "3.11.7"}
    write(path / "environment.json", {"git": dirty, "host": machine, "versions": {"python": "3.11.7"}})
    return make(path)


def show(browser: Browser, report: Path, width: int, scheme: Scheme = "light") -> Shown:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    shown = Shown(context.new_page())
    shown.page.on("console", lambda message: shown.messages.append(message.text))
    shown.page.on("pageerror", lambda error: shown.messages.append(str(error)))
    shown.page.on("request", lambda request: shown.requests.append(request.url))
    shown.page.goto(report.as_uri())
    return shown


@pytest.fixture
def wide(browser: Browser, report: Path) -> Iterator[Shown]:
    shown = show(browser, report, 1280)
    yield shown
    shown.page.context.close()


def test_no_width_makes_the_page_scroll_sideways(wide: Shown) -> None:
    for width in (320, 390, 768, 1280, 1920):
        wide.page.set_viewport_size({"width": width, "height": 800})
        assert wide.ask("document.documentElement.scrollWidth") <= width
        assert wide.ask(OUTSIDE) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser: Browser, report: Path, scheme: Scheme) -> None:
    shown = show(browser, report, 1280, scheme)
    shown.ask("document.querySelectorAll('details').forEach(e => e.open = true)")
    contrasts = shown.ask(CONTRASTS)
    assert len(contrasts) > 200 and any(text["svg"] for text in contrasts)
    assert [text for text in contrasts if text["ratio"] < 4.5] == []
    ground = shown.ask("getComputedStyle(document.documentElement).backgroundColor.match(/[0-9]+/g).map(Number)")
    shown.page.context.close()
    assert max(ground) < 64 if scheme == "dark" else min(ground) > 192


def test_it_asks_for_nothing_and_says_nothing(wide: Shown, report: Path) -> None:
    wide.page.mouse.wheel(0, 20_000)
    wide.page.wait_for_load_state("networkidle")
    assert wide.requests == [report.as_uri()]
    assert wide.messages == []
    assert "owned" not in wide.page.title()
    assert report.stat().st_size <= MAX_BYTES


def test_what_is_forbidden_is_not_loaded(browser: Browser, report: Path, tmp_path: Path) -> None:
    """The policy holds: what an enemy would bring in, had he a way, is not asked for."""
    parts = report.read_text("utf-8").split("</main>")
    alien = "<img src=http://127.0.0.1:9/a><script>document.title = 'owned'</script><iframe src=http://127.0.0.1:9/b></iframe>"
    (tmp_path / REPORT).write_text(f"{parts[0]}{alien}</main>{parts[1]}", "utf-8")
    shown = show(browser, tmp_path / REPORT, 1280)
    assert shown.page.title() != "owned"
    assert len(shown.messages) >= 3 and all("Content Security Policy" in message for message in shown.messages)
    shown.page.context.close()


def test_every_figure_is_drawn_and_seen(wide: Shown) -> None:
    figures = wide.ask(
        """[...document.querySelectorAll('figure')].map(f => ({
            title: f.querySelector('h3').textContent, caption: f.querySelector('figcaption').textContent,
            box: f.querySelector('svg')?.getBoundingClientRect().toJSON(),
            shapes: f.querySelectorAll('svg path, svg use, svg text, svg image').length}))"""
    )
    assert len(figures) >= 3
    # Of cells with one block size the throughput is not drawn, and the caption says so.
    drawn = [figure for figure in figures if figure.get("box")]
    assert all(figure["caption"].startswith("Not drawn") for figure in figures if not figure.get("box"))
    assert len(drawn) >= 3
    for figure in drawn:
        assert figure["title"] and figure["caption"]
        assert figure["box"]["width"] > 300 and figure["box"]["height"] > 100 and figure["shapes"] > 10, figure


def test_figures_stay_legible_on_a_phone(browser: Browser, report: Path) -> None:
    """Their letters are not shrunk with the screen: the figure scrolls in its box instead."""
    shown = show(browser, report, 320)
    heights = shown.ask(
        """[...document.querySelectorAll('figure svg text')].filter(t => t.textContent.trim())
            .map(t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)"""
    )
    shown.page.context.close()
    assert heights and min(abs(height) for height in heights if height) >= 7


def test_series_can_be_told_from_the_ground(wide: Shown) -> None:
    for scheme in ("light", "dark"):
        wide.page.emulate_media(color_scheme=scheme)
        ratios = wide.ask(
            """() => {
              const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
              const probe = document.body.appendChild(document.createElement('i'));
              const luminance = name => { probe.style.color = `var(${name})`;
                const c = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number);
                return 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]) };
              const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
              return [1, 2, 3, 4, 5, 6, 7, 8].map(n => ratio(luminance(`--series-${n}`), luminance('--card')));
            }"""
        )
        assert min(ratios) >= 3, (scheme, ratios)


def test_headings_go_down_one_step_at_a_time(wide: Shown) -> None:
    levels = wide.ask("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => Number(h.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))


def test_a_keyboard_reaches_contents_and_boxes_that_scroll(wide: Shown) -> None:
    wide.page.keyboard.press("Tab")
    assert wide.ask("document.activeElement.className") == "skip"
    assert wide.ask("document.activeElement.getBoundingClientRect().top >= 0")
    wide.page.keyboard.press("Enter")
    assert wide.page.url.endswith("#verdict")
    assert wide.ask("[...document.querySelectorAll('.scroll:has(table, svg)')].every(e => e.tabIndex === 0)")


def test_print_is_light_whole_and_as_wide_as_the_paper(browser: Browser, report: Path) -> None:
    shown = show(browser, report, A4_PX, "dark")
    shown.page.emulate_media(media="print", color_scheme="dark")
    assert shown.ask("document.documentElement.scrollWidth") <= A4_PX
    assert shown.ask(OUTSIDE) == []
    assert [text for text in shown.ask(CONTRASTS) if text["ratio"] < 4.5] == []
    assert shown.ask("getComputedStyle(document.body).color") == "rgb(29, 33, 38)"
    assert shown.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert shown.ask("[...document.querySelectorAll('details pre')].map(e => e.checkVisibility())") in (
        [True],
        [True] * 2,
    )
    for element in ("figure", ".block:not(.long)", "tr", ".card"):
        assert shown.ask(f"getComputedStyle(document.querySelector('{element}')).breakInside") == "avoid"
    assert "report/tables/" in shown.ask("getComputedStyle(document.querySelector('.files a'), '::after').content")
    assert len(shown.page.pdf(format="A4")) > 10_000
    shown.page.context.close()


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="there is no pdftotext on PATH (Debian's poppler-utils)")
def test_no_heading_is_parted_from_what_it_heads(wide: Shown, tmp_path: Path) -> None:
    wide.page.pdf(path=tmp_path / "report.pdf", format="A4")
    command = ["pdftotext", "-layout", str(tmp_path / "report.pdf"), "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [page.strip().splitlines()[-1].strip() for page in text.split("\f") if page.strip()]
    headings = {" ".join(heading.split()) for heading in wide.page.locator("h2, h3").all_inner_texts()}
    assert len(lines) > 3 and len(headings) > 10
    assert not [line for line in lines if " ".join(line.split()) in headings]
