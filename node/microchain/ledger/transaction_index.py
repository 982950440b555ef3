"""Where finalized transactions are: an index that costs about a microsecond for each and dirties few pages.

Ids are random, so a plain index would dirty one page of the file for each transaction. Instead, the newest blocks are
not indexed at all (their ids stand together in their bodies and are searched there). When enough have gathered, their
8-byte prefixes are written in order as one *segment*; segments are merged, MERGED at a time, into one larger.
"""

from __future__ import annotations

import sqlite3
import struct

from microchain.consensus.types import Digest, Height
from microchain.ledger.rows import ID_BYTES

__all__ = ["TransactionIndex", "find_position"]

PENDING_TRANSACTIONS = 4096
PENDING_BLOCKS = 256
MERGED = 16
INDEX_BITS = 20
"""A position is height << INDEX_BITS | index: a block of 8 MiB has fewer than 2^20 transactions."""

_INDEXED = "(SELECT ifnull(max(last_height), 0) FROM segment)"


class TransactionIndex:
    """Writes the index of finalized transactions; the caller holds the connection's lock and transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._pending: tuple[int, int] | None = None

    def forget(self) -> None:
        """Drop what is remembered of a transaction that was rolled back."""
        self._pending = None

    def add(self, blocks: int, transactions: int) -> None:
        """Count blocks that became final and are in the chain now; index what has gathered if it is enough."""
        if self._pending is None:
            self._pending = self._connection.execute(
                "SELECT count(*), ifnull(sum(transaction_count), 0) FROM chain JOIN block USING (number) "
                f"WHERE chain.height > {_INDEXED}"
            ).fetchone()
        else:
            self._pending = self._pending[0] + blocks, self._pending[1] + transactions
        if self._pending[0] >= PENDING_BLOCKS or self._pending[1] >= PENDING_TRANSACTIONS:
            self._write_segment()
            self._merge()
            self._pending = 0, 0

    def _write_segment(self) -> None:
        entries: list[tuple[int, int]] = []
        last = 0
        rows = self._connection.execute(
            f"SELECT height, ids FROM chain JOIN body USING (number) WHERE height > {_INDEXED} ORDER BY height"
        )
        for height, ids in rows:
            count = len(ids) // ID_BYTES
            first = height << INDEX_BITS
            entries.extend(zip(struct.unpack(">" + "q24x" * count, ids), range(first, first + count), strict=True))
            last = height
        entries.sort()
        segment = self._connection.execute("INSERT INTO segment (merged, last_height) VALUES (0, ?)", (last,)).lastrowid
        self._connection.executemany(
            f"INSERT INTO transaction_position VALUES ({segment}, ?, ?)",
            entries,
        )

    def _merge(self) -> None:
        small = self._connection.execute("SELECT number, last_height FROM segment WHERE merged = 0").fetchall()
        if len(small) < MERGED:
            return
        first, last = small[0][0], small[-1][0]
        merged = self._connection.execute(
            "INSERT INTO segment (merged, last_height) VALUES (1, ?)", (small[-1][1],)
        ).lastrowid
        self._connection.execute(
            f"INSERT INTO transaction_position SELECT {merged}, prefix, position FROM transaction_position "
            "WHERE segment BETWEEN ? AND ? ORDER BY prefix, position",
            (first, last),
        )
        self._connection.execute("DELETE FROM transaction_position WHERE segment BETWEEN ? AND ?", (first, last))
        self._connection.execute("DELETE FROM segment WHERE number BETWEEN ? AND ?", (first, last))


def find_position(connection: sqlite3.Connection, id: Digest) -> tuple[Height, int] | None:
    """Return (height, index) of a finalized transaction, or None."""
    rows = connection.execute(
        f"SELECT height, ids FROM chain JOIN body USING (number) WHERE height > {_INDEXED} AND instr(ids, ?) > 0", (id,)
    )
    for height, ids in rows:
        index = _find_aligned(ids, id)
        if index is not None:
            return Height(height), index
    (prefix,) = struct.unpack_from(">q", id)
    positions = connection.execute(
        "SELECT position FROM segment JOIN transaction_position ON segment = segment.number WHERE prefix = ?", (prefix,)
    ).fetchall()
    for (position,) in positions:
        height, index = position >> INDEX_BITS, position & ((1 << INDEX_BITS) - 1)
        found = connection.execute(
            "SELECT substr(ids, ?, ?) FROM chain JOIN body USING (number) WHERE height = ?",
            (index * ID_BYTES + 1, ID_BYTES, height),
        ).fetchone()
        if found is not None and found[0] == id:
            return Height(height), index
    return None


def _find_aligned(ids: bytes, id: Digest) -> int | None:
    start = ids.find(id)
    while start >= 0:
        if start % ID_BYTES == 0:
            return start // ID_BYTES
        start = ids.find(id, start + 1)
    return None
