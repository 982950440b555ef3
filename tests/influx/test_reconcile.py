"""A cell's spools and what real servers hold of them: what is equal, what is written again, and what is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from microchain.telemetry.line_protocol import FieldValue

from control.influx import store
from control.influx.connection import save_connection
from control.influx.reconcile import Equality, reconcile_cell
from control.influx.store import Store
from tests.influx.cells import VALIDATORS, CollectedCell
from tests.influx.servers import InfluxServer

_HOSTILE_TEXT = "a, b=c \"quoted\" back\\slash 'x' ${r.y} #,\t漢字 🙂 ü"


@pytest.fixture
def cell(tmp_path: Path) -> CollectedCell:
    """A cell of four validators with 40 points each, and 10 of the load generator."""
    made = CollectedCell(tmp_path)
    for name in VALIDATORS:
        made.write_spool(name, made.points(name, 25))
        made.write_spool(name, made.points(name, 15, first=25), segment=1)
    made.write_spool("client", made.points("client", 10))
    return made


def _stream(server: InfluxServer, cell: CollectedCell) -> None:
    """What the validators' shippers would have done."""
    for name in VALIDATORS:
        server.write(cell.points(name, 40))


def test_streamed_points_are_equal_and_the_load_generators_are_backfilled(
    influx_server: InfluxServer, cell: CollectedCell
) -> None:
    _stream(influx_server, cell)
    calls: list[tuple[int, int]] = []
    found = reconcile_cell(
        cell.directory, influx_server.connection_file, lambda done, total: calls.append((done, total))
    )
    assert (found.points, found.series, found.streamed, found.backfilled) == (170, 10, 160, 10)
    assert found.equal, found
    assert (found.differences, found.error, found.left_out) == ([], "", 0)
    assert calls == [(done, 5) for done in range(5)]
    record = cell.record()
    connection = influx_server.connection
    assert record["server"] == {"url": connection.url, "version": connection.version, "bucket": connection.bucket}
    assert record["equal"] is True
    assert connection.write_token not in str(record) or not connection.write_token


def test_a_comparison_made_again_writes_nothing_and_says_the_same(
    influx_server: InfluxServer, cell: CollectedCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reconcile_cell(cell.directory, influx_server.connection_file)
    monkeypatch.setattr(Store, "write", None)
    assert reconcile_cell(cell.directory, influx_server.connection_file) == first
    assert (first.streamed, first.backfilled) == (0, 170)


def test_missing_points_are_backfilled_and_only_these(influx_server: InfluxServer, cell: CollectedCell) -> None:
    _stream_all_but(influx_server, cell, {3, 4, 39})
    written: list[str] = []
    found = _reconcile_recording(cell, influx_server, written)
    assert found.equal, found
    assert (found.streamed, found.backfilled) == (157, 13)
    name = VALIDATORS[1]
    assert [line for line in written if f"validator={name}" in line] == [cell.points(name, 40)[at] for at in (3, 4, 39)]


def _stream_all_but(server: InfluxServer, cell: CollectedCell, lost: set[int]) -> None:
    for name in VALIDATORS:
        server.write([line for at, line in enumerate(cell.points(name, 40)) if name != VALIDATORS[1] or at not in lost])


def _reconcile_recording(cell: CollectedCell, server: InfluxServer, written: list[str]) -> Equality:
    original = Store.write

    def write(self: Store, lines: object) -> object:
        kept = list(lines)  # type: ignore[call-overload]
        written.extend(kept)
        return original(self, iter(kept))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", write)
        return reconcile_cell(cell.directory, server.connection_file)


def test_a_changed_value_is_found_and_repaired(influx_server: InfluxServer, cell: CollectedCell) -> None:
    _stream(influx_server, cell)
    name = VALIDATORS[2]
    influx_server.write([cell.line(name, 7000, {"height": 999}, event="accepted")])
    found = reconcile_cell(cell.directory, influx_server.connection_file)
    assert found.equal, found
    assert (found.streamed, found.backfilled) == (159, 11)


def test_points_that_no_spool_has_are_named_and_stay(influx_server: InfluxServer, cell: CollectedCell) -> None:
    _stream(influx_server, cell)
    name = VALIDATORS[0]
    influx_server.write(
        [
            cell.line(name, 999_000, {"id": "f" * 16}, event="accepted"),
            cell.line(name, 1000, {"more": 1.5}, event="accepted"),
            cell.line(name, 5, {"size": 1}, measurement="block", event="proposed"),
        ]
    )
    for _ in range(2):
        found = reconcile_cell(cell.directory, influx_server.connection_file)
        assert not found.equal
        (difference,) = found.differences
        assert difference.startswith(
            f"{name}: 3 points in InfluxDB are in no spool, the first at 2026-09-21 14:13:20 UTC"
        )
        assert "transaction,event=accepted,host=local (2)" in difference
    assert "DIFFERS" in str(found)


def test_points_of_a_validator_that_the_cell_does_not_have_are_told(
    influx_server: InfluxServer, cell: CollectedCell
) -> None:
    influx_server.write(cell.points("stranger", 3))
    found = reconcile_cell(cell.directory, influx_server.connection_file)
    assert found.differences == ["InfluxDB has 9 values of this cell by no validator of it"]


def test_points_of_other_cells_and_runs_are_no_ones_business(
    influx_server: InfluxServer, cell: CollectedCell, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = CollectedCell(tmp_path / "other")
    influx_server.write(other.points(VALIDATORS[0], 5))
    influx_server.write([cell.points(VALIDATORS[0], 1)[0].replace(f"cell={cell.cell.id}", "cell=other")])
    assert reconcile_cell(cell.directory, influx_server.connection_file).equal


def test_every_value_that_line_protocol_can_carry_is_equal(influx_server: InfluxServer, cell: CollectedCell) -> None:
    name = VALIDATORS[3]
    numbers = [0, -1, 2**63 - 1, -(2**63)]
    floats = [0.0, -0.0, 5e-324, -1.7976931348623157e308, 0.1, 1 / 3, 123456789012345678.0]
    texts = ["", " ", _HOSTILE_TEXT, "x" * 1024, "true", "1i", '"', "\\", '\\"', "a,b", "\u00a0"]
    values: list[dict[str, FieldValue]] = [{"i": value} for value in numbers]
    values += [{"f": value} for value in floats]
    values += [{"s": value} for value in texts]
    values += [{"b": value} for value in (True, False)]
    tags = {"peer": "with space,comma=equals 漢 ${x} 'q'", "event": "e"}
    lines = [cell.line(name, at, fields, measurement="odd, name", **tags) for at, fields in enumerate(values)]
    lines += [cell.line(name, at, {"a": 1, "b b": True, "c,=c": "x", "ü": 0.5}, measurement="m") for at in range(3)]
    cell.write_spool(name, lines, segment=2)
    found = reconcile_cell(cell.directory, influx_server.connection_file)
    assert found.equal, found
    assert found.points == 170 + len(lines)


def test_times_at_the_ends_of_what_the_server_can_hold_are_equal(
    influx_server: InfluxServer, cell: CollectedCell
) -> None:
    head = cell.points(VALIDATORS[0], 1)[0].rsplit(" ", 2)[0]
    times = (-(2**63) + 2, -1, 0, 1, 2**63 - 3)
    cell.write_spool(VALIDATORS[0], [f'{head} id="x" {time}' for time in times], segment=2)
    found = reconcile_cell(cell.directory, influx_server.connection_file)
    assert found.equal, found
    assert found.points == 175


def test_a_line_that_the_server_refuses_is_named_and_the_others_are_written(
    influx_server: InfluxServer, cell: CollectedCell
) -> None:
    name = VALIDATORS[0]
    lines = [cell.line(name, 10_000_000 + at, {"size": 1 if at != 700 else "text"}, "block") for at in range(1500)]
    lines.append(cell.points(name, 1)[0].rsplit(" ", 1)[0] + f" {2**63 - 1}")
    cell.write_spool(name, lines, segment=2)
    found = reconcile_cell(cell.directory, influx_server.connection_file)
    assert not found.equal
    refused, out_of_range, lacking = sorted(
        found.differences, key=lambda text: ("lacking" in text, "of the spool" in text, "size" not in text)
    )
    assert refused.startswith(f"{name}: InfluxDB does not take the line 'block,")
    assert "type" in refused.rpartition(": ")[2] or "conflict" in refused
    assert "time" in out_of_range
    assert lacking.startswith(f"{name}: 2 points of the spool are not in InfluxDB")
    assert (found.streamed, found.backfilled) == (0, 170 + 1499)


def test_a_spool_that_is_refused_altogether_is_not_tried_line_by_line(
    influx_server: InfluxServer, cell: CollectedCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_MAX_REFUSALS", 3)
    head = cell.points(VALIDATORS[0], 1)[0].rsplit(" ", 2)[0]
    cell.write_spool(VALIDATORS[0], [f'{head},peer={at} id="x" {2**63 - 1}' for at in range(50)], segment=2)
    found = reconcile_cell(cell.directory, influx_server.connection_file)
    assert len(found.differences) == 4
    assert found.differences[-1].startswith(f"{VALIDATORS[0]}: 50 points of the spool are not in InfluxDB")


def test_lines_that_are_no_points_of_the_cell_are_left_out_and_counted(
    influx_server: InfluxServer, cell: CollectedCell
) -> None:
    other = cell.points(VALIDATORS[1], 1)
    cell.write_spool(VALIDATORS[0], ["nonsense", *other, "m f=1i 5"], segment=2)
    found = reconcile_cell(cell.directory, influx_server.connection_file)
    assert found.equal, found
    assert (found.points, found.left_out) == (170, 3)


def test_two_values_at_one_time_are_told(influx_server: InfluxServer, cell: CollectedCell) -> None:
    twice = [cell.line(VALIDATORS[0], 5, {"id": text}, event="included") for text in ("one", "two")]
    cell.write_spool(VALIDATORS[0], twice, segment=2)
    found = reconcile_cell(cell.directory, influx_server.connection_file)
    assert found.differences == [f"{VALIDATORS[0]}: 1 values of the spool are replaced by later ones of the same time"]


def test_points_of_an_earlier_attempt_are_removed_and_nothing_else(
    influx_server: InfluxServer, cell: CollectedCell, tmp_path: Path
) -> None:
    first, second = VALIDATORS[:2]
    _stream(influx_server, cell)
    influx_server.write([cell.line(second, -1, {"id": "old"}, event="accepted")])
    earlier = [
        cell.line(name, -(at + 1) * 1000, {"id": "old"}, event="accepted")
        for name in (first, "client")
        for at in range(6)
    ]
    influx_server.write(earlier)
    influx_server.write([cell.line(second, at, {"id": "unknown"}, event="accepted") for at in (10_500, 999_000)])
    neighbour = CollectedCell(tmp_path)
    neighbour.write_spool(first, [neighbour.line(first, -5000, {"id": "kept"}, event="accepted")])
    reconcile_cell(neighbour.directory, influx_server.connection_file)

    untouched = reconcile_cell(cell.directory, influx_server.connection_file)
    assert [difference.split(",")[0] for difference in untouched.differences] == [
        f"{first}: 6 points in InfluxDB are in no spool",
        f"{second}: 3 points in InfluxDB are in no spool",
        "client: 6 points in InfluxDB are in no spool",
    ]
    (cell.directory / "attempts" / "1").mkdir(parents=True)
    found = reconcile_cell(cell.directory, influx_server.connection_file)
    assert [difference.split(",")[0] for difference in found.differences] == [
        f"{second}: 2 points in InfluxDB are in no spool"
    ]
    assert found.removed == 13
    again = reconcile_cell(neighbour.directory, influx_server.connection_file)
    assert (again.equal, again.points, again.backfilled) == (True, 1, 1)


def test_without_the_right_to_remove_an_earlier_attempt_is_told(
    influx_server: InfluxServer, cell: CollectedCell, tmp_path: Path
) -> None:
    _stream(influx_server, cell)
    influx_server.write([cell.line(VALIDATORS[0], -1, {"id": "old"}, event="accepted")])
    (cell.directory / "attempts" / "1").mkdir(parents=True)
    influx_server.write(cell.points("client", 10))
    weak = msgspec.structs.replace(influx_server.connection, write_token=influx_server.connection.read_token)
    save_connection(tmp_path / "weak.json", weak)
    found = reconcile_cell(cell.directory, tmp_path / "weak.json")
    assert not found.equal
    assert "points of an earlier attempt could not be removed" in found.differences[0]
    assert "in no spool" in found.differences[1]


def test_a_server_that_is_away_is_an_error_and_the_rest_is_done_once_it_is_back(
    influx_server: InfluxServer, cell: CollectedCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_FIRST_PAUSE_S", 0.001)
    influx_server.stop()
    try:
        found = reconcile_cell(cell.directory, influx_server.connection_file)
    finally:
        influx_server.start()
    assert "can't be reached" in found.error
    assert f"./testbed influx backfill {cell.cell.run}" in found.error
    assert cell.record()["equal"] is False
    assert reconcile_cell(cell.directory, influx_server.connection_file).equal


def test_a_token_without_rights_is_an_error(influx_server: InfluxServer, cell: CollectedCell, tmp_path: Path) -> None:
    wrong = msgspec.structs.replace(influx_server.connection, read_token="no:such")
    save_connection(tmp_path / "wrong.json", wrong)
    found = reconcile_cell(cell.directory, tmp_path / "wrong.json")
    assert "refused with 401" in found.error
    assert "no:such" not in str(cell.record())


def test_a_bucket_that_does_not_exist_is_an_error(
    influx_server: InfluxServer, cell: CollectedCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_FIRST_PAUSE_S", 0.001)  # 1.8 answers with 500
    bucket = 'no"such${r}\\' + influx_server.connection.bucket.lstrip("-0123456789abcdefst")
    save_connection(tmp_path / "wrong.json", msgspec.structs.replace(influx_server.connection, bucket=bucket))
    error = reconcile_cell(cell.directory, tmp_path / "wrong.json").error
    assert "no database" in error or "could not find bucket" in error


def test_a_connection_file_that_is_missing_is_an_error_of_the_record(cell: CollectedCell, tmp_path: Path) -> None:
    found = reconcile_cell(cell.directory, tmp_path / "none.json")
    assert "none.json" in found.error
    assert not found.equal


def test_an_interrupted_comparison_is_not_taken_for_one(
    cell: CollectedCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("control.influx.reconcile.load_connection", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reconcile_cell(cell.directory, tmp_path / "none.json")
    assert cell.record()["error"] == "the comparison was interrupted"
    assert cell.record()["equal"] is False
