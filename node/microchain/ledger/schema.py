"""The ledger's file: its tables, how it comes into being and how it is opened.

A new ledger is built beside its place and renamed into it, so that a file which is there is always whole: an empty or
half-made one is damage, never a beginning.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

from microchain.consensus.types import Digest
from microchain.ledger.errors import LedgerError, translated
from microchain.ledger.rows import compute_checksum

__all__ = ["SCHEMA_VERSION", "connect", "lock", "prepare"]

SCHEMA_VERSION = 2
APPLICATION_ID = 0x4D696372
PAGE_BYTES = 16384
WAL_PAGES = 1024
"""Frames after which a commit also copies the log into the main file (16 MiB)."""
CACHE_KIB = 1024

_SCHEMA = """
-- SQLite notices no flipped bit inside a value: `checksum` is the CRC-32 of the other columns (see rows.py).
CREATE TABLE meta (key TEXT PRIMARY KEY, checksum INTEGER NOT NULL, value ANY) STRICT, WITHOUT ROWID;

-- Every stored block, finalized or not. `slot` is only set for this node's own proposals.
CREATE TABLE block (
    number INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    id BLOB NOT NULL UNIQUE,
    height INTEGER NOT NULL,
    parent BLOB NOT NULL,
    own INTEGER NOT NULL,
    slot INTEGER,
    transaction_count INTEGER NOT NULL,
    size INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    header BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX own_proposal ON block (parent, slot) WHERE own = 1;

-- Bodies apart from blocks: marking a block must not rewrite megabytes. The small columns come first, since SQLite
-- reads a long row only as far as it has to.
CREATE TABLE body (
    number INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    state BLOB NOT NULL,
    base INTEGER NOT NULL,
    votes BLOB NOT NULL,
    ids BLOB NOT NULL,
    expiries BLOB NOT NULL,
    transactions BLOB NOT NULL
) STRICT;

-- The part of a block's state that is the same for many blocks.
CREATE TABLE base (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, state BLOB NOT NULL) STRICT;

CREATE TABLE unfinalized (number INTEGER PRIMARY KEY, height INTEGER NOT NULL) STRICT;
CREATE TABLE chain (height INTEGER PRIMARY KEY, number INTEGER NOT NULL, expires INTEGER NOT NULL) STRICT;
CREATE INDEX chain_expires ON chain (expires);

-- `dynasty` is only set for this node's own votes: they are its journal.
CREATE TABLE vote (
    id BLOB PRIMARY KEY,
    checksum INTEGER NOT NULL,
    own INTEGER NOT NULL,
    dynasty INTEGER,
    source_epoch INTEGER NOT NULL,
    target BLOB NOT NULL,
    target_epoch INTEGER NOT NULL,
    raw BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX own_vote ON vote (dynasty, target_epoch) WHERE own = 1;

CREATE TABLE evidence (
    number INTEGER PRIMARY KEY,
    checksum INTEGER NOT NULL,
    pair BLOB NOT NULL UNIQUE,
    rule TEXT NOT NULL,
    offender BLOB NOT NULL,
    first BLOB NOT NULL,
    second BLOB NOT NULL
) STRICT;
CREATE INDEX evidence_offender ON evidence (offender, rule);

-- Where finalized transactions are; see transaction_index.py.
CREATE TABLE segment (number INTEGER PRIMARY KEY, last_height INTEGER NOT NULL) STRICT;
CREATE TABLE transaction_position (
    segment INTEGER NOT NULL,
    prefix INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (segment, prefix, position)
) STRICT, WITHOUT ROWID;
"""


def lock(path: Path) -> int:
    """Take the ledger's lock for this process (released when it ends, however it ends); return its file descriptor."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LedgerError(f"{path}: its directory cannot be used ({error.strerror}); look at its rights") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise LedgerError(f"{path}: another process has this ledger open; a validator must never run twice") from None
    return descriptor


def prepare(path: Path, chain_id: Digest, *, read_only: bool) -> None:
    """Make the ledger if there is none, else check that it is one of this chain; LedgerError if it is not."""
    if path.is_dir():
        raise LedgerError(f"{path}: is a directory; the ledger is a file in the node's data directory")
    if not path.exists():
        if read_only:
            raise LedgerError(f"{path}: there is no ledger; has this node run yet?")
        if path.with_name(path.name + "-wal").exists():
            raise LedgerError(f"{path}: the ledger is gone but its log {path.name}-wal is there; put the file back")
        _create(path, chain_id)
        return
    _check_file(path)
    with translated(path):
        connection = connect(path, read_only=True)
        try:
            _check_contents(path, connection, chain_id)
        finally:
            connection.close()


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open a connection that any thread may use (one at a time). Transactions are begun explicitly."""
    mode = "mode=rw"
    if read_only:
        mode = "mode=ro"
        # A reader has to share memory with a writer through a file beside the ledger; a sealed copy has no writer.
        if not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
            mode = "immutable=1"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=10.0
    )
    try:
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if not read_only:
            connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {2 * WAL_PAGES * PAGE_BYTES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _create(path: Path, chain_id: Digest) -> None:
    fresh = path.with_name(path.name + ".new")
    with translated(path):
        for leftover in (fresh, fresh.with_name(fresh.name + "-wal"), fresh.with_name(fresh.name + "-shm")):
            leftover.unlink(missing_ok=True)
        connection = sqlite3.connect(fresh, isolation_level=None)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
            connection.execute(
                "INSERT INTO meta VALUES ('chain_id', ?, ?)", (compute_checksum("chain_id", chain_id), chain_id)
            )
        finally:
            connection.close()
        fresh.rename(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror}); look at the file's rights") from error
    if not start:
        raise LedgerError(f"{path}: is empty, which no ledger ever is; restore it or use a new data directory")
    if start != b"SQLite format 3\0":
        raise LedgerError(f"{path}: is no SQLite file, so no ledger; look at `data` in the node's configuration")


def _check_contents(path: Path, connection: sqlite3.Connection, chain_id: Digest) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise LedgerError(f"{path}: is an SQLite file but no ledger; look at `data` in the node's configuration")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise LedgerError(
            f"{path}: has schema version {version}, this software reads {SCHEMA_VERSION}; "
            "use the version that wrote it, or a new data directory"
        )
    row = connection.execute("SELECT value FROM meta WHERE key = 'chain_id'").fetchone()
    if row is None or row[0] != chain_id:
        found = row[0].hex()[:16] if row and isinstance(row[0], bytes) else "none"
        raise LedgerError(
            f"{path}: belongs to chain {found}…, the genesis document says {chain_id.hex()[:16]}…; "
            "give this node the right genesis document, or a new data directory"
        )
