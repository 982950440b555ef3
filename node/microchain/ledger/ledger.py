"""A validator's ledger in one SQLite file: what must survive `kill -9` and power loss (protocol, sections 5 and 9).

Write-ahead logging: a commit with ``synchronous = FULL`` is on the disk when it returns, with all before it; one with
``NORMAL`` survives the end of the process, and after a power loss it is there whole or not at all. One connection
writes, another reads, each under a lock of its own, so readers never wait for a commit.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from microchain.consensus.genesis import Committee
from microchain.consensus.interface import BlockRecord, EvidenceRecord, Record, Restored
from microchain.consensus.kept import decode_kept
from microchain.consensus.state import get_committee
from microchain.consensus.types import Digest, Height
from microchain.ledger.audit import PROBLEMS_LIMIT, compute_digest, find_problems
from microchain.ledger.certificate import find_certificate
from microchain.ledger.errors import LedgerConflict, LedgerError, LedgerFull, decoding, translated
from microchain.ledger.restore import read_meta, restore
from microchain.ledger.rows import BLOCK_COLUMNS, check_row, decode_block, decode_list
from microchain.ledger.schema import connect, lock, prepare
from microchain.ledger.store import Store
from microchain.ledger.transaction_index import find_position

__all__ = ["Ledger", "LedgerConflict", "LedgerError", "LedgerFull"]

CERTIFICATE_BLOCKS = 256
"""How many blocks above a block are searched for the votes that made it final."""


class Ledger:
    """The ledger of one chain at ``path``, made if it is not there. Methods may be called from any thread.

    ``committee`` finds old finality certificates where blocks were stored without the engine's state. A writable ledger
    is locked for this process. LedgerError if the file is damaged, of another chain or of another schema version.
    """

    def __init__(
        self, path: Path, chain_id: Digest, *, committee: Committee | None = None, read_only: bool = False
    ) -> None:
        self.path = path
        self.chain_id = chain_id
        self._committee = committee
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._lock = None if read_only else lock(path)
        self._writer: sqlite3.Connection | None = None
        try:
            with translated(path):
                prepare(path, chain_id, read_only=read_only)
                if not read_only:
                    self._writer = connect(path, read_only=False)
                    self._store = Store(self._writer, chain_id)
                    self._durable: bool | None = None
                self._reader = connect(path, read_only=True)
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Close the file and give up its lock; closing again does nothing."""
        with self._writing, self._reading:
            self._reader.close()
            self._release()

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, records: Sequence[Record], *, durable: bool) -> None:
        """Store the records in one transaction, on the disk when this returns if ``durable``.

        LedgerConflict: one contradicts what is stored. LedgerFull: no space. LedgerError: anything else. In each case
        nothing of the records is stored and the ledger can be used further.
        """
        with self._writing, translated(self.path):
            if self._writer is None:
                raise LedgerError(f"{self.path}: was opened for reading only")
            writer = self._writer
            if durable is not self._durable:
                writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            writer.execute("BEGIN IMMEDIATE")
            try:
                changes = writer.total_changes
                for record in records:
                    self._store.apply(record)
                if durable and writer.total_changes == changes:
                    self._store.touch()
                writer.execute("COMMIT")
            except BaseException:
                self._store.forget()
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                raise

    def checkpoint(self) -> None:
        """Copy the log into the main file now, rather than in the middle of a later `write` (two syncs)."""
        with self._writing, translated(self.path):
            if self._writer is not None:
                self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    # --- reading --------------------------------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        """Lend the reading connection with one consistent view of the ledger."""
        with self._reading, decoding(self.path):
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("ROLLBACK")

    @contextmanager
    def _read_long(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection of its own to what reads the whole ledger, so that others need not wait for it."""
        with decoding(self.path):
            connection = connect(self.path, read_only=True)
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                connection.close()

    def restore(self) -> Restored:
        """Return what an engine starts from."""
        with self._read() as reader:
            return restore(reader)

    def finalized(self) -> tuple[Height, Digest]:
        """Return height and id of the last finalized block; (0, chain id) if only genesis is final."""
        with self._read() as reader:
            row = reader.execute(
                "SELECT chain.height, id FROM chain JOIN block USING (number) ORDER BY chain.height DESC LIMIT 1"
            ).fetchone()
            return (Height(row[0]), Digest(row[1])) if row else (Height(0), self.chain_id)

    def block_at(self, height: Height) -> BlockRecord | None:
        """Return the finalized block at ``height``, or None."""
        with self._read() as reader:
            row = reader.execute(f"{_SELECT_FINALIZED} WHERE chain.height = ?", (height,)).fetchone()
            return decode_block(row) if row else None

    def block(self, id: Digest) -> BlockRecord | None:
        """Return a block, finalized or not, or None."""
        with self._read() as reader:
            row = reader.execute(
                f"SELECT {BLOCK_COLUMNS} FROM block JOIN body USING (number) WHERE id = ?", (id,)
            ).fetchone()
            return decode_block(row) if row else None

    def blocks_from(self, height: Height, max_bytes: int) -> list[BlockRecord]:
        """Return consecutive finalized blocks from ``height`` on: at least one if there is one, then what fits."""
        blocks: list[BlockRecord] = []
        with self._read() as reader:
            rows = reader.execute(f"{_SELECT_FINALIZED} WHERE chain.height >= ? ORDER BY chain.height", (height,))
            for row in rows:
                block = decode_block(row)
                max_bytes -= len(block.header) + sum(map(len, block.transactions)) + sum(map(len, block.votes))
                if blocks and max_bytes < 0:
                    break
                blocks.append(block)
                if max_bytes <= 0:
                    break
        return blocks

    def find_transaction(self, id: Digest) -> tuple[Height, int] | None:
        """Return height and index of a finalized transaction, or None."""
        with self._read() as reader:
            return find_position(reader, id)

    def _committee_at(self, reader: sqlite3.Connection, height: Height) -> Committee | None:
        """Return the committee of the dynasty that the block at ``height`` belongs to."""
        row = reader.execute(
            "SELECT body.state, base.state FROM chain JOIN body USING (number) JOIN base ON base.number = body.base "
            "WHERE chain.height = ?",
            (height,),
        ).fetchone()
        return get_committee(decode_kept(*row)[1]) if row and row[1] else self._committee

    def certificate_for(self, height: Height) -> tuple[bytes, ...] | None:
        """Return the votes that prove the block at ``height`` or a checkpoint above it final; None if it is not final.

        They are found in the bodies of the blocks above it; where they are not (yet), the newest certificate serves,
        which proves all finalized blocks.
        """
        with self._read() as reader:
            if reader.execute("SELECT 1 FROM chain WHERE height = ?", (height,)).fetchone() is None:
                return None
            committee = self._committee_at(reader, height)
            if committee is not None:
                bodies = reader.execute(
                    "SELECT votes FROM chain JOIN body USING (number) WHERE height > ? ORDER BY height", (height,)
                )
                certificate = find_certificate(
                    (decode_list(votes) for (votes,) in islice(bodies, CERTIFICATE_BLOCKS)),
                    committee,
                    height,
                    lambda id: _get_height(reader, id),
                )
                if certificate is not None:
                    return certificate
            stored = read_meta(reader).get("certificate")
            return decode_list(stored) if stored is not None else None

    def evidence(self) -> list[EvidenceRecord]:
        """Return all evidence, oldest first."""
        with self._read() as reader:
            rows = reader.execute("SELECT checksum, pair, rule, offender, first, second FROM evidence ORDER BY number")
            return [EvidenceRecord(*check_row(row)[1:]) for row in rows]

    def digest(self) -> dict[str, Any]:
        """Return what is compared between nodes after a run, as JSON values; reads all bodies."""
        with self._read_long() as reader:
            return compute_digest(reader, self.chain_id)

    def verify(self) -> list[str]:
        """Hash and follow everything again; return the problems, none if the ledger is sound."""
        with self._read_long() as reader:
            return list(islice(find_problems(reader, self.chain_id), PROBLEMS_LIMIT))


_SELECT_FINALIZED = f"SELECT {BLOCK_COLUMNS} FROM chain JOIN block USING (number) JOIN body USING (number)"


def _get_height(reader: sqlite3.Connection, id: Digest) -> Height | None:
    row = reader.execute("SELECT chain.height FROM block JOIN chain USING (number) WHERE id = ?", (id,)).fetchone()
    return Height(row[0]) if row else None
