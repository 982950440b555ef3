"""Line protocol: what is written can be read back, by us and as the vendor's client writes it; nothing else is read."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from influxdb_client.client.write.point import Point as ClientPoint
from microchain.telemetry.line_protocol import (
    INT64_MAX,
    MAX_STRING,
    FieldValue,
    LineProtocolError,
    MalformedLine,
    encode_point,
    parse_line,
)

unsafe = "\\\x7f\x85\u2028\u2029"
names = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=unsafe), min_size=1, max_size=20
).filter(lambda name: not name.startswith("#"))
texts = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\x7f\x85\u2028\u2029"), max_size=40)
keys = names.filter(lambda name: '"' not in name)
values = st.one_of(
    st.booleans(),
    st.integers(-INT64_MAX - 1, INT64_MAX),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
times = st.integers(0, INT64_MAX)


@given(names, st.dictionaries(names, names, max_size=4), st.dictionaries(keys, values, min_size=1, max_size=6), times)
def test_what_is_written_is_read_back(
    measurement: str, tags: dict[str, str], fields: dict[str, FieldValue], time: int
) -> None:
    line = encode_point(measurement, tags, fields, time)
    assert line.endswith("\n") and line.count("\n") == 1
    point = parse_line(line[:-1])
    assert (point.measurement, dict(point.tags), point.fields, point.time) == (measurement, tags, fields, time)
    assert [type(value) for value in point.fields.values()] == [type(value) for value in fields.values()]


@given(names, st.dictionaries(names, names, max_size=4), st.dictionaries(keys, st.one_of(st.booleans(), texts)), times)
def test_the_vendors_client_writes_the_same_line(
    measurement: str, tags: dict[str, str], fields: dict[str, FieldValue], time: int
) -> None:
    fields = {"count": 3, **fields}
    theirs = ClientPoint.from_dict(
        {"measurement": measurement, "tags": tags, "fields": dict(sorted(fields.items())), "time": time},
    )
    assert encode_point(measurement, tags, dict(sorted(fields.items())), time) == theirs.to_line_protocol() + "\n"


@given(st.text(max_size=200))
def test_any_text_is_a_point_or_refused_with_a_typed_error(line: str) -> None:
    try:
        point = parse_line(line)
    except MalformedLine:
        return
    assert point.measurement and point.fields


def test_line_ends_in_a_string_become_spaces_so_that_a_point_stays_one_line() -> None:
    line = encode_point("block", {}, {"detail": "a\nb\r\u2028c\x00d\ud800e"}, 1)
    assert line == 'block detail="a b  c d e" 1\n'


def test_a_long_string_is_cut() -> None:
    detail = parse_line(encode_point("block", {}, {"detail": "x" * 5000}, 1)[:-1]).fields["detail"]
    assert detail == "x" * MAX_STRING


def test_numbers_that_are_none_are_left_out() -> None:
    fields = {"a": math.nan, "b": math.inf, "c": None, "d": 1.5}
    assert encode_point("board", {}, fields, 7) == "board d=1.5 7\n"


def test_a_point_without_a_field_is_refused() -> None:
    with pytest.raises(LineProtocolError, match="without any field"):
        encode_point("board", {}, {"a": math.nan}, 7)


@pytest.mark.parametrize("host", ["a\\b", "a\nb", "a\x00", "\u2028"])
def test_a_tag_with_no_safe_form_is_refused(host: str) -> None:
    with pytest.raises(LineProtocolError, match="tag host"):
        encode_point("board", {"host": host}, {"a": 1}, 7)


def test_an_integer_beyond_64_bits_is_refused() -> None:
    with pytest.raises(LineProtocolError, match="64 bits"):
        encode_point("board", {}, {"a": 2**63}, 7)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "block",
        "block 5",
        "block id=1i",
        "block id=1i ",
        "block id=1i 5 6",
        "block id=1i 5x",
        "block id= 5",
        "block =1i 5",
        "block id 5",
        "block,host id=1i 5",
        "block,host= id=1i 5",
        "block,=a id=1i 5",
        "block,host=a,host=b id=1i 5",
        "block,host=a, id=1i 5",
        ",host=a id=1i 5",
        "block id=1i, 5",
        'block id="open 5',
        'block id="a"b 5',
        "block id=nan 5",
        "block id=1e999 5",
        "block id=9223372036854775808i 5",
        "block id=1i 9223372036854775808",
        "block id=12345678901234567890123i 5",
        "block id=maybe 5",
        "block id=1i 5\n",
    ],
)
def test_what_is_no_point_is_refused(line: str) -> None:
    with pytest.raises(MalformedLine):
        parse_line(line)


def test_parsing_a_hostile_line_takes_linear_time() -> None:
    for hostile in ("a" * 200_000, "\\" * 200_001, 'a f="' + "\\" * 200_001, "a " + "b=1i," * 50_000, 'a b="' * 50_000):
        with pytest.raises(MalformedLine):
            parse_line(hostile)
