"""Persists are stored in order and reported on the event loop; after a failure nothing is reported any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from microchain.consensus.interface import Persist, Record
from microchain.ledger.ledger import Ledger, LedgerConflict, LedgerError
from microchain.ledger.writer import LedgerWriter

from tests.ledger.chain import CHAIN_ID, finalize, make_chain, make_vote, store_chain


class RecordingLedger(Ledger):
    """Notes each commit; `gate` closed makes the writer's thread wait before one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, CHAIN_ID)
        self.commits: list[tuple[int, bool]] = []
        self.checkpoints = threading.Event()
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.gate.set()

    def write(self, records: Sequence[Record], *, durable: bool) -> None:
        self.entered.set()
        self.gate.wait()
        super().write(records, durable=durable)
        self.commits.append((len(records), durable))

    def checkpoint(self) -> None:
        super().checkpoint()
        self.checkpoints.set()


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[RecordingLedger]:
    ledger = RecordingLedger(tmp_path / "ledger.db")
    yield ledger
    ledger.close()


class Reports:
    """What a writer reported, in order."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.errors: list[LedgerError] = []
        self.threads: set[int] = set()
        self._changed = asyncio.Event()

    def done(self, token: int) -> None:
        self.tokens.append(token)
        self.threads.add(threading.get_ident())
        self._changed.set()

    def failed(self, error: LedgerError) -> None:
        self.errors.append(error)
        self._changed.set()

    async def wait_for(self, tokens: int, errors: int = 0) -> None:
        while len(self.tokens) < tokens or len(self.errors) < errors:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 10)


async def test_reports_come_in_order_on_the_event_loop(ledger: RecordingLedger) -> None:
    reports = Reports()
    writer = LedgerWriter(ledger, asyncio.get_running_loop(), reports.failed)
    blocks = make_chain(30)
    for token, record in enumerate(store_chain(blocks, 29)):
        writer.submit(Persist(token, (record,), durable=False), reports.done)
    await reports.wait_for(59)
    assert reports.tokens == list(range(59))
    assert reports.threads == {threading.get_ident()}
    assert ledger.finalized() == (29, blocks[28].id)
    await asyncio.to_thread(writer.close)


async def test_waiting_persists_share_a_commit_durable_if_one_is(ledger: RecordingLedger) -> None:
    reports = Reports()
    writer = LedgerWriter(ledger, asyncio.get_running_loop(), reports.failed)
    blocks = make_chain(4)
    ledger.gate.clear()
    writer.submit(Persist(0, (blocks[0],), durable=False), reports.done)
    assert await asyncio.to_thread(ledger.entered.wait, 10)
    for token, durable in ((1, False), (2, True), (3, False)):
        writer.submit(Persist(token, (blocks[token],), durable), reports.done)
    ledger.gate.set()
    await reports.wait_for(4)
    assert ledger.commits == [(1, False), (3, True)]
    await asyncio.to_thread(writer.close)


async def test_failed_write_is_reported_once_and_nothing_after_it_is_stored(ledger: RecordingLedger) -> None:
    reports = Reports()
    writer = LedgerWriter(ledger, asyncio.get_running_loop(), reports.failed)
    blocks = make_chain(4)
    vote = make_vote(0, CHAIN_ID, 0, blocks[0].id, 1, own=True)
    writer.submit(Persist(0, (blocks[0], vote), durable=True), reports.done)
    await reports.wait_for(1)
    ledger.entered.clear()
    ledger.gate.clear()
    writer.submit(Persist(1, (finalize(blocks[2:3]),), durable=False), reports.done)
    assert await asyncio.to_thread(ledger.entered.wait, 10)
    writer.submit(Persist(2, (blocks[1],), durable=True), reports.done)
    ledger.gate.set()
    await reports.wait_for(1, errors=1)
    writer.submit(Persist(3, (blocks[2],), durable=True), reports.done)
    await asyncio.to_thread(writer.close)
    await asyncio.sleep(0)
    assert reports.tokens == [0]
    assert [type(error) for error in reports.errors] == [LedgerConflict]
    assert ledger.block(blocks[1].id) is None and ledger.block(blocks[2].id) is None


async def test_unexpected_failure_is_reported_too(ledger: RecordingLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(records: Sequence[Record], *, durable: bool) -> None:
        raise MemoryError

    monkeypatch.setattr(ledger, "write", fail)
    reports = Reports()
    writer = LedgerWriter(ledger, asyncio.get_running_loop(), reports.failed)
    writer.submit(Persist(0, (), durable=True), reports.done)
    await reports.wait_for(0, errors=1)
    assert "MemoryError" in str(reports.errors[0])
    await asyncio.to_thread(writer.close)


async def test_close_stores_what_is_queued(ledger: RecordingLedger) -> None:
    reports = Reports()
    writer = LedgerWriter(ledger, asyncio.get_running_loop(), reports.failed)
    blocks = make_chain(600, transactions=0)
    for token, block in enumerate(blocks):
        writer.submit(Persist(token, (block,), durable=False), reports.done)
    await asyncio.to_thread(writer.close)
    assert ledger.block(blocks[-1].id) == blocks[-1]
    await reports.wait_for(600)
    with pytest.raises(RuntimeError, match="closed"):
        writer.submit(Persist(1000, (), durable=False), reports.done)


async def test_idle_writer_copies_the_log(ledger: RecordingLedger) -> None:
    reports = Reports()
    writer = LedgerWriter(ledger, asyncio.get_running_loop(), reports.failed)
    before = ledger.path.stat().st_size
    writer.submit(Persist(0, tuple(make_chain(5, payload_bytes=10_000)), durable=False), reports.done)
    assert await asyncio.to_thread(ledger.checkpoints.wait, 10)
    assert ledger.path.stat().st_size > before
    await asyncio.to_thread(writer.close)
