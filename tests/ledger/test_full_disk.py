"""No space: a typed error, nothing half stored, and the ledger goes on once there is room again."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from microchain.ledger import schema
from microchain.ledger.ledger import Ledger, LedgerError, LedgerFull

from tests.ledger.chain import CHAIN_ID, make_chain, store_chain


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` (its signal is ignored by Python: writes fail)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_ledger_survives_refused_writes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", CHAIN_ID)
    blocks = make_chain(20, transactions=20, payload_bytes=1000)
    ledger.write(store_chain(blocks[:5], 4), durable=True)
    log = ledger.path.with_name("ledger.db-wal")
    for _ in range(3):
        with file_size_limit(log.stat().st_size + 50_000), pytest.raises(LedgerError, match="limits"):
            ledger.write(store_chain(blocks, 19), durable=True)
        assert ledger.finalized() == (4, blocks[3].id)
        assert ledger.block(blocks[5].id) is None
    ledger.write(store_chain(blocks, 19), durable=True)
    assert ledger.verify() == []
    ledger.close()
    reopened = Ledger(ledger.path, CHAIN_ID)
    assert reopened.finalized() == (19, blocks[18].id)
    assert reopened.verify() == []
    reopened.close()


def test_full_disk_has_an_error_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[sqlite3.Connection] = []

    def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
        connection = schema.connect(path, read_only=read_only)
        if not read_only:
            connection.execute("PRAGMA max_page_count = 40")
            connections.append(connection)
        return connection

    monkeypatch.setattr("microchain.ledger.ledger.connect", connect)
    ledger = Ledger(tmp_path / "ledger.db", CHAIN_ID)
    blocks = make_chain(20, transactions=40, payload_bytes=1000)
    ledger.write(store_chain(blocks[:3], 2), durable=True)
    with pytest.raises(LedgerFull, match="disk is full"):
        ledger.write(store_chain(blocks, 19), durable=True)
    assert ledger.finalized() == (2, blocks[1].id)
    connections[0].execute("PRAGMA max_page_count = 10000")
    ledger.write(store_chain(blocks, 19), durable=True)
    assert ledger.verify() == []
    ledger.close()
