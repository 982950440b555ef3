"""Following a spool from a cursor: every whole line once, in order, whatever the files are like."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.telemetry.backlog import (
    KEPT_OF_A_LINE,
    Backlog,
    Cursor,
    RejectedLines,
    load_cursor,
    save_cursor,
)


def drain(backlog: Backlog, cursor: Cursor, max_lines: int = 3) -> tuple[list[bytes], Cursor]:
    """Everything there is now, and the cursor behind it."""
    found: list[bytes] = []
    while (batch := backlog.take(cursor, max_lines)) is not None:
        assert 1 <= batch.lines <= max_lines and batch.data.count(b"\n") in (batch.lines, 0)
        found += [b"(too long)"] if batch.oversized else batch.data.splitlines(keepends=True)
        cursor = Cursor(batch.segment, batch.end)
    return found, cursor


lines = st.lists(
    st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b"") + b"\n"), max_size=8
)
segments = st.lists(st.tuples(lines, st.binary(max_size=9).map(lambda raw: raw.replace(b"\n", b""))), max_size=4)


@given(segments, st.integers(1, 5), st.integers(32, 64))
def test_every_whole_line_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, content: list[tuple[list[bytes], bytes]], most: int, max_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    for number, (whole, torn) in enumerate(content):
        (directory / f"{number:03d}.lp").write_bytes(b"".join(whole) + torn)
    found, cursor = drain(Backlog(directory, max_bytes), Cursor(), most)
    expected = [line for whole, _ in content for line in whole]
    assert b"".join(found) == b"".join(expected)
    assert drain(Backlog(directory, max_bytes), cursor, most)[0] == []


def test_a_growing_segment_is_followed_and_a_closed_one_left_for_good(tmp_path: Path) -> None:
    backlog, first = Backlog(tmp_path), tmp_path / "1-0.lp"
    assert backlog.take(Cursor(), 10) is None
    first.write_bytes(b"a 1\nb ")
    found, cursor = drain(backlog, Cursor())
    assert found == [b"a 1\n"] and backlog.waiting_bytes(cursor) == 2
    with first.open("ab") as file:
        file.write(b"2\nc 3\ntorn")
    found, cursor = drain(backlog, cursor)
    assert found == [b"b 2\n", b"c 3\n"]
    (tmp_path / "1-1.lp").write_bytes(b"d 4\n")
    found, cursor = drain(backlog, cursor)
    assert found == [b"d 4\n"] and cursor == Cursor("1-1.lp", 4)
    assert backlog.waiting_bytes(cursor) == 0


def test_a_segment_that_was_removed_is_passed(tmp_path: Path) -> None:
    (tmp_path / "1-2.lp").write_bytes(b"c 3\n")
    assert drain(Backlog(tmp_path), Cursor("1-1.lp", 77))[0] == [b"c 3\n"]
    assert drain(Backlog(tmp_path / "none"), Cursor())[0] == []


def test_a_line_longer_than_a_batch_is_passed_and_its_beginning_shown(tmp_path: Path) -> None:
    (tmp_path / "1.lp").write_bytes(b"a 1\n" + b"x" * 10_000 + b"\nb 2\n")
    backlog = Backlog(tmp_path, max_bytes=100)
    batch = backlog.take(Cursor("1.lp", 4), 10)
    assert batch is not None and batch.oversized
    assert (batch.data, batch.end, batch.lines) == (b"x" * KEPT_OF_A_LINE, 10_005, 1)
    assert drain(backlog, Cursor())[0] == [b"a 1\n", b"(too long)", b"b 2\n"]


def test_an_endless_line_without_an_end_is_waited_for_but_not_in_a_closed_segment(tmp_path: Path) -> None:
    (tmp_path / "1.lp").write_bytes(b"x" * 10_000)
    backlog = Backlog(tmp_path, max_bytes=100)
    assert backlog.take(Cursor(), 10) is None
    (tmp_path / "2.lp").write_bytes(b"b 2\n")
    assert drain(backlog, Cursor())[0] == [b"b 2\n"]


@given(st.integers(0, 40))
def test_a_cursor_inside_a_line_goes_back_to_the_beginning(
    tmp_path_factory: pytest.TempPathFactory, offset: int
) -> None:
    directory = tmp_path_factory.getbasetemp() / "inside"
    directory.mkdir(exist_ok=True)
    content = b"cpu x=1i 5\ncpu x=2i 6\n"
    (directory / "1.lp").write_bytes(content)
    checked = Backlog(directory).checked(Cursor("1.lp", offset, 7, 1))
    assert checked == Cursor("1.lp", offset if content[:offset].endswith(b"\n") and offset <= 22 else 0, 7, 1)


def test_a_cursor_is_read_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "shipper.json"
    assert load_cursor(path) == Cursor()
    cursor = Cursor("1-0.lp", 100, 7, 1, "no answer")
    save_cursor(path, Cursor("0.lp"))
    save_cursor(path, cursor)
    assert load_cursor(path) == cursor
    assert json.loads(path.read_bytes())["shipped"] == 7
    assert [file.name for file in tmp_path.iterdir()] == ["shipper.json"]


@given(
    st.binary(max_size=60)
    | st.sampled_from([b'{"offset":-1}', b'{"segment":"../x"}', b'{"segment":"a\\u0000"}', b"9" * 9999])
)
def test_a_damaged_cursor_is_a_lost_one(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(content)
    logging.getLogger("microchain.telemetry.backlog").setLevel(logging.CRITICAL)
    assert load_cursor(path) == Cursor()


def test_a_cursor_that_cannot_be_saved_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "shipper.json"
    save_cursor(path, Cursor("1.lp", 5))
    (tmp_path / ".shipper.json.new").mkdir()
    with pytest.raises(OSError):
        save_cursor(path, Cursor("1.lp", 9))
    assert load_cursor(path).offset == 5


def test_refused_lines_are_kept_with_their_reason_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "rejected.lp"
    rejected = RejectedLines(path, max_bytes=10_000)
    rejected.keep(b"nonsense\n", "answered 400:\n unable to parse")
    assert path.read_bytes() == b"# answered 400: unable to parse\nnonsense\n"
    rejected.keep(b"y" * 9000 + b"\n", "long")
    assert f"# long (cut, it has 9001 bytes)\n{'y' * KEPT_OF_A_LINE}\n" in path.read_text()
    for number in range(1000):
        rejected.keep(b"line %d\n" % number, "again")
    assert 9_900 < path.stat().st_size <= 10_000
    assert path.read_bytes().endswith(b"\n")


def test_refused_lines_on_a_disk_that_takes_nothing_do_no_harm(tmp_path: Path) -> None:
    RejectedLines(tmp_path / "none" / "rejected.lp").keep(b"a\n", "why")
