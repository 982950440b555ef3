"""What is no ledger, or a damaged one, or one of another chain, is refused in plain words and left as it is."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from microchain.consensus.types import Height
from microchain.ledger.ledger import Ledger, LedgerError

from tests.ledger.chain import (
    CHAIN_ID,
    COMMITTEE,
    OTHER_CHAIN_ID,
    make_chain,
    make_evidence,
    make_vote,
    store_chain,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger with some of everything."""
    path = tmp_path_factory.mktemp("whole") / "ledger.db"
    ledger = Ledger(path, CHAIN_ID)
    blocks = make_chain(30, transactions=4, payload_bytes=700)
    vote = make_vote(0, blocks[27].id, 28, blocks[28].id, 29, own=True)
    ledger.write([*store_chain(blocks, 28), vote, make_evidence(1)], durable=True)
    ledger.close()
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "ledger.db"))


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 40_000)


def cut_inside_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(20_000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_text("these are my holiday notes\n" * 100)


def overwrite_schema(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(random.Random(1).randbytes(16_000))


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "kept").touch()


def replace_by_other_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE holidays (day)")
    connection.close()


def raise_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()


def forget_chain(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM meta")
    connection.close()


def remove_but_keep_the_log(path: Path) -> None:
    path.rename(path.with_name("ledger.db-wal"))


def read_everything(path: Path) -> tuple[Any, ...]:
    with path.open("rb") as file:
        return path.stat().st_size, file.read()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "damaged"),
        (cut_inside_a_page, "damaged"),
        (empty, "is empty"),
        (overwrite, "no SQLite file"),
        (overwrite_schema, "damaged"),
        (replace_by_directory, "is a directory"),
        (replace_by_other_database, "no ledger"),
        (raise_version, "schema version 7"),
        (forget_chain, "belongs to chain none"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_unusable_file_is_refused_and_left_alone(
    path: Path, damage: Callable[[Path], None], says: str, read_only: bool
) -> None:
    damage(path)
    before = sorted(path.iterdir()) if path.is_dir() else read_everything(path)
    with pytest.raises(LedgerError, match=says) as refusal:
        Ledger(path, CHAIN_ID, read_only=read_only)
    assert str(path) in str(refusal.value)
    assert (sorted(path.iterdir()) if path.is_dir() else read_everything(path)) == before


def test_ledger_of_another_chain_is_refused(path: Path) -> None:
    with pytest.raises(LedgerError, match="belongs to chain"):
        Ledger(path, OTHER_CHAIN_ID)
    Ledger(path, CHAIN_ID).close()


def test_lost_file_with_its_log_left_is_no_new_ledger(path: Path) -> None:
    remove_but_keep_the_log(path)
    with pytest.raises(LedgerError, match="put the file back"):
        Ledger(path, CHAIN_ID)
    assert not path.exists()


def test_reading_needs_a_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger(tmp_path / "ledger.db", CHAIN_ID, read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_unfinished_creation_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "ledger.db.new").write_bytes(b"half")
    ledger = Ledger(tmp_path / "ledger.db", CHAIN_ID)
    assert ledger.verify() == []
    ledger.close()


def test_directory_that_cannot_be_made_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(LedgerError, match="directory"):
        Ledger(tmp_path / "data" / "ledger.db", CHAIN_ID)


def test_second_process_is_kept_out(path: Path) -> None:
    ledger = Ledger(path, CHAIN_ID)
    with pytest.raises(LedgerError, match="another process"):
        Ledger(path, CHAIN_ID)
    ledger.close()
    Ledger(path, CHAIN_ID).close()


def read_all(path: Path) -> tuple[Any, ...]:
    ledger = Ledger(path, CHAIN_ID, committee=COMMITTEE)
    try:
        restored = ledger.restore()
        blocks = ledger.blocks_from(Height(1), 10**9)
        ids = [id for block in blocks for id in block.transaction_ids]
        return (
            restored.finalized,
            restored.state,
            tuple(restored.recent),
            restored.blocks,
            restored.votes,
            restored.own_votes,
            restored.certificate,
            blocks,
            [ledger.find_transaction(id) for id in ids],
            ledger.evidence(),
            ledger.certificate_for(Height(3)),
            ledger.finalized(),
            ledger.digest(),
        )
    finally:
        ledger.close()


def find_problems(path: Path) -> list[str]:
    ledger = Ledger(path, CHAIN_ID)
    try:
        return ledger.verify()
    finally:
        ledger.close()


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bits_are_noticed_or_do_no_harm(whole: Path, path: Path, seed: int) -> None:
    """Never another exception than LedgerError, never a changed value that `verify` does not notice."""
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    refused = problems = False
    try:
        problems = bool(find_problems(path))
    except LedgerError:
        refused = True
    try:
        values = read_all(path)
    except LedgerError:
        assert refused or problems
        return
    assert refused or problems or values == read_all(whole)
