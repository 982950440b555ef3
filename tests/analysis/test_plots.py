"""Figures: what is drawn and what is left out with a reason, as SVG for any ground and as PNG."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import rc_context
from msgspec import structs
from PIL import Image

import analysis.plots.catalogue as catalogue
import analysis.plots.choice as choice
from analysis import load
from analysis.html_svg import inline_svg
from analysis.plots import PlottedFigure, build_figures
from analysis.plots.choice import MAX_CELLS, choose_cells, describe_choice
from analysis.plots.distributions import draw_distributions
from analysis.plots.drawing import INK, MAX_POINTS, SERIES, label, style, thin, to_png, to_svg
from analysis.report import analyse
from analysis.statistics import Array
from tests.analysis.synthetic import RUN, Plan, make_run, write

ROOT = Path(__file__).parents[2]


def figures_of(path: Path) -> dict[str, PlottedFigure]:
    run = load(path)
    return {figure.name: figure for figure in build_figures(run, analyse(run))}


def growing() -> list[Plan]:
    return [
        Plan(validators=k, cell=f"k{k:02}", T_ct=5 + 3.0 * k, T_bp=3 + 0.2 * k * k, T_cf=2 + 0.5 * k * k, rounds=10)
        for k in (4, 8, 12, 16)
    ]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PlottedFigure]:
    """The figures of a run with four committee sizes on one host."""
    path = make_run(tmp_path_factory.mktemp("drawn"), *growing())
    for k in (4, 8, 12, 16):
        write(path / f"cells/k{k:02}/genesis.json", {"registry": [{"role": "validator", "credit": 100}] * k})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "MAX_CELLS", 2)
        return figures_of(path)


def texts(svg: str) -> list[str]:
    return [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")
    ]


def test_every_kind_of_figure_is_drawn_or_says_why_not(drawn: dict[str, PlottedFigure]) -> None:
    assert [name for name, figure in drawn.items() if figure.svg] == [
        "growth-b131072-t1024",
        "distribution-b131072-t1024",
        "traffic-b131072-t1024",
        *(f"series-k{k:02}" for k in (4, 16)),
        *(f"validators-k{k:02}" for k in (4, 16)),
    ]
    absent = {name: figure.caption for name, figure in drawn.items() if not figure.svg}
    assert absent == {
        "throughput": "Not drawn: all blocks were of one size, 128 KB.",
        "clocks": "Not drawn: all processes of a cell ran on one host, and share its clock.",
    }
    assert all(figure.png == b"" for figure in drawn.values() if not figure.svg)


def test_an_svg_takes_its_colours_from_the_page(drawn: dict[str, PlottedFigure]) -> None:
    for figure in (figure for figure in drawn.values() if figure.svg):
        root = ElementTree.fromstring(figure.svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        bare = re.sub(r"var\(--series-\d, (#[0-9a-f]{6})\)", "", figure.svg)
        assert "currentColor" in bare
        assert INK not in bare and not any(color in bare for color in SERIES)
        if figure.section != "validators":  # the heat map's own colours stay
            assert not set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{3,6})", bare)), figure.name
        assert "<!DOCTYPE" not in figure.svg and "<?xml" not in figure.svg
        inline_svg(figure.svg, figure.name, figure.title)
    assert "var(--series-1, #1f5fa8)" in drawn["growth-b131072-t1024"].svg


def test_a_png_stands_on_white(drawn: dict[str, PlottedFigure]) -> None:
    for figure in (figure for figure in drawn.values() if figure.png):
        image = Image.open(io.BytesIO(figure.png)).convert("RGBA")
        assert image.width > 900
        corners = {image.getpixel(at) for at in ((0, 0), (image.width - 1, image.height - 1))}
        assert corners == {(255, 255, 255, 255)}


def test_a_figure_says_in_words_what_is_to_be_seen(drawn: dict[str, PlottedFigure]) -> None:
    growth = drawn["growth-b131072-t1024"].caption
    assert "T_ct is closest to a + b·K" in growth and "T_cf is closest to a + b·K²" in growth
    assert "the chapter claims K²/E(D), as here" in growth and "other machines" in growth
    assert "Messages grow, by least squares: voting as K²." in drawn["traffic-b131072-t1024"].caption
    assert "at most 1" in drawn["series-k04"].caption
    assert "Most behind: validator-4" in drawn["validators-k04"].caption
    assert all(figure.caption.endswith((".", ")")) for figure in drawn.values())


def test_axes_have_units_and_the_chapter_and_prototype_stand_beside(drawn: dict[str, PlottedFigure]) -> None:
    growth = texts(drawn["growth-b131072-t1024"].svg)
    assert {"ms", "committee size K", "chapter, 16 Pis", "prototype, one 1 KB tx", "a + b·K²"} <= set(growth)
    assert {"p50", "p90", "max", "share of samples", "K = 16"} <= set(texts(drawn["distribution-b131072-t1024"].svg))
    assert {"tx/s", "blocks", "ms", "s"} <= set(texts(drawn["series-k04"].svg))


def test_figures_are_bounded_in_size(drawn: dict[str, PlottedFigure]) -> None:
    assert max(len(figure.svg) for figure in drawn.values()) < 250_000
    assert sum(len(figure.svg) for figure in drawn.values()) < 2_000_000


def test_the_same_samples_give_the_same_files(tmp_path: Path) -> None:
    cells = analyse(load(make_run(tmp_path, Plan(rounds=3)))).cells
    with rc_context(style()):
        first, second = (draw_distributions(cells)[0].figure for _ in range(2))
        assert first is not None and second is not None
        assert to_svg(first) == to_svg(second) and to_png(first) == to_png(second)


def test_several_hosts_have_clocks_and_boards_their_health(tmp_path: Path) -> None:
    skew = {"pi-1": 5000.0, "pi-2": -321.0, "desktop": 77.0}
    plan = Plan(hosts=("pi-1", "pi-2"), client_host="desktop", skew_ms=skew, rtt_ms=0.4, cell="k4")
    path = make_run(tmp_path, plan)
    for index in range(4):
        spool = next((path / f"cells/k4/nodes/validator-{index + 1}/spool").iterdir())
        tags = f"board,cell=k4,host={plan.host(index)},run={RUN},validator=validator-{index + 1}"
        fields = "cpu_percent=50.0,load1=1.5,memory_total_bytes=1000i,memory_available_bytes=600i,temperature_c=61.5"
        flag = f",throttled=4i,throttled_now={'true' if index == 1 else 'false'}"
        points = [f"{tags} {fields}{flag} {plan.ns(plan.host(index), second * 1000.0)}\n" for second in range(12)]
        lines = spool.read_text().splitlines(True)
        spool.write_text("".join([*lines[:-1], *points, lines[-1]]))
    figures = figures_of(path)
    clocks = figures["clocks-k4"]
    assert any(text.startswith("pi-2 (-5,32") for text in texts(clocks.svg))
    assert "against that of pi-1" in clocks.caption and "the widest is ± " in clocks.caption
    boards = figures["validators-k4"]
    assert {"CPU", "memory in use", "temperature", "°C", "pi-1", "pi-2"} <= set(texts(boards.svg))
    assert "clock" not in texts(boards.svg)  # no board has a sensor for its frequency
    assert "throttled (pi-2)" in boards.caption


def test_throughput_is_drawn_by_block_size_beside_the_chapter(tmp_path: Path) -> None:
    plans = [
        Plan(validators=5, transactions=n, block_bytes=n << 10, cell=f"k5-b{n}K", rounds=3, warmup=0) for n in (32, 64)
    ]
    figure = figures_of(make_run(tmp_path, *plans))["throughput"]
    assert {"MB/h", "32 KB", "64 KB", "2 MB", "chapter, 5 Pis", "this run, K = 5, 1 KB transactions"} <= set(
        texts(figure.svg)
    )
    assert "most with 64 KB blocks" in figure.caption and "upside down" in figure.caption


def test_a_run_without_any_point_has_reasons_only(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    for spool in [*path.glob("cells/*/nodes/*/spool/*"), *path.glob("cells/*/client/*")]:
        spool.unlink()
    figures = figures_of(path)
    assert figures and not any(figure.svg for figure in figures.values())
    assert all(figure.caption.startswith("Not drawn: ") for figure in figures.values())


def test_a_run_without_cells_has_no_figures(tmp_path: Path) -> None:
    (tmp_path / "run/cells").mkdir(parents=True)
    run = load(tmp_path / "run")
    assert [figure.name for figure in build_figures(run, analyse(run)) if figure.svg] == []


def test_a_figure_that_fails_costs_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setattr(catalogue, "draw_distributions", fail)
    figures = figures_of(make_run(tmp_path, Plan(rounds=3)))
    assert figures["distribution"].svg == "" and "(ZeroDivisionError)" in figures["distribution"].caption
    assert figures["series-k4-b128k"].svg and figures["validators-k4-b128k"].svg
    assert "'Distributions' could not be drawn" in caplog.text


def test_names_from_a_run_are_text_in_a_figure(tmp_path: Path) -> None:
    path = make_run(tmp_path, Plan(rounds=3, cell="k4"))
    hostile = ("<script>alert(1)</script>", "$\\\\frac{1}{$", "\u202ehost", "机器" * 40)
    for index, name in enumerate(hostile, 1):
        for spool in (path / f"cells/k4/nodes/validator-{index}/spool").iterdir():
            spool.write_text(spool.read_text().replace("host=bench", f"host={name}"))
    figures = {name: figure for name, figure in figures_of(path).items() if figure.svg}
    assert "clocks-k4" in figures
    for figure in figures.values():
        assert "<script" not in figure.svg and "\u202e" not in figure.svg
        ElementTree.fromstring(figure.svg)


def test_a_label_is_short_and_holds_no_control_characters() -> None:
    assert label("a\x1b[31m\u202eb") == "a\ufffd[31m\ufffdb"
    assert len(label("x" * 1000)) == 40 and label("x" * 1000).endswith("…")


def sawtooth(count: int) -> tuple[Array, Array]:
    x = np.arange(count, dtype=np.float64)
    return x, x % 97


def test_thinning_keeps_order_and_extremes() -> None:
    x, y = sawtooth(100_000)
    y[51_234] = 1e6
    few_x, few_y = thin(x, y)
    assert len(few_x) <= MAX_POINTS and (np.diff(few_x) > 0).all()
    assert few_y.max() == 1e6 and few_y.min() == 0.0
    same_x, same_y = thin(*sawtooth(100))
    assert len(same_x) == len(same_y) == 100
    assert len(thin(np.array([0.0, np.nan]), np.array([np.nan, 1.0]))[0]) == 0


def test_of_many_cells_a_few_are_drawn_the_smallest_and_the_largest_among_them(tmp_path: Path) -> None:
    (cell,) = analyse(load(make_run(tmp_path, Plan(rounds=1, warmup=0)))).cells
    cells = [
        replace(cell, spec=structs.replace(cell.spec, id=f"k{k:02}-r{repeat}", validators=("v",) * k))
        for k in range(10, 3, -1)
        for repeat in (1, 2)
    ]
    chosen = [cell.spec.id for cell in choose_cells(cells)]
    assert chosen == ["k04-r1", "k06-r1", "k08-r1", "k10-r1"] and len(chosen) == MAX_CELLS
    assert describe_choice(cells) == " Of 14 cells, 4 are drawn like this."
    assert describe_choice(cells[:1]) == ""


def test_an_analysis_without_figures_does_not_load_matplotlib() -> None:
    code = "import sys, analysis.__main__, analysis.report, analysis.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
