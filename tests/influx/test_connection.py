"""The connection file: secret, checked, and never shown with its tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.influx.connection import Connection, ConnectionFileError, load_connection, save_connection

GOOD = Connection(
    url="https://desktop.local:8086",
    version="2.7.12",
    org="testbed",
    bucket="microchain",
    write_token="w",
    read_token="r",
)


def save_text(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def change(path: Path, **values: object) -> Path:
    save_connection(path, GOOD)
    return save_text(path, json.dumps(json.loads(path.read_text()) | values))


def test_it_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "influxdb" / "connection.json"
    assert save_connection(path, GOOD)
    assert not save_connection(path, GOOD)
    assert load_connection(path) == GOOD
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_one_that_others_can_read_is_refused_and_mended_by_saving(tmp_path: Path) -> None:
    path = tmp_path / "connection.json"
    save_connection(path, GOOD)
    path.chmod(0o640)
    with pytest.raises(ConnectionFileError, match="readable by others; `chmod 600` it"):
        load_connection(path)
    assert save_connection(path, GOOD)
    assert load_connection(path) == GOOD


def test_a_missing_one_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFileError, match=r"`\./testbed influx up` writes one"):
        load_connection(tmp_path / "connection.json")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"url": "ftp://host"}, "url must look like"),
        ({"url": "http://user:secret@host"}, "url must look like"),
        ({"url": "http://host/path"}, "url must look like"),
        ({"url": "http://host:99999"}, "can't be read"),
        ({"url": "http://[::1"}, "can't be read"),
        ({"version": "1.7.3"}, "version must be"),
        ({"version": "3.0.0"}, "version must be"),
        ({"version": "1.8.10"}, "database/retention-policy"),
        ({"bucket": ""}, "must not be empty"),
        ({"write_token": "two\nlines"}, "printable ASCII"),
        ({"read_token": "é"}, "printable ASCII"),
        ({"ca": "/does/not/exist"}, "does not exist"),
        ({"org": 5}, "is no connection file"),
    ],
)
def test_what_cant_be_right_is_refused(values: dict[str, object], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConnectionFileError, match=sentence):
        load_connection(change(tmp_path / "connection.json", **values))


def test_a_directory_a_large_file_and_no_json_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, save_text(tmp_path / "large", b" " * (65 << 10)), save_text(tmp_path / "x", "{")):
        with pytest.raises(ConnectionFileError):
            load_connection(path)


@given(st.binary(max_size=200))
def test_no_file_makes_reading_fail_otherwise(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory, pytest.raises(ConnectionFileError):
        load_connection(save_text(Path(directory) / "file", content))
