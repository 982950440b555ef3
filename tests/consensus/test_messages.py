"""Peers' messages: whatever arrives is a message within its bounds or a ProtocolError."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.consensus.messages import (
    MAX_IDS,
    BlocksMissing,
    CompactBlock,
    FinalizedBlocks,
    FullBlock,
    GetBlocks,
    GetFinalized,
    GetHeaders,
    GetTransactions,
    Headers,
    Message,
    Status,
    TransactionIds,
    Transactions,
    Votes,
    decode_message,
    encode_message,
    phase_of,
)
from microchain.consensus.types import ProtocolError

IDS = st.binary(min_size=32, max_size=32)
NATURALS = st.integers(0, 2**63 - 1)
ID_LISTS = st.lists(IDS, max_size=4).map(tuple)
RAW_LISTS = st.lists(st.binary(max_size=60), max_size=4).map(tuple)
FULL_BLOCKS = st.builds(FullBlock, st.binary(max_size=60), RAW_LISTS, RAW_LISTS)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Transactions, RAW_LISTS),
    st.builds(TransactionIds, ID_LISTS),
    st.builds(GetTransactions, ID_LISTS),
    st.builds(CompactBlock, st.binary(max_size=60), ID_LISTS, RAW_LISTS),
    FULL_BLOCKS,
    st.builds(Votes, RAW_LISTS),
    st.builds(Status, IDS, NATURALS, IDS, NATURALS, IDS, NATURALS, st.binary(max_size=60)),
    st.builds(GetHeaders, IDS, IDS),
    st.builds(Headers, RAW_LISTS),
    st.builds(GetBlocks, ID_LISTS),
    st.builds(BlocksMissing, ID_LISTS),
    st.builds(GetFinalized, NATURALS),
    st.builds(FinalizedBlocks, st.lists(FULL_BLOCKS, max_size=3).map(tuple), RAW_LISTS),
)


@given(MESSAGES)
def test_message_comes_back_as_it_was_sent(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@given(MESSAGES, st.data())
def test_changed_or_cut_message_is_a_message_or_the_typed_error(message: Message, data: st.DataObject) -> None:
    encoded = encode_message(message)
    place, mask = data.draw(st.integers(0, len(encoded) - 1)), data.draw(st.integers(1, 255))
    for attempt in (encoded[:place], encoded[:place] + bytes([encoded[place] ^ mask]) + encoded[place + 1 :]):
        try:
            decode_message(attempt)
        except ProtocolError as error:
            assert str(error).startswith("malformed message: ")
    with pytest.raises(ProtocolError):
        decode_message(encoded + b"\x00")


@given(st.binary(max_size=300), st.integers(0, 14))
def test_random_bytes_raise_only_the_typed_error(data: bytes, tag: int) -> None:
    for attempt in (data, b"\x92" + bytes([tag]) + data, b"\x94" + bytes([tag]) + data):
        try:
            decode_message(attempt)
        except ProtocolError:
            continue


@pytest.mark.parametrize("tag", range(1, 14))
@pytest.mark.parametrize("length", [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"])
def test_claimed_length_allocates_nothing(tag: int, length: bytes) -> None:
    for attempt in (b"\x92" + bytes([tag]) + b"\xdd" + length, b"\x92" + bytes([tag]) + b"\xc6" + length):
        with pytest.raises(ProtocolError):
            decode_message(attempt)


@pytest.mark.parametrize(
    ("tag", "field", "limit"),
    [
        (1, b"", MAX_IDS),
        (2, bytes(32), MAX_IDS),
        (3, bytes(32), MAX_IDS),
        (6, b"", MAX_IDS),
        (9, b"", 64),
        (10, bytes(32), 64),
        (11, bytes(32), 64),
    ],
)
def test_list_beyond_its_limit_is_refused(tag: int, field: bytes, limit: int) -> None:
    decode_message(msgspec.msgpack.encode([tag, [field] * limit]))
    with pytest.raises(ProtocolError, match=f"length <= {limit}"):
        decode_message(msgspec.msgpack.encode([tag, [field] * (limit + 1)]))


@pytest.mark.parametrize(
    "document",
    [
        [0, []],
        [14, []],
        ["1", []],
        [],
        {},
        None,
        [2, [b"\x00" * 31]],
        [2, ["x"]],
        [2, [], []],
        [12, -1],
        [12, 2**63],
        [12, 1.5],
        [12, True],
        [8, bytes(32)],
        [13, [[1, []]], []],
    ],
    ids=repr,
)
def test_document_that_is_no_message_is_refused(document: Any) -> None:
    with pytest.raises(ProtocolError, match="malformed message"):
        decode_message(msgspec.msgpack.encode(document))


@given(MESSAGES)
def test_every_message_counts_under_one_phase(message: Message) -> None:
    assert phase_of(message) in {"transactions", "proposal", "voting", "anti-entropy", "sync"}
