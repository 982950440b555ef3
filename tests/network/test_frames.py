"""The frame layer: nothing is lost or reordered within a lane, urgent goes first, bad frames are refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.network.frames import (
    FRAME_BYTES,
    MAX_RECORDS,
    FrameError,
    FrameReader,
    Kind,
    Lane,
    LinkLimits,
    SendQueue,
    encode_record,
)

LIMITS = LinkLimits(message_bytes=4 << 20, content_queue_bytes=8 << 20, sync_queue_bytes=8 << 20)

sizes = st.one_of(
    st.integers(0, 300),
    st.sampled_from([FRAME_BYTES - 6, FRAME_BYTES - 5, FRAME_BYTES - 4, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES]),
    st.integers(0, 400_000),
)


def frames_of(queue: SendQueue) -> list[bytes]:
    frames = []
    while (frame := queue.next_frame()) is not None:
        frames.append(frame)
    return frames


def messages_of(frames: list[bytes], reader: FrameReader) -> list[bytes]:
    return [payload for frame in frames for kind, payload in reader.feed(frame) if kind is Kind.MESSAGE]


@given(st.lists(st.tuples(st.sampled_from(list(Lane)), sizes), max_size=24))
def test_every_message_arrives_whole_and_in_the_order_of_its_lane(items: list[tuple[Lane, int]]) -> None:
    queue = SendQueue(LIMITS)
    sent: dict[Lane, list[bytes]] = {lane: [] for lane in Lane}
    for number, (lane, size) in enumerate(items):
        message = bytes([lane]) + number.to_bytes(4, "big") + bytes(size)
        assert queue.put(lane, message)
        sent[lane].append(message)
    frames = frames_of(queue)
    assert all(len(frame) <= FRAME_BYTES for frame in frames)
    received = messages_of(frames, FrameReader(LIMITS.message_bytes))
    for lane in Lane:
        assert [message for message in received if message[0] == lane] == sent[lane]
    assert queue.waiting_bytes == 0


@given(st.binary(max_size=400))
def test_garbage_is_refused_or_understood_but_never_crashes(garbage: bytes) -> None:
    reader = FrameReader(1000)
    try:
        for kind, payload in reader.feed(garbage):
            assert kind <= Kind.PONG
            assert len(payload) <= len(garbage)
    except FrameError as error:
        assert str(error)


def test_a_vote_passes_between_two_chunks_of_a_block() -> None:
    queue = SendQueue(LIMITS)
    block, vote = b"B" * (3 * FRAME_BYTES), b"vote"
    queue.put(Lane.CONTENT, block)
    first = queue.next_frame()
    assert first is not None
    queue.put(Lane.URGENT, vote)
    second = queue.next_frame()
    assert second == encode_record(Kind.MESSAGE, vote)
    reader = FrameReader(LIMITS.message_bytes)
    assert messages_of([first, second, *frames_of(queue)], reader) == [vote, block]


def test_messages_that_wait_together_share_a_frame() -> None:
    queue = SendQueue(LIMITS)
    for number in range(50):
        queue.put(Lane.CONTENT, bytes([number]) * 1000)
    assert len(frames_of(queue)) == 1


def test_sync_gets_its_share_however_much_content_waits() -> None:
    queue = SendQueue(LIMITS)
    for _ in range(40):
        queue.put(Lane.CONTENT, b"c" * (FRAME_BYTES - 100))
    queue.put(Lane.SYNC, b"s" * 1000)
    early = messages_of([frame for frame in (queue.next_frame() for _ in range(4)) if frame], FrameReader(1 << 20))
    assert b"s" * 1000 in early


def test_a_full_lane_refuses_but_an_empty_one_takes_any_message() -> None:
    queue = SendQueue(LinkLimits(message_bytes=1000, content_queue_bytes=1000))
    assert queue.put(Lane.CONTENT, bytes(5000))
    assert not queue.put(Lane.CONTENT, b"x")
    assert queue.put(Lane.URGENT, b"x"), "lanes are bounded one by one"


def test_control_records_are_built_when_they_are_sent_and_bounded() -> None:
    queue = SendQueue(LIMITS)
    now = [1]
    assert queue.put_control(Kind.PING, lambda: bytes([now[0]]))
    now[0] = 7
    assert queue.next_frame() == encode_record(Kind.PING, b"\x07")
    taken = sum(queue.put_control(Kind.PONG, lambda: b"") for _ in range(1000))
    assert taken < 100


def begin(total: int, chunk: bytes, lane: int = 0) -> bytes:
    return encode_record(Kind.BEGIN + lane, struct.pack(">I", total) + chunk)


def more(chunk: bytes, lane: int = 0) -> bytes:
    return encode_record(Kind.MORE + lane, chunk)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([b""], "empty"),
        ([b"\x01\x00"], "stray"),
        ([struct.pack(">BI", 1, 100) + b"short"], "claims 100 bytes"),
        ([encode_record(9, b"")], "unknown record kind 9"),
        ([encode_record(Kind.BEGIN + 3, b"12345")], "unknown record kind 19"),
        ([encode_record(0xFF, b"12345")], "unknown record kind 255"),
        ([begin(10_001, b"x")], "the limit is 10000"),
        ([begin(2**32 - 1, b"x")], "the limit is 10000"),
        ([begin(10, b"")], "without content"),
        ([begin(10, b"x") + begin(10, b"x")], "before the last one ended"),
        ([more(b"x")], "belongs to no message"),
        ([begin(10, b"x"), more(b"")], "an empty chunk"),
        ([begin(3, b"x"), more(b"yyyy")], "chunks of 5 bytes for a message of 3"),
        ([encode_record(Kind.MESSAGE, b"") * (MAX_RECORDS + 1)], f"more than {MAX_RECORDS} records"),
        ([begin(10_000, b"x"), *([more(b"x")] * 200)], "is cut into"),
    ],
)
def test_a_frame_that_breaks_the_rules_is_refused_with_the_reason(frames: list[bytes], message: str) -> None:
    reader = FrameReader(10_000)
    with pytest.raises(FrameError, match=message):
        for frame in frames:
            reader.feed(frame)


def test_reassembly_holds_one_message_for_each_lane() -> None:
    reader = FrameReader(10_000)
    assert reader.feed(begin(4, b"ab", 1) + begin(4, b"cd", 2)) == []
    assert reader.feed(more(b"ef", 2)) == [(Kind.MESSAGE, b"cdef")]
    assert reader.feed(more(b"gh", 1)) == [(Kind.MESSAGE, b"abgh")]
