"""Known rounds give known figures, on one clock or on several that are wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from analysis import load
from analysis.figures import Figure, is_bound_too_wide, summarize
from analysis.report import Report, analyse
from analysis.rounds import PHASES, RoundFigures
from analysis.traffic import count_traffic
from analysis.verdict import Level
from tests.analysis.synthetic import FACTORS, Plan, make_run, read, write

EXPECTED = {"T_ct": 20.0, "T_bp": 15.0, "T_cf": 10.0, "T_bc": 45.0, "finality": 60.0}


def analysed(path: Path) -> Report:
    return analyse(load(path))


def rounds_of(report: Report) -> RoundFigures:
    figures = report.cells[0].rounds
    assert figures is not None
    return figures


def test_on_one_host_every_round_has_its_exact_latencies_without_a_bound(tmp_path: Path) -> None:
    report = analysed(make_run(tmp_path))
    frame = rounds_of(report).frame
    assert list(frame.index) == list(range(2, 12))
    for phase in PHASES:
        expected = [EXPECTED[phase] * FACTORS[number % 5] for number in frame.index]
        # Points of one moment are a nanosecond apart, so that they don't collide.
        assert frame[phase].to_list() == pytest.approx(expected, abs=1e-4)
        assert (frame[f"{phase}_bound"] == 0).all()
    assert report.verdict.level is Level.VALID, report.verdict.lines()


def test_wrong_clocks_are_corrected_within_the_bound_that_is_shown(tmp_path: Path) -> None:
    skew = {"pi-1": 5000.0, "pi-2": -321.0, "pi-3": 0.25, "desktop": 77.0}
    plan = Plan(validators=6, hosts=("pi-1", "pi-2", "pi-3"), client_host="desktop", skew_ms=skew, rtt_ms=0.8)
    report = analysed(make_run(tmp_path, plan))
    frame = rounds_of(report).frame
    for phase in PHASES:
        expected = pd.Series([EXPECTED[phase] * FACTORS[number % 5] for number in frame.index], index=frame.index)
        error = (frame[phase] - expected).abs()
        assert (error <= frame[f"{phase}_bound"]).all(), phase
        assert (frame[f"{phase}_bound"] > 0).all()
        assert (frame[f"{phase}_bound"] < 3.0).all()
    assert report.verdict.level is Level.VALID, report.verdict.lines()


def test_what_happens_on_one_host_needs_no_bound_though_the_client_is_elsewhere(tmp_path: Path) -> None:
    report = analysed(make_run(tmp_path, Plan(client_host="desktop", skew_ms={"desktop": 900.0})))
    frame = rounds_of(report).frame
    assert (frame["T_bp_bound"] == 0).all() and (frame["T_cf_bound"] == 0).all()
    assert (frame["T_ct_bound"] > 0).all()
    assert frame["T_ct"].median() == pytest.approx(24.0, abs=0.5)


def test_figures_across_hosts_whose_clocks_were_never_compared_are_not_given(tmp_path: Path) -> None:
    plan = Plan(hosts=("pi-1", "pi-2"), client_host="pi-1", skew_ms={"pi-2": 3.0}, measure_clocks=False)
    report = analysed(make_run(tmp_path, plan))
    frame = rounds_of(report).frame
    assert frame[list(PHASES)].isna().all(axis=None)
    assert report.verdict.level is Level.SUSPECT
    assert "clock of host pi-2 was never compared" in "\n".join(report.verdict.lines())


def test_a_bound_wider_than_a_tenth_is_refused(tmp_path: Path) -> None:
    plan = Plan(hosts=("pi-1", "pi-2"), client_host="pi-1", rtt_ms=30.0)
    report = analysed(make_run(tmp_path, plan))
    lines = "\n".join(report.verdict.lines())
    assert report.verdict.level is Level.SUSPECT
    assert "T_ct: the clocks' error of 7.5 ms is more than 10%" in lines
    figures = rounds_of(report)
    shown = summarize(figures.frame["T_ct"], figures.frame["T_ct_bound"])
    assert shown.text == "—" and "the clocks agree only to ± 7.5 ms" in shown.reason


def test_sampled_runs_are_measured_by_the_traced_transactions(tmp_path: Path) -> None:
    report = analysed(make_run(tmp_path, Plan(transactions=64, sample=0.25)))
    frame = rounds_of(report).frame
    assert frame["T_ct"].to_list() == pytest.approx([20.0 * FACTORS[n % 5] for n in frame.index], abs=1e-4)
    assert (frame["transactions"] == 64).all()
    assert report.verdict.level is Level.VALID, report.verdict.lines()


def test_repeats_of_a_cell_are_pooled_from_raw_samples(tmp_path: Path) -> None:
    slow = Plan(cell="k4-r2", T_ct=200.0, finality=300.0)
    path = make_run(tmp_path, Plan(cell="k4-r1"), slow)
    report = analysed(path)
    both = pd.concat([cell.rounds.frame["T_ct"] for cell in report.cells if cell.rounds is not None])
    text = printed(report)
    assert f"this run, 20 rounds, median [p90]   {both.median():.0f} [{both.quantile(0.9):.0f}]" in text


def test_timeouts_are_left_out_and_counted(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    rounds = path / "cells/k4-b128k/rounds.jsonl"
    lines = rounds.read_text().splitlines()
    lines[5] = lines[5].replace('"status":"ok"', '"status":"timeout"')
    rounds.write_text("\n".join(lines) + "\n")
    report = analysed(path)
    assert len(rounds_of(report).frame) == 9
    text = "\n".join(report.verdict.lines())
    assert "1 of 10 measured rounds timed out" in text
    assert "only 9 measured rounds" in text


def test_messages_are_counted_for_each_phase_and_across_restarts(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    run = load(path)
    traffic = count_traffic(run, run.cells["k4-b128k"])
    assert traffic.loc["voting", "sent_messages"] == 4 * 12 * 3
    assert traffic.loc["voting", "sent_bytes"] == 4 * 12 * 3 * 200
    restarted = run.messages.copy()
    late = restarted["time"] > restarted["time"].median()
    first_half = restarted[~late].groupby("validator", observed=True)["sent_messages"].max()
    restarted.loc[late, "sent_messages"] -= int(first_half.iloc[0])
    again = count_traffic(dataclasses.replace(run, messages=restarted), run.cells["k4-b128k"])
    assert again.loc["voting", "sent_messages"] == 4 * 12 * 3


def printed(report: Report) -> str:
    from rich.console import Console

    console = Console(width=200, color_system=None)
    with console.capture() as text:
        console.print(*report.renderables(), sep="\n")
    return text.get()


def test_tables_show_ours_the_prototypes_and_the_chapters_with_the_hardware(tmp_path: Path) -> None:
    text = printed(analysed(make_run(tmp_path)))
    assert "24.0 [28.0] 18.0 [21.0] 12.0 [14.0] 54.0 [63.0] 72.0 [84.0]" in " ".join(text.split())
    assert "Measured on: Test CPU, 2 cores, 4.0 GiB, Linux 6.1, Python 3.11.7, commit 0123456789ab" in text
    assert [line.split()[-5:-2] for line in text.splitlines() if "prototype, one 128 KB tx" in line] == [
        ["56", "132", "254"]
    ]
    assert [line.split()[-5:-2] for line in text.splitlines() if "chapter, 16 Pis" in line] == [["162", "500", "1400"]]


def test_throughput_is_size_over_time(tmp_path: Path) -> None:
    plan = Plan(validators=5, transactions=128, block_bytes=512 << 10, cell="k5")
    text = printed(analysed(make_run(tmp_path, plan)))
    # 128 KiB in 54 ms
    (row,) = [line for line in text.splitlines() if line.startswith(" 5   512 KB")]
    assert row.split()[-4:] == [f"{0.125 / 0.054 * 3600:.0f}", f"{128 / 0.054:.0f}", "54.0", "[63.0]"]
    (chapter,) = [line for line in text.splitlines() if "chapter, 5 Pis" in line]
    assert chapter.split()[-3:] == ["202", "—", "8900"]
    assert "upside down" in text


@pytest.mark.parametrize(
    ("board", "ratio"),
    [("Raspberry Pi 3 Model B Plus Rev 1.3", True), ("Raspberry Pi 4 Model B", False), (None, False)],
)
def test_a_ratio_to_the_chapter_needs_its_boards(tmp_path: Path, board: str | None, ratio: bool) -> None:
    path = make_run(tmp_path)
    environment = read(path / "environment.json")
    environment["host"]["board"] = board
    write(path / "environment.json", environment)
    text = printed(analysed(path))
    assert ("chapter / this run, same boards" in text) is ratio
    if ratio:
        assert f"{500 / 18:.1f} x" in text


def test_hosts_that_were_not_described_are_not_taken_for_the_control_machine(tmp_path: Path) -> None:
    report = analysed(make_run(tmp_path, Plan(hosts=("pi-1", "pi-2"), client_host="desktop")))
    assert report.hardware.startswith("hosts that were not described: pi-1, pi-2 (control machine: Test CPU")


def test_a_missing_figure_is_a_dash_with_its_reason_never_a_zero(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    for segment in (path / "cells/k4-b128k/nodes/validator-3/spool").iterdir():
        lines = [line for line in segment.read_text().splitlines(True) if "event=justified" not in line]
        segment.write_text("".join(lines))
    text = printed(analysed(path))
    (row,) = [line for line in text.splitlines() if line.startswith(" 4   this run")]
    assert row.split()[-6:] == ["—", "(1)", "—", "(1)", "72.0", "[84.0]"]
    assert "(1) no complete justified from validator-3 in 10 of 10 rounds" in text


def test_figures_are_never_given_from_nothing_or_as_zero() -> None:
    empty = pd.Series([], dtype="float64")
    assert summarize(empty, empty, ("why",)) == Figure("—", "why")
    zero = pd.Series([0.0, 0.0])
    assert summarize(zero, zero).text == "—"
    exact = pd.Series([812.0, 812.0])
    assert summarize(exact, pd.Series([3.0, 2.0])).text == "812 ± 3.0 [812]"


def test_small_figures_tolerate_a_millisecond_of_clock_error() -> None:
    assert not is_bound_too_wide(2.0, 1.0)
    assert is_bound_too_wide(2.0, 1.1)
    assert not is_bound_too_wide(100.0, 10.0)
    assert is_bound_too_wide(100.0, 10.1)
