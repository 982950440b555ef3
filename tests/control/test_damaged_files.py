"""Files that are not UTF-8 are damaged files like any others: one plain sentence, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.errors import UsageError
from control.inventory import read_deployment
from control.progress import ProgressTail


def test_endpoints_that_are_not_text_are_a_plain_error(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.json"
    file.write_bytes(b'{"ca": "\xff\xfe"}')
    with pytest.raises(UsageError, match="endpoints"):
        read_deployment(file)


def test_a_line_of_progress_that_is_not_text_is_skipped_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    file.write_bytes(b'{"at": "\xff"}\n')
    reader = ProgressTail(file)
    assert reader.read() == []
    assert reader.skipped == 1
