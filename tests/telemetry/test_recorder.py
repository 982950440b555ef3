"""The recorder: points as docs/telemetry.md has them, and no two of a series at one time."""

from __future__ import annotations

import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.consensus.interface import BlockTrace, TransactionTrace, VoteTrace
from microchain.consensus.types import Digest, Epoch, Height, NodeId, Slot
from microchain.network.counters import PhaseCounters
from microchain.telemetry.line_protocol import (
    FieldValue,
    LineProtocolError,
    Point,
    encode_point,
    encode_series,
    parse_line,
)
from microchain.telemetry.recorder import Recorder, is_sampled
from microchain.telemetry.spool import Spool, read_complete_lines, spool_segments

from analysis.schema import SCHEMAS

NODE, OTHER, BLOCK = NodeId(b"\x01" * 32), NodeId(b"\x02" * 32), Digest(b"\xbb" * 32)
IDS = tuple(Digest(bytes([number]) * 32) for number in range(256))


def open_recorder(directory: Path, **options: Any) -> Recorder:
    settings: dict[str, Any] = {"run": "r", "cell": "c", "validator": "validator-1", "host": "pi 1", **options}
    return Recorder(Spool(directory, interval_s=0), names={NODE: "validator-1"}, **settings)


def points_of(recorder: Recorder) -> list[Point]:
    recorder.close(10**18)
    segments = spool_segments(recorder.spool.directory)
    return [parse_line(line) for path in segments for line in read_complete_lines(path)[0].decode().splitlines()]


def test_a_batch_of_transactions_becomes_a_point_each(tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path)
    recorder.trace(TransactionTrace("included", IDS[:3], BLOCK, Height(7), local=True), 1000)
    points = points_of(recorder)[:3]
    assert [point.time for point in points] == [1000, 1001, 1002]
    assert points[1].fields == {"id": "01" * 8, "local": True, "height": 7, "block": "bb" * 8}
    assert dict(points[1].tags) == {
        "run": "r",
        "cell": "c",
        "validator": "validator-1",
        "host": "pi 1",
        "event": "included",
    }


def test_blocks_and_votes_name_the_nodes_they_are_of(tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path)
    recorder.trace(BlockTrace("verified", BLOCK, Height(1), Slot(2), Epoch(3), NODE, 4, 5, "odd\ntext"), 10)
    recorder.trace(VoteTrace("received", OTHER, BLOCK, Epoch(3), Epoch(2)), 11)
    block, vote = points_of(recorder)[:2]
    assert block.fields == {
        "id": "bb" * 32,
        "height": 1,
        "slot": 2,
        "epoch": 3,
        "proposer": "validator-1",
        "size": 4,
        "transactions": 5,
        "detail": "odd text",
    }
    assert vote.fields == {"voter": "02" * 8, "target": "bb" * 32, "target_epoch": 3, "source_epoch": 2}


Fields = dict[str, FieldValue | None]
integers = st.integers(0, 2**63 - 1)


@given(st.text(min_size=1, max_size=20), integers, integers, st.text(max_size=50))
def test_what_is_written_the_short_way_is_what_the_general_way_writes(
    tmp_path_factory: pytest.TempPathFactory, name: str, first: int, second: int, detail: str
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"), interval_s=0)
    recorder = Recorder(spool, run="r", cell="c", validator="v", host="h", names={NODE: name})
    recorder.trace(BlockTrace("verified", BLOCK, Height(first), Slot(second), Epoch(3), NODE, 4, first, detail), 10)
    recorder.trace(VoteTrace("sent", NODE, BLOCK, Epoch(first), Epoch(second)), 11)
    recorder.transactions("included", IDS[:1], 12, block=BLOCK, height=Height(first), local=True)
    recorder.peer("p", first, -second, 5, 13)
    counters = PhaseCounters(1, first, 3, second)
    recorder.messages({"voting": counters}, 14)
    recorder.close(15)
    tags = {"run": "r", "cell": "c", "validator": "v", "host": "h"}
    id = "bb" * 32
    block: Fields = {"id": id, "height": first, "slot": second, "epoch": 3, "proposer": name, "size": 4}
    vote: Fields = {"voter": name, "target": id, "target_epoch": first, "source_epoch": second}
    transaction: Fields = {"id": "00" * 8, "local": True, "height": first, "block": "bb" * 8}
    (segment,) = spool_segments(spool.directory)
    assert segment.read_text().splitlines(keepends=True)[:5] == [
        encode_point(
            "block", tags | {"event": "verified"}, block | {"transactions": first, "detail": detail or None}, 10
        ),
        encode_point("vote", tags | {"event": "sent"}, vote, 11),
        encode_point("transaction", tags | {"event": "included"}, transaction, 12),
        encode_point("peer", tags | {"peer": "p"}, {"rtt_ns": first, "offset_ns": -second, "bound_ns": 5}, 13),
        encode_point("messages", tags | {"phase": "voting"}, msgspec.structs.asdict(counters), 14),
    ]


def test_every_kind_of_point_is_one_that_the_analysis_reads(tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path)
    recorder.trace(TransactionTrace("accepted", IDS[:1]), 1)
    recorder.trace(BlockTrace("proposed", BLOCK, Height(1), Slot(2), Epoch(3), NODE, 4, 5), 2)
    recorder.trace(VoteTrace("sent", NODE, BLOCK, Epoch(3), Epoch(2)), 3)
    recorder.peer("validator-2", 100, -5, 50, 4)
    recorder.messages({"voting": PhaseCounters(1, 2, 3, 4)}, 5)
    recorder.board(6)
    points = points_of(recorder)
    assert {point.measurement for point in points} == set(SCHEMAS)
    for point in points:
        schema = SCHEMAS[point.measurement]
        assert schema.required.keys() <= point.fields.keys() <= {*schema.required, *schema.optional}
        assert schema.tag is None or schema.tag in point.tags


@given(st.lists(st.tuples(st.sampled_from(["accepted", "finalized"]), st.integers(0, 50), st.integers(1, 5))))
def test_no_two_points_of_a_series_share_a_timestamp(batches: list[tuple[Any, int, int]]) -> None:
    lines: list[str] = []

    class Collect(Spool):
        def append(self, text: str, points: int = 1) -> None:
            lines.extend(text.splitlines())

    spool = Collect(Path("/nonexistent"), interval_s=0)
    recorder = Recorder(spool, run="r", cell="c", validator="v", host="h")
    for event, at, count in batches:
        recorder.transactions(event, IDS[:count], at)
    points = [parse_line(line) for line in lines]
    keys = [(encode_series(point.measurement, point.tags), point.time) for point in points]
    assert len(set(keys)) == len(keys) == sum(count for _, _, count in batches)
    for event in ("accepted", "finalized"):
        times = [point.time for point in points if point.tags["event"] == event]
        assert times == sorted(times)


def test_points_of_different_series_keep_their_times_though_written_out_of_order(tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path, validator="client")
    recorder.transactions("submitted", IDS[:1], 2000)
    recorder.transactions("scheduled", IDS[:1], 1000)
    assert [point.time for point in points_of(recorder)[:2]] == [2000, 1000]


def test_how_far_points_were_moved_is_reported(tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path)
    recorder.transactions("accepted", IDS[:1], 5000)
    recorder.transactions("accepted", IDS[:1], 2000)
    assert points_of(recorder)[-1].fields["shift_ns"] == 3001


def test_sampling_takes_the_same_transactions_everywhere_and_their_share(tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path, sample=0.25)
    recorder.transactions("accepted", IDS, 1)
    taken = [str(point.fields["id"]) for point in points_of(recorder)[:-1]]
    assert taken == [id[:8].hex() for id in IDS if is_sampled(id, 0.25)]
    assert len(taken) == 64
    assert taken == [id[:8].hex() for id in IDS if is_sampled(bytes.fromhex(id[:8].hex()), 0.25)]


def test_nothing_is_written_where_nothing_is_sampled(tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path, sample=0.001)
    recorder.transactions("accepted", IDS[1:], 1)
    assert Counter(point.measurement for point in points_of(recorder)) == {"spool": 1}


def test_the_closing_report_counts_every_point_before_it(tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path)
    recorder.transactions("accepted", IDS, 1)
    last = points_of(recorder)[-1]
    assert last.fields == {"points": 256, "dropped": 0, "shift_ns": 0, "closed": True}
    recorder.transactions("accepted", IDS[:2], 10**18 + 1)
    assert (recorder.points, recorder.dropped) == (257, 2)


def test_a_host_name_that_no_tag_can_hold_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(LineProtocolError, match="tag host"):
        open_recorder(tmp_path, host="a\\b")


def test_the_newest_board_is_at_hand_without_what_it_does_not_tell(tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path)
    assert recorder.last_board == {}
    recorder.board(1)
    board = recorder.last_board
    assert {"cpu_percent", "load1", "memory_total_bytes", "memory_available_bytes"} <= board.keys()
    assert None not in board.values()
    recorder.close(2)


def test_board_and_trace_may_run_in_different_threads(tmp_path: Path) -> None:
    recorder = open_recorder(tmp_path)

    def watch() -> None:
        for number in range(20):
            recorder.board(number)

    worker = threading.Thread(target=watch)
    worker.start()
    for number in range(500):
        recorder.transactions("accepted", IDS[:4], number)
    worker.join()
    counts = Counter(point.measurement for point in points_of(recorder))
    assert counts == {"transaction": 2000, "board": 20, "process": 20, "spool": 21}


def test_the_documentation_has_every_measurement_tag_and_field() -> None:
    text = (Path(__file__).parents[2] / "docs/telemetry.md").read_text()
    for measurement, schema in SCHEMAS.items():
        _, _, section = text.partition(f"\n### {measurement}\n")
        section = section.partition("\n## ")[0].partition("\n### ")[0]
        names = {*schema.required, *schema.optional} | ({schema.tag} if schema.tag else set())
        assert names <= set(re.findall(r"`([a-z0-9_]+)`", section)), measurement
