"""The DataFrames of a run: columns and types as documented, equal however a line was parsed, and the derived ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.telemetry.line_protocol import MalformedLine, parse_fields, split_line

from analysis import Run, load, spools
from analysis.bulk import parse_bulk
from analysis.points import Batch, PointTables, Series, make_column
from analysis.schema import SCHEMAS
from tests.analysis.synthetic import BASE_NS, MS, Plan, digest_of, make_run, open_recorder

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "analysis.md"
FRAMES = {
    "transactions": "transaction",
    "blocks": "block",
    "votes": "vote",
    "messages": "messages",
    "peers": "peer",
    "boards": "board",
    "processes": "process",
    "spools": "spool",
}
DERIVED = ("epochs", "clocks", "rounds")
SERIES = {name: Series(name, "c", "v", "h", "e" if schema.tag else "") for name, schema in SCHEMAS.items()}


def test_columns_and_types_are_those_of_the_manual(tmp_path: Path) -> None:
    run = load(make_run(tmp_path))
    text = MANUAL.read_text()
    for name in (*FRAMES, *DERIVED):
        section = text.split(f"### `{name}`")[1].split("\n### ")[0].split("\n## ")[0]
        documented = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section, re.MULTILINE))
        frame: pd.DataFrame = getattr(run, name)
        common = {"cell": "category", "validator": "category", "host": "category", "time": "int64"}
        expected = common | documented if name in FRAMES else documented
        assert {column: str(dtype) for column, dtype in frame.dtypes.items()} == expected, name
        assert list(frame.columns) == list(expected), name


def test_frames_without_a_point_have_the_same_columns_and_types(tmp_path: Path) -> None:
    (tmp_path / "run/cells").mkdir(parents=True)
    empty, full = load(tmp_path / "run"), load(make_run(tmp_path))
    for name in (*FRAMES, *DERIVED):
        ours, theirs = getattr(empty, name), getattr(full, name)
        assert ours.empty
        assert list(ours.columns) == list(theirs.columns)
        assert ours.dtypes.astype(str).tolist() == theirs.dtypes.astype(str).tolist(), name


def test_rows_are_in_order_of_cell_validator_and_time(tmp_path: Path) -> None:
    run = load(make_run(tmp_path, Plan(cell="b"), Plan(cell="a", hosts=("x", "y"))))
    for name, measurement in FRAMES.items():
        frame: pd.DataFrame = getattr(run, name)
        tag = SCHEMAS[measurement].tag
        keys = ["cell", "validator", "time", *([tag] if tag else [])]
        in_order = frame.astype({key: str for key in keys if key != "time"}).sort_values(keys, kind="stable")
        assert in_order.index.tolist() == list(range(len(frame))), name


# --- one parser, two ways ---------------------------------------------------------------------------------------------


def test_parsing_in_bulk_and_line_by_line_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_run(tmp_path, Plan(hosts=("x", "y")))
    recorder = open_recorder(path / "cells/k4-b128k/nodes/validator-1/spool", Plan(), "validator-1", "x")
    recorder.board(BASE_NS)
    recorder.close(BASE_NS + 10**7 * MS)
    parsed: list[bool] = []

    def spy(series: Series, lines: list[str], tables: PointTables) -> Batch | None:
        batch = parse_bulk(series, lines, tables)
        parsed.append(batch is not None)
        return batch

    monkeypatch.setattr(spools, "parse_bulk", spy)
    in_bulk = load(path)
    assert all(parsed)  # what nodes write is what is parsed fast
    monkeypatch.setattr(spools, "parse_bulk", lambda *_: None)
    singly = load(path)
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(in_bulk, name), getattr(singly, name), obj=name)
    assert in_bulk.sessions == singly.sessions


NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65).map(str), st.floats().map(repr), st.sampled_from(["1.", ".5", "1e999"])
)
VALUES = st.one_of(
    NUMBERS,
    NUMBERS.map("{}i".format),
    st.text(max_size=5).map('"{}"'.format),
    st.sampled_from(["true", "f", "TRUE", ""]),
)


@given(st.sampled_from(sorted(SCHEMAS)), st.data())
def test_what_is_parsed_in_bulk_the_full_parser_reads_the_same(measurement: str, data: st.DataObject) -> None:
    schema = SCHEMAS[measurement]
    optional = [name for name in schema.optional if data.draw(st.booleans())]
    good = {int: st.integers(-(2**63), 2**63 - 1).map("{}i".format), bool: st.sampled_from(["true", "false"])}
    good |= {str: st.text(min_size=1, max_size=5).map('"{}"'.format), float: st.floats(0, 1e9).map(repr)}
    fields = [
        f"{name}={data.draw(st.one_of(good[schema.fields[name]], VALUES))}" for name in (*schema.required, *optional)
    ]
    line = f"{','.join(fields)} {data.draw(st.one_of(st.integers(-(2**64), 2**64).map(str), st.just('x')))}"
    if "\n" in line:
        return
    batch = parse_bulk(SERIES[measurement], [line], PointTables())
    try:
        _, field_set, time = split_line(f"{measurement} {line}")
        parsed = parse_fields(field_set)
    except MalformedLine:
        assert batch is None
        return
    if batch is not None:
        assert batch.times.tolist() == [time]
        for name, column in zip(schema.fields, batch.columns, strict=True):
            values = None if column is None else column.values.tolist()[0]
            assert values == parsed.get(name), name
            assert values is None or schema.allows(name, type(parsed[name]))


def test_absent_values_have_their_place() -> None:
    column = make_column(int, [1, None, 3])
    assert column is not None and column.absent is not None
    assert column.values[[0, 2]].tolist() == [1, 3] and column.absent.tolist() == [False, True, False]
    assert make_column(str, [None, None]) is None
    with pytest.raises(OverflowError):
        make_column(int, [2**63])


def test_a_spool_of_endless_series_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "_MAX_SERIES", 10)
    path = make_run(tmp_path)
    (segment,) = (path / "cells/k4-b128k/nodes/validator-2/spool").iterdir()
    tags = f"run={path.name},cell=k4-b128k,validator=validator-2"
    fields = "cpu_user_s=1,cpu_system_s=1,rss_bytes=1i,threads=1i"
    lines = "".join(f"process,{tags},host=h{number} {fields} {number}\n" for number in range(100))
    segment.write_text(lines + segment.read_text())
    run = load(path)
    assert run.processes["host"].nunique() == 10
    assert any("a point of too many series" in str(problem) for problem in run.cells["k4-b128k"].problems)


def test_a_host_whose_name_has_to_be_escaped_is_read(tmp_path: Path) -> None:
    run = load(make_run(tmp_path, Plan(hosts=("pi 1", "pi=2,b"), client_host="pi 1")))
    assert set(run.blocks["host"]) == {"pi 1", "pi=2,b"}
    assert run.cells["k4-b128k"].problems == []


def test_a_round_that_was_never_submitted_costs_the_others_no_digit(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    records = (path / "cells/k4-b128k/rounds.jsonl").read_text().splitlines()
    records[3] = records[3].replace(f'"submitted_ns":{BASE_NS + 3000 * MS}', '"submitted_ns":null')
    records[4] = records[4].replace(f"{BASE_NS + 4000 * MS}", f"{BASE_NS + 1}")
    (path / "cells/k4-b128k/rounds.jsonl").write_text("\n".join(records))
    submitted = load(path).rounds["submitted_ns"].tolist()
    assert submitted[3] is pd.NA and submitted[4] == BASE_NS + 1


# --- derived frames ---------------------------------------------------------------------------------------------------


def epoch_of(run: Run, validator: str, number: int) -> dict[str, Any]:
    frame = run.epochs
    (row,) = frame[(frame["validator"] == validator) & (frame["epoch"] == number)].to_dict("records")
    return {str(name): value for name, value in row.items()}


def test_an_epoch_has_the_moments_of_its_checkpoint_on_each_validator(tmp_path: Path) -> None:
    plan = Plan()
    run = load(make_run(tmp_path, plan))
    assert len(run.epochs) == 4 * 12
    # Validator 2 of 4 in round 0 (factor 1): proposed at 25 ms, verified at half of T_bp, and so on.
    row = epoch_of(run, "validator-2", 1)
    voted = 25.0 + plan.T_bp + 0.001
    assert row["checkpoint"] == digest_of(plan.cell, "block", 0).hex()
    assert (row["height"], row["votes"]) == (1, 1)  # no votes of others are in these points
    expected = {"verified": 25.0 + plan.T_bp / 2, "first_vote": voted, "voted": voted}
    expected |= {"justified": 25.0 + plan.T_bp + plan.T_cf / 2, "finalized": plan.finality / 2}
    assert {name: row[name] for name in expected} == {name: BASE_NS + round(at * MS) for name, at in expected.items()}
    # The proposer has its block verified by proposing.
    assert epoch_of(run, "validator-1", 1)["verified"] == BASE_NS + 25 * MS


def test_an_epoch_without_justification_names_the_block_that_was_voted_for(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (segment,) = (path / "cells/k4-b128k/nodes/validator-3/spool").iterdir()
    block = digest_of("k4-b128k", "block", 4).hex()
    lines = segment.read_text().splitlines(True)
    segment.write_text("".join(line for line in lines if not (line.startswith("block,") and block in line)))
    row = epoch_of(load(path), "validator-3", 5)
    assert row["checkpoint"] == block and row["height"] == 5
    assert all(pd.isna(row[moment]) for moment in ("verified", "justified", "finalized"))
    assert row["voted"] == row["first_vote"] > BASE_NS


def test_clocks_are_the_offsets_to_the_reference_and_right_within_their_bounds(tmp_path: Path) -> None:
    skew = {"b": 40.0, "c": -7.5}
    plan = Plan(validators=5, hosts=("a", "b", "c", "a"), skew_ms=skew, client_host="d", measure_clocks=True)
    clocks = load(make_run(tmp_path, plan)).clocks
    assert set(clocks["reference"]) == {"a"} and clocks["reachable"].all()
    for host in ("a", "b", "c"):
        rows = clocks[clocks["host"] == host]
        error = (rows["offset_ns"] - round(skew.get(host, 0.0) * MS)).abs().astype("float64")
        assert (error <= rows["bound_ns"]).all(), host
    reference = clocks[clocks["host"] == "a"]
    assert (reference["offset_ns"] == 0).all() and (reference["bound_ns"] == 0).all()


def test_a_host_whose_clock_was_never_compared_is_unreachable(tmp_path: Path) -> None:
    clocks = load(make_run(tmp_path, Plan(hosts=("a", "b"), client_host="a", measure_clocks=False))).clocks
    lost = clocks[clocks["host"] == "b"]
    assert len(lost) and not lost["reachable"].any()
    assert lost["offset_ns"].isna().all() and np.isnan(lost["bound_ns"]).all()
    assert clocks.loc[clocks["host"] == "a", "reachable"].all()


def test_the_least_and_the_greatest_times_are_no_crash(tmp_path: Path) -> None:
    path = make_run(tmp_path, Plan(hosts=("x", "y")))
    (segment,) = (path / "cells/k4-b128k/nodes/validator-2/spool").iterdir()
    tags = f"run={path.name},cell=k4-b128k,validator=validator-2,host=y"
    whole = 'id="ab",height=1i,slot=1i,epoch=1i,proposer="p",size=1i,transactions=1i'
    lines = [f"block,{tags},event=verified {whole} {time}\n" for time in (-(2**63), 2**63 - 1)]
    measured = "rtt_ns=1i,offset_ns=9223372036854775807i,bound_ns=-9223372036854775808i"
    lines += [f"peer,{tags},peer=validator-1 {measured} {time}\n" for time in (-(2**63), 2**63 - 1)]
    segment.write_text("".join(lines) + segment.read_text())
    run = load(path)
    assert len(run.blocks[run.blocks["time"] == 2**63 - 1]) == 1
    assert len(run.clocks) == 3 * 33 and len(run.epochs) == 48
