"""Spools as columns: what is read, what is left out, and that columns are equal only if the points are."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.telemetry.line_protocol import FieldValue, encode_point

from control.influx import columns
from control.influx.columns import Column, ColumnKey, Kind, Spool, encode_values, make_series, read_spool
from control.influx.comparison import compare

_TAGS = {"run": "r", "cell": "c", "validator": "v", "host": "h"}
_INTEGERS = st.integers(-(2**63), 2**63 - 1)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_VALUES = _INTEGERS | _FLOATS | st.booleans() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_SAME_TYPE: dict[type, st.SearchStrategy[FieldValue]] = {
    bool: st.booleans(),
    int: _INTEGERS,
    float: _FLOATS,
    str: st.text(max_size=20),
}
_POINTS = st.dictionaries(_INTEGERS, _VALUES, min_size=1, max_size=20)


def _column(points: dict[int, FieldValue], order: list[int] | None = None) -> Column:
    column = Column()
    for time in order or list(points):
        column.append(time, points[time])
    return column


def _spool(root: Path, *lines: str) -> Spool:
    (root / "00000000000000000001-000000.lp").write_bytes("".join(lines).encode())
    return read_spool(root, "r", "c", "v")


@given(st.data(), _POINTS)
def test_a_checksum_does_not_depend_on_the_order_of_writing(data: st.DataObject, points: dict[int, FieldValue]) -> None:
    order = data.draw(st.permutations(list(points)))
    assert _column(points, order).checksum() == _column(points).checksum()


@given(st.data(), _POINTS)
def test_any_change_changes_the_checksum_and_is_found(data: st.DataObject, points: dict[int, FieldValue]) -> None:
    changed = dict(points)
    time = data.draw(st.sampled_from(list(points)))
    kind = data.draw(st.sampled_from(["value", "time", "lost", "more"]))
    if kind == "value":
        old = points[time]
        same = _SAME_TYPE[type(old)]
        changed[time] = data.draw(same.filter(lambda new: _bits(new) != _bits(old)))
    elif kind == "more":
        changed[data.draw(_INTEGERS.filter(lambda new: new not in points))] = points[time]
    else:
        value = changed.pop(time)
        if kind == "time":
            changed[data.draw(_INTEGERS.filter(lambda new: new not in points))] = value
    assert _column(changed).checksum() != _column(points).checksum()

    spool = Spool(Path(), "r", "c", "v")
    key = ColumnKey(make_series("m", {}), "f", "int")
    spool.columns[key] = _column(points)
    assert compare(spool, [(key, _column(changed))])
    assert not compare(spool, [(key, _column(dict(points)))])


def _bits(value: FieldValue) -> bytes:
    return struct.pack("d", value) if isinstance(value, float) else repr(value).encode()


@given(st.lists(_VALUES, max_size=20))
def test_values_have_the_same_bits_one_by_one_and_together(values: list[FieldValue]) -> None:
    kinds: dict[type, Kind] = {bool: "bool", int: "int", float: "float", str: "string"}
    for kind, name in kinds.items():
        some = [value for value in values if type(value) is kind]
        column = _column(dict(enumerate(some)))
        assert encode_values(name, some) == column.bits


def test_types_are_kept_apart(tmp_path: Path) -> None:
    values: tuple[FieldValue, ...] = (1, 1.0, True, "1")
    lines = [encode_point("m", _TAGS, {"f": value}, time) for time, value in enumerate(values)]
    keys = _spool(tmp_path, *lines).columns
    assert {key.kind for key in keys} == {"int", "float", "bool", "string"}


def test_every_line_that_is_no_point_of_this_validator_is_left_out_and_counted(tmp_path: Path) -> None:
    good = encode_point("m", _TAGS, {"f": 1}, 5)
    others = [encode_point("m", _TAGS | {name: "other"}, {"f": 1}, 5) for name in ("run", "cell", "validator")]
    bad = [
        "m,run=r,cell=c,validator=v f=1i\n",
        "nonsense\n",
        "\n",
        "m,run=r,cell=c,validator=v f=99999999999999999999i 1\n",
    ]
    spool = _spool(tmp_path, *others, *bad, good)
    assert spool.left_out == 7
    assert spool.count_points() == (1, 1)


def test_a_torn_last_line_is_not_read_and_text_that_is_none_is_left_out(tmp_path: Path) -> None:
    good = encode_point("m", _TAGS, {"f": 1}, 5)
    (tmp_path / "1-000000.lp").write_bytes(good.encode() + b"m,run=\xff f=1i 1\n" + good.encode()[:-1])
    spool = read_spool(tmp_path, "r", "c", "v")
    assert (spool.count_points(), spool.left_out) == ((1, 1), 1)


def test_a_spool_of_endless_series_or_fields_or_lines_has_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "MAX_SERIES", 100)
    monkeypatch.setattr(columns, "MAX_COLUMNS", 200)
    spool = _spool(tmp_path, *(encode_point("m", _TAGS | {"peer": f"p{n}"}, {"f": 1}, 5) for n in range(110)))
    assert (spool.count_points(), spool.left_out) == ((100, 100), 10)

    spool = _spool(tmp_path, *(encode_point("m", _TAGS, {f"f{n}": 1}, n) for n in range(210)))
    assert (len(spool.columns), spool.left_out) == (200, 10)

    spool = _spool(tmp_path, "x" * (columns.MAX_LINE + 5), "\n", encode_point("m", _TAGS, {"f": 1}, 5))
    assert (spool.count_points(), spool.left_out) == ((1, 1), 2)


def test_of_two_values_at_one_time_the_last_written_stays(tmp_path: Path) -> None:
    spool = _spool(tmp_path, *(encode_point("m", _TAGS, {"f": value}, 5) for value in (1, 2, 2)))
    (column,) = spool.columns.values()
    times, bits, replaced = column.settle()
    assert (times.tolist(), bits.tolist(), replaced) == ([5], [2], 1)


def test_a_spool_that_is_absent_has_no_points(tmp_path: Path) -> None:
    assert read_spool(tmp_path / "none", "r", "c", "v").count_points() == (0, 0)
