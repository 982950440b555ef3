"""Tables of a run whose figures are known: quantiles, growth, traffic and the boards' health."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import load
from analysis.credits import read_mean_credits
from analysis.data_table import DataTable
from analysis.rates import RateFigures
from analysis.report import analyse
from analysis.tables.quantiles import rate_quantile_table
from analysis.tables.throughput import rate_table
from tests.analysis.synthetic import RUN, Plan, make_run, write

SIZES = (4, 8, 12, 16)


def tables_of(path: Path) -> dict[str, DataTable]:
    return {table.name: table for table in analyse(load(path)).tables}


def growing(T_cf: Callable[[int], float], sizes: tuple[int, ...] = SIZES) -> list[Plan]:
    return [
        Plan(
            validators=k,
            cell=f"k{k:02}",
            T_ct=5 + 3.0 * k,
            T_bp=3 + 0.2 * k * k,
            T_cf=T_cf(k),
            finality=1000.0,
            rounds=10,
        )
        for k in sizes
    ]


def write_genesis(path: Path, credits: dict[str, list[float]]) -> None:
    for cell, values in credits.items():
        registry = [{"name": "x", "role": "validator", "credit": value} for value in values]
        devices = [{"name": "d", "role": "device", "credit": 1e6}]
        write(path / f"cells/{cell}/genesis.json", {"registry": registry + devices})


def test_quantiles_have_intervals_and_p99_only_from_a_hundred_rounds(tmp_path: Path) -> None:
    few = tables_of(make_run(tmp_path / "few", Plan(rounds=20)))["quantiles-b131072-t1024"]
    assert few.rows[0] == ["4", "T_ct", "20", "24.0 [22.0, 26.0]", "28.0 [26.0, …]", "— (1)", "28.0"]
    assert "(1) a 99th percentile needs at least 100 samples" in few.notes
    many = tables_of(make_run(tmp_path / "many", Plan(rounds=100)))["quantiles-b131072-t1024"]
    assert many.rows[0] == ["4", "T_ct", "100", "24.0 [22.0, 26.0]", "28.0 [28.0, 28.0]", "28.0 [28.0, …]", "28.0"]


def test_engines_stand_side_by_side(tmp_path: Path) -> None:
    plans = [Plan(cell="a", T_cf=10.0), Plan(cell="b", T_cf=30.0, engine="pbft")]
    tables = tables_of(make_run(tmp_path, *plans))
    latency, quantiles = tables["latency-b131072-t1024"], tables["quantiles-b131072-t1024"]
    assert [column.label for column in latency.columns[:3]] == ["K", "engine", "measured by"]
    own = [row for row in latency.rows if row[0] == "4"]
    assert [row[1] for row in own] == ["microchain", "pbft"]
    assert own[0][5] != own[1][5]
    assert {row[1] for row in quantiles.rows} == {"microchain", "pbft", ""}
    assert [row[3] for row in tables["throughput"].rows if row[0] == "4"] == ["microchain", "pbft"]


def test_quantiles_are_refused_where_the_figure_is(tmp_path: Path) -> None:
    plan = Plan(hosts=("pi-1", "pi-2"), client_host="pi-1", rtt_ms=30.0)
    table = tables_of(make_run(tmp_path, plan))["quantiles-b131072-t1024"]
    assert table.rows[0][1:] == ["T_ct", "10", "— (1)", "— (1)", "— (1)", "— (1)"]
    assert table.notes[0].startswith("(1) the clocks agree only to ± ")


@pytest.mark.parametrize(("count", "shown"), [(99, "— (1)"), (100, "99.0")])
def test_an_offered_rate_has_a_p99_only_from_a_hundred_transactions(tmp_path: Path, count: int, shown: str) -> None:
    (cell,) = analyse(load(make_run(tmp_path))).cells
    latency = pd.Series([1.0] * (count - 2) + [99.0] * 2)
    open_loop = replace(cell, rounds=None, rate=RateFigures(latency, latency * 0, 100.0, 100.0))
    rate, quantiles = rate_table([open_loop], "a board"), rate_quantile_table([open_loop], "a board")
    assert rate.rows[0][4:] == ["1.0", "1.0", shown, "none"]
    assert quantiles.rows[0][2] == str(count) and quantiles.rows[0][-2].split(" [")[0] == shown
    for table in (rate, quantiles):
        assert ("(1) a 99th percentile needs at least 100 samples" in table.notes) is (count < 100)


def test_growth_finds_the_term_of_each_phase_beside_the_chapter_s_claim(tmp_path: Path) -> None:
    path = make_run(tmp_path, *growing(lambda k: 2 + 0.5 * k * k))
    write_genesis(path, {f"k{k:02}": [100.0] * k for k in SIZES})
    table = tables_of(path)["growth-b131072-t1024"]
    best = {row[0]: row[1:] for row in table.rows if row[0]}
    # The median round takes 1.2 times the plan's time.
    assert best["T_ct"][:3] == ["K", "K", "6.00"] and best["T_ct"][3].startswith("3.60 [")
    assert best["T_bp"][:3] == ["K²/E(D)", "K²", "3.60"] and best["T_bp"][3].startswith("0.240 [")
    assert best["T_cf"][:3] == ["K²", "K²", "2.40"] and best["T_cf"][3].startswith("0.600 [")
    assert [best[phase][4:6] for phase in ("T_ct", "T_bp", "T_cf")] == [["1.000", "0.0"]] * 3
    assert "E(D), the committee's mean credit, is 100 for every K: K²/E(D) grows as K²" in table.notes


def test_with_unequal_credits_the_claim_of_t_bp_stands_on_its_own(tmp_path: Path) -> None:
    path = make_run(tmp_path, *growing(lambda k: 10.0))
    write_genesis(path, {f"k{k:02}": [float(100 + k)] * k for k in SIZES})
    assert read_mean_credits(load(path)) == {k: 100.0 + k for k in SIZES}
    rows = tables_of(path)["growth-b131072-t1024"].rows
    assert {row[2] for row in rows} == {"K", "K²", "K²/E(D)"}


@pytest.mark.parametrize("content", [b"", b"{", b'{"registry": 3}', b'{"registry": []}', b"\xff", b"[" * 100_000])
def test_a_broken_genesis_document_is_no_credit(tmp_path: Path, content: bytes) -> None:
    path = make_run(tmp_path)
    (path / "cells/k4-b128k/genesis.json").write_bytes(content)
    assert read_mean_credits(load(path)) == {}


def test_growth_needs_four_sizes_and_says_so_only_where_one_may_ask(tmp_path: Path) -> None:
    two = tables_of(make_run(tmp_path / "two", *growing(lambda k: 10.0, (4, 8))))
    assert not any(name.startswith(("growth", "traffic-growth")) for name in two)
    note = "How figures grow with K is not fitted: that needs 4 committee sizes, here are 2."
    assert note in two["latency-b131072-t1024"].notes
    one = tables_of(make_run(tmp_path / "one"))
    assert not any("not fitted" in note for note in one["latency-b131072-t1024"].notes)


def test_a_phase_that_lacks_a_size_is_not_fitted_and_says_why(tmp_path: Path) -> None:
    path = make_run(tmp_path, *growing(lambda k: 10.0))
    for segment in (path / "cells/k08/nodes/validator-3/spool").iterdir():
        lines = [line for line in segment.read_text().splitlines(True) if "event=justified" not in line]
        segment.write_text("".join(lines))
    table = tables_of(path)["growth-b131072-t1024"]
    (row,) = [row for row in table.rows if row[0] == "T_cf"]
    assert row == ["T_cf", "K²", "— (1)", *["—"] * 5]
    assert "(1) a fit needs at least 4 committee sizes, and there are 3 (4, 12, 16)" in table.notes


def test_traffic_grows_as_it_was_made_to(tmp_path: Path) -> None:
    table = tables_of(make_run(tmp_path, *growing(lambda k: 10.0)))["traffic-growth-b131072-t1024"]
    # Each of K validators sends K - 1 messages a round.
    assert [row[:3] for row in table.rows] == [["voting", "messages", "K²"], ["voting", "KB", "K²"]]
    assert table.rows[0][-1] == "1.000"


def test_boards_show_what_they_have_sensors_for(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    assert "boards" not in tables_of(path)
    spool = next((path / "cells/k4-b128k/nodes/validator-2/spool").iterdir())
    lines = spool.read_text().splitlines(True)
    tags = f"board,cell=k4-b128k,host=bench,run={RUN},validator=validator-2"
    board = [
        f"{tags} cpu_percent={cpu},load1=1.5,memory_total_bytes=1000i,memory_available_bytes={free}i,"
        f"temperature_c={hot},frequency_hz=1400000000i,throttled=1i,under_voltage_now={low} {1767323045000000000 + n}\n"
        for n, (cpu, free, hot, low) in enumerate([(10.0, 900, 50.5, "false"), (30.0, 250, 61.0, "true")])
    ]
    spool.write_text("".join(lines[:-1] + board + lines[-1:]))
    (row,) = tables_of(path)["boards"].rows
    assert row == ["bench", "2", "20", "30", "1.5", "75", "61.0", "1400", "under-voltage"]


def test_figures_of_a_board_that_make_no_sense_are_left_out(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    spool = next((path / "cells/k4-b128k/nodes/validator-2/spool").iterdir())
    tags = f"board,cell=k4-b128k,host=bench,run={RUN},validator=validator-2"
    fields = "cpu_percent=5.0,load1=0.1,memory_total_bytes=0i,memory_available_bytes=-5i"
    spool.write_text(spool.read_text() + f"{tags} {fields} 1767323045000000000\n")
    table = tables_of(path)["boards"]
    assert table.rows == [["bench", "1", "5", "5", "0.1", "—", "—", "—", "—"]]
    assert "No board has a sensor for: temperature, frequency, flags." in table.notes


def test_every_table_names_the_hardware_or_needs_none(tmp_path: Path) -> None:
    for table in tables_of(make_run(tmp_path, *growing(lambda k: 10.0))).values():
        measured = any(text.startswith("Measured on: Test CPU") for text in (*table.notes, *table.sources))
        assert measured is (table.section in ("latency", "throughput")), table.name
