"""A run read from InfluxDB: the same DataFrames as from its spools, on real servers of both generations."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from microchain.telemetry.line_protocol import FieldValue, encode_fields

from analysis import Run, SourceError, load
from analysis.__main__ import main
from analysis.causes import Cause
from analysis.report import analyse
from analysis.verdict import Level
from tests.analysis.synthetic import BASE_NS, MS, RUN, Plan, make_run, open_recorder, read
from tests.influx.servers import InfluxServer

FRAMES = ("transactions", "blocks", "votes", "messages", "peers", "boards", "processes", "spools")
DERIVED = ("epochs", "clocks", "rounds")
CELLS = (
    Plan(rounds=12),
    Plan(cell="k5-b64k", validators=5, hosts=("pi-1", "pi-2", "pi-3"), skew_ms={"pi-2": 40.0, "pi-3": -7.5}),
)
SERIES = f"cell=k4-b128k,event=verified,host=bench,run={RUN},validator=validator-2"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of two cells that has every kind of point, with all that makes reading hard."""
    path = make_run(tmp_path, *CELLS)
    spool = path / "cells/k4-b128k/nodes/validator-2/spool"
    recorder = open_recorder(spool, CELLS[0], "validator-2", "bench")
    recorder.board(BASE_NS + 500 * MS)  # this machine's
    recorder.close(BASE_NS + 10**7 * MS)
    fields: dict[str, FieldValue | None] = {
        "id": "ab" * 32,
        "height": 9,
        "slot": 1,
        "epoch": 9,
        "proposer": "validator-1",
        "size": 0,
    }
    odd = ['a "quoted", odd text \\ with = and \\"', "päckchen, größer 🦔", " edges ", "#datatype,string", "true"]
    lines = [
        f"block,{SERIES} {encode_fields({**fields, 'transactions': 2**63 - 1, 'detail': text})} {BASE_NS + number}\n"
        for number, text in enumerate(odd)
    ]
    board = f"board,{SERIES.replace('event=verified,', '')} "
    sensors = "temperature_c=48.3,frequency_hz=1400000000i,throttled=327685i,under_voltage_now=true"
    machine = "cpu_percent=1e-7,load1=0.1,memory_total_bytes=1i,memory_available_bytes=-9223372036854775808i"
    lines += [f"{board}{machine},{sensors} {BASE_NS + 7}\n", f"{board}{machine},throttled=0i {BASE_NS + 8}\n"]
    last = sorted(spool.iterdir())[0]
    last.write_text(last.read_text() + "".join(lines))
    return path


def fill(server: InfluxServer, run_dir: Path) -> None:
    for path in sorted(run_dir.glob("cells/*/nodes/*/spool/*.lp")) + sorted(run_dir.glob("cells/*/client/*.lp")):
        server.write(path.read_text())


def read_both(server: InfluxServer, run_dir: Path) -> tuple[Run, Run]:
    return load(run_dir), load(str(run_dir), source="influxdb", connection=str(server.connection_file))


def test_both_sources_give_identical_frames(influx_server: InfluxServer, run_dir: Path) -> None:
    fill(influx_server, run_dir)
    spools, influx = read_both(influx_server, run_dir)
    for name in (*FRAMES, *DERIVED):
        ours, theirs = getattr(spools, name), getattr(influx, name)
        assert len(ours), name
        pd.testing.assert_frame_equal(theirs, ours, check_exact=True, obj=name)
    details = influx.blocks["detail"].dropna().tolist()
    assert details[:2] == ['a "quoted", odd text \\ with = and \\"', "päckchen, größer 🦔"]
    assert influx.boards["throttled"].dropna().tolist() == [327685, 0]
    assert (influx.source, influx.sessions) == ("influxdb", [])


def test_the_verdict_says_that_the_spools_were_not_read(influx_server: InfluxServer, tmp_path: Path) -> None:
    path = make_run(tmp_path)
    fill(influx_server, path)
    spools, influx = (analyse(run) for run in read_both(influx_server, path))
    assert spools.verdict.level is Level.VALID
    assert [reason.cause for reason in influx.verdict.reasons] == [Cause.SPOOLS_NOT_READ]
    assert influx.verdict.level is Level.SUSPECT
    assert [table.rows for table in influx.tables] == [table.rows for table in spools.tables]


def test_points_that_are_not_there_and_processes_that_were_killed_are_reasons(
    influx_server: InfluxServer, tmp_path: Path
) -> None:
    path = make_run(tmp_path)
    for name, keep in (("validator-1", slice(10, None)), ("validator-2", slice(0, -1))):
        (segment,) = (path / "cells/k4-b128k/nodes" / name / "spool").iterdir()
        segment.write_text("".join(segment.read_text().splitlines(True)[keep]))
    fill(influx_server, path)
    lines = "\n".join(analyse(read_both(influx_server, path)[1]).verdict.lines())
    assert "10 of " in lines and "points of validator-1 are not in InfluxDB" in lines
    assert "validator-2 has" not in lines and "the points of validator-2 end with no closing report" not in lines


def test_a_process_that_reported_and_was_killed_has_no_closing_report(
    influx_server: InfluxServer, tmp_path: Path
) -> None:
    path = make_run(tmp_path)
    recorder = open_recorder(path / "cells/k4-b128k/nodes/validator-3/spool", Plan(), "validator-3", "bench")
    recorder.board(BASE_NS + 10**7 * MS)
    recorder.spool.flush()
    fill(influx_server, path)
    lines = "\n".join(analyse(read_both(influx_server, path)[1]).verdict.lines())
    assert "the points of validator-3 end with no closing report" in lines


def test_what_is_no_point_of_the_schema_is_counted_and_left_out(influx_server: InfluxServer, tmp_path: Path) -> None:
    path = make_run(tmp_path)
    fill(influx_server, path)
    stranger = SERIES.replace("validator-2", "validator-9")
    whole = 'id="ab",height=1i,slot=1i,epoch=1i,proposer="p",size=1i,transactions=1i'
    influx_server.write(
        [
            f"block,{SERIES} height=1i {BASE_NS + 1}",
            f"block,{stranger} {whole} {BASE_NS + 1}",
            f"block,{SERIES.replace('host=bench,', '')} {whole} {BASE_NS + 1}",
            f"block,{SERIES.replace('cell=k4-b128k', 'cell=other')} {whole} {BASE_NS + 1}",
            f"weather,{SERIES} degrees=5i {BASE_NS + 1}",
        ]
    )
    spools, influx = read_both(influx_server, path)
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(influx, name), getattr(spools, name), obj=name)
    problems = [str(problem) for problem in influx.cells["k4-b128k"].problems]
    place = f"InfluxDB bucket {influx_server.connection.bucket}, block of k4-b128k"
    assert f"{place}: block without its fields (1)" in problems
    assert f"{place}: block without its tags (7)" in problems
    assert f"{place}: values of a validator that the cell does not have (7)" in problems
    assert Cause.INFLUXDB_DIFFERS in [reason.cause for reason in analyse(influx).verdict.reasons]


def test_points_of_an_earlier_attempt_are_left_out(influx_server: InfluxServer, tmp_path: Path) -> None:
    path = make_run(tmp_path)
    fill(influx_server, path)
    cell = path / "cells/k4-b128k"
    (cell / "attempts/1").mkdir(parents=True)
    for segment in [*cell.glob("nodes/*/spool/*.lp"), *cell.glob("client/*.lp")]:
        segment.rename(segment.with_name(f"{BASE_NS - MS:020d}-000000.lp"))
    old = BASE_NS - 3600 * 1000 * MS
    influx_server.write(f'block,{SERIES} id="ab",height=1i,slot=1i,epoch=1i,proposer="p",size=1i,transactions=1i {old}')
    spools, influx = read_both(influx_server, path)
    pd.testing.assert_frame_equal(influx.blocks, spools.blocks)
    (problem,) = influx.cells["k4-b128k"].problems
    assert problem.text == "points of an earlier attempt at the cell (1)"


def test_a_server_that_can_not_be_asked_is_one_sentence(
    own_influx_server: InfluxServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run(tmp_path)
    file = own_influx_server.connection_file
    document = file.read_text()
    arguments = [str(path), "--source", "influxdb", "--connection", str(file)]
    file.write_text(document.replace(own_influx_server.connection.read_token, "nobody:nothing"))
    assert main(arguments) == 2
    assert "its read_token is not accepted (HTTP 401)" in capsys.readouterr().err
    file.write_text(document)
    own_influx_server.stop()
    with pytest.raises(SourceError, match="can't be reached"):
        load(path, source="influxdb", connection=file)
    own_influx_server.start()
    assert main(arguments) == 2
    assert "holds no point of this run" in capsys.readouterr().err


def test_the_command_reads_from_either_source(influx_server: InfluxServer, tmp_path: Path) -> None:
    path = make_run(tmp_path)
    fill(influx_server, path)
    assert main([str(path)]) == 0
    figures, verdict = read(path / "figures.json"), read(path / "verdict.json")
    (path / "figures.json").unlink()
    arguments = [str(path), "--source", "influxdb", "--connection", str(influx_server.connection_file)]
    assert main(arguments) == 0
    assert not (path / "figures.json").exists()
    assert read(path / "verdict.json") == verdict  # of the spools still: InfluxDB's would be SUSPECT
    assert main([*arguments, "--report"]) == 0
    assert read(path / "figures.json") == figures
    assert read(path / "verdict.json") != verdict
