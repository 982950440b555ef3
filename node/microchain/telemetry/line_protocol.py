"""InfluxDB line protocol, v2 dialect: ``measurement,tag=value field=value timestamp``.

The dialect has corners that servers read differently; none of them is ever written here: no backslash and no control
character in names and tags (refused), no control character in strings (replaced by a space), no empty tag value, no
NaN or infinity (the field is left out).
Reference: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from msgspec import Struct

__all__ = [
    "FieldValue",
    "LineProtocolError",
    "MalformedLine",
    "Point",
    "encode_fields",
    "encode_point",
    "encode_series",
    "encode_value",
    "parse_fields",
    "parse_line",
    "parse_series",
    "split_line",
]

FieldValue = bool | int | float | str

INT64_MAX = 2**63 - 1
MAX_STRING = 1024
"""Longest string field in characters; longer ones are cut. Only free text (a block's ``detail``) can reach it."""

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\x85\u2028\u2029\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
_MEASUREMENT_ESCAPES = str.maketrans({",": r"\,", " ": r"\ "})
_KEY_ESCAPES = str.maketrans({",": r"\,", " ": r"\ ", "=": r"\="})
_STRING_ESCAPES = str.maketrans({'"': r"\"", "\\": r"\\"})


class LineProtocolError(ValueError):
    """A point that has no safe form in line protocol."""


class MalformedLine(ValueError):
    """A line that is no point of line protocol."""


class Point(Struct, frozen=True):
    """One parsed point; ``time`` is in ns since 1970. ``tags`` is shared between points of a series: read only."""

    measurement: str
    tags: Mapping[str, str]
    fields: dict[str, FieldValue]
    time: int


def _checked(text: str, what: str) -> str:
    forbidden = (what == "measurement" and text.startswith("#")) or (what == "field key" and '"' in text)
    if not text or forbidden or _UNSAFE.search(text):
        raise LineProtocolError(
            f"{what} {text!r}: must not be empty nor hold backslashes, quotes or control characters; rename it"
        )
    return text


def encode_series(measurement: str, tags: Mapping[str, str]) -> str:
    """Return measurement and tags, tags in order of key; empty tag values are left out."""
    parts = [_checked(measurement, "measurement").translate(_MEASUREMENT_ESCAPES)]
    for key in sorted(tags):
        if tags[key]:
            value = _checked(tags[key], f"tag {key}").translate(_KEY_ESCAPES)
            parts.append(f"{_checked(key, 'tag key').translate(_KEY_ESCAPES)}={value}")
    return ",".join(parts)


def encode_value(value: FieldValue) -> str | None:
    """Return a field's value; None for a float without a number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if not -INT64_MAX - 1 <= value <= INT64_MAX:
            raise LineProtocolError(f"integer field {value} does not fit into 64 bits")
        return f"{value}i"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else None
    return f'"{_CONTROL.sub(" ", value[:MAX_STRING]).translate(_STRING_ESCAPES)}"'


def encode_fields(fields: Mapping[str, FieldValue | None]) -> str:
    """Return the field set; None and values without a number (NaN, infinity) are left out. Empty if nothing is left."""
    encoded = ((key, None if value is None else encode_value(value)) for key, value in fields.items())
    return ",".join(
        f"{_checked(key, 'field key').translate(_KEY_ESCAPES)}={value}" for key, value in encoded if value is not None
    )


def encode_point(measurement: str, tags: Mapping[str, str], fields: Mapping[str, FieldValue | None], time: int) -> str:
    """Return one line, newline included; ``time`` in ns since 1970. LineProtocolError says what can't be written."""
    field_set = encode_fields(fields)
    if not field_set:
        raise LineProtocolError(f"a point of {measurement!r} without any field can't be written")
    return f"{encode_series(measurement, tags)} {field_set} {time}\n"


# --- reading ----------------------------------------------------------------------------------------------------------

# Possessive quantifiers (++) keep every match linear, whatever the line holds.
_LINE = re.compile(r'((?:[^ \\\n]++|\\.)++) ((?:[^ "\\\n]++|\\.|"(?:[^"\\\n]++|\\.)*+")++) (-?\d{1,19})')
_FIELD = re.compile(
    r"((?:[^,= \"\\]++|\\.)++)="
    r'(?:"((?:[^"\\]++|\\.)*+)"|(-?\d{1,19})i|([tTfF]|true|True|TRUE|false|False|FALSE)(?=,|$)'
    r"|([+-]?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d{1,4})?))(?:,(?!$)|$)"
)
_SERIES_PART = re.compile(r"((?:[^,\\]++|\\.)++)(?:,(?!$)|$)")
_TAG = re.compile(r"((?:[^=\\]++|\\.)++)=((?:[^=\\]++|\\.)++)")
_KEY_UNESCAPE = re.compile(r"\\([,= ])")
_STRING_UNESCAPE = re.compile(r'\\(["\\])')


@lru_cache(maxsize=4096)
def parse_series(text: str) -> tuple[str, Mapping[str, str]]:
    """Return measurement and tags of a line's first part; MalformedLine says what is wrong with it."""
    parts: list[str] = []
    position = 0
    while position < len(text):
        match = _SERIES_PART.match(text, position)
        if match is None:
            raise MalformedLine("broken measurement or tag set")
        parts.append(match[1])
        position = match.end()
    tags: dict[str, str] = {}
    for part in parts[1:]:
        match = _TAG.fullmatch(part)
        if match is None:
            raise MalformedLine(f"broken tag {part[:64]!r}")
        key = _KEY_UNESCAPE.sub(r"\1", match[1])
        if key in tags:
            raise MalformedLine(f"tag {key[:64]!r} appears twice")
        tags[key] = _KEY_UNESCAPE.sub(r"\1", match[2])
    return _KEY_UNESCAPE.sub(r"\1", parts[0]), MappingProxyType(tags)


def parse_fields(text: str) -> dict[str, FieldValue]:
    """Return the fields of a line's second part; MalformedLine says what is wrong with it."""
    fields: dict[str, FieldValue] = {}
    position = 0
    while position < len(text):
        match = _FIELD.match(text, position)
        if match is None:
            raise MalformedLine(f"broken field at {text[position : position + 64]!r}")
        key, string, integer, boolean, number = match.groups()
        if "\\" in key:
            key = _KEY_UNESCAPE.sub(r"\1", key)
        if string is not None:
            fields[key] = _STRING_UNESCAPE.sub(r"\1", string) if "\\" in string else string
        elif integer is not None:
            fields[key] = _int64(integer)
        elif boolean is not None:
            fields[key] = boolean[0] in "tT"
        else:
            fields[key] = _finite(number)
        position = match.end()
    return fields


def _int64(text: str) -> int:
    value = int(text)
    if not -INT64_MAX - 1 <= value <= INT64_MAX:
        raise MalformedLine(f"integer {text} does not fit into 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise MalformedLine(f"number {text[:64]} is out of range")
    return value


def split_line(line: str) -> tuple[str, str, int]:
    """Return (series, fields, time) of a line, the first two for parse_series and parse_fields; or MalformedLine."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise MalformedLine("not of the form 'series fields timestamp'")
    series, fields, time = match.groups()
    return series, fields, _int64(time)


def parse_line(line: str) -> Point:
    """Parse one line without its newline; MalformedLine says why it is none. Inverse of encode_point."""
    series, fields, time = split_line(line)
    measurement, tags = parse_series(series)
    return Point(measurement, tags, parse_fields(fields), time)
