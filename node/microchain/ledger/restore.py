"""What a node finds when it starts again."""

from __future__ import annotations

import sqlite3

from microchain.consensus.interface import BlockRecord, Restored, VoteRecord
from microchain.consensus.objects import decode_header, decode_vote
from microchain.consensus.types import Digest, Epoch
from microchain.ledger.rows import BodyRow, RecentTransactions, decode_block, decode_list

__all__ = ["BLOCK_COLUMNS", "read_block", "restore"]

BLOCK_COLUMNS = "id, block.height, parent, own, header, checksum, state, votes, ids, body.expiries, transactions"
"""What `read_block` takes, of ``block JOIN body USING (number)``."""


def read_block(row: tuple[object, ...]) -> BlockRecord:
    """Return the record of a row of BLOCK_COLUMNS; ValueError if it is not what was written."""
    return decode_block(row[:5], BodyRow(*row[5:]))  # type: ignore[arg-type]


def restore(connection: sqlite3.Connection) -> Restored:
    """Read what an engine starts from, in one read transaction; a ValueError where a stored value is damaged."""
    height, header, id, state = connection.execute(
        "SELECT chain.height, header, id, state FROM chain JOIN block USING (number) JOIN body USING (number) "
        "ORDER BY chain.height DESC LIMIT 1"
    ).fetchone() or (0, b"", b"", b"")
    if header and decode_header(header).id != id:
        raise ValueError(f"the finalized header at height {height} does not hash to its id")
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    votes = _read_votes(connection)
    own = sorted((vote for vote in votes if vote.own), key=_get_order)
    return Restored(
        finalized=header,
        state=state,
        certificate=decode_list(meta["certificate"]) if "certificate" in meta else (),
        recent=_read_recent(connection, height),
        blocks=tuple(
            read_block(row)
            for row in connection.execute(
                f"SELECT {BLOCK_COLUMNS} FROM unfinalized JOIN block USING (number) JOIN body USING (number) "
                "ORDER BY block.height, number"
            )
        ),
        votes=tuple(vote for vote in votes if vote.target_epoch >= meta.get("finalized_epoch", 0)),
        own_votes=tuple(own[-1:]),
    )


def _get_order(vote: VoteRecord) -> tuple[int, int]:
    return decode_vote(vote.raw).body.dynasty, vote.target_epoch


def _read_votes(connection: sqlite3.Connection) -> list[VoteRecord]:
    votes = []
    for id, raw, own, source_epoch, target, target_epoch in connection.execute(
        "SELECT id, raw, own, source_epoch, target, target_epoch FROM vote ORDER BY target_epoch, id"
    ):
        vote = decode_vote(raw)
        if (vote.id, vote.source_epoch, vote.target, vote.target_epoch) != (id, source_epoch, target, target_epoch):
            raise ValueError(f"the vote {bytes(id).hex()[:16]} is not what was written")
        votes.append(VoteRecord(vote.id, raw, bool(own), Epoch(source_epoch), Digest(target), Epoch(target_epoch)))
    return votes


def _read_recent(connection: sqlite3.Connection, height: int) -> RecentTransactions:
    recent = RecentTransactions()
    for ids, expiries in connection.execute(
        "SELECT ids, body.expiries FROM chain INDEXED BY chain_expires JOIN body USING (number) WHERE expires >= ?",
        (height,),
    ):
        recent.extend(ids, expiries, height)
    return recent
