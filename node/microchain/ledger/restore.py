"""What a node finds when it starts again."""

from __future__ import annotations

import sqlite3
from typing import Any

from microchain.consensus.interface import EvidenceRecord, Restored, VoteRecord
from microchain.consensus.objects import decode_vote
from microchain.consensus.types import Digest, Epoch, NodeId
from microchain.ledger.rows import BLOCK_COLUMNS, RecentTransactions, check_row, decode_block, decode_list
from microchain.ledger.store import JOURNAL_PREFIX

__all__ = ["read_meta", "restore"]


def restore(connection: sqlite3.Connection) -> Restored:
    """Read what an engine starts from, in one read transaction; a ValueError where a stored value is damaged."""
    row = connection.execute(
        f"SELECT {BLOCK_COLUMNS} FROM chain JOIN block USING (number) JOIN body USING (number) "
        "ORDER BY chain.height DESC LIMIT 1"
    ).fetchone()
    finalized = decode_block(row) if row else None
    height = finalized.height if finalized else 0
    meta = read_meta(connection)
    votes = _read_votes(connection)
    own = sorted((vote for vote in votes if vote.own), key=_get_order)
    return Restored(
        finalized=finalized.header if finalized else b"",
        state=finalized.state if finalized else b"",
        certificate=decode_list(meta["certificate"]) if "certificate" in meta else (),
        recent=_read_recent(connection, height),
        blocks=tuple(
            decode_block(row)
            for row in connection.execute(
                f"SELECT {BLOCK_COLUMNS} FROM unfinalized JOIN block USING (number) JOIN body USING (number) "
                "ORDER BY block.height, number"
            )
        ),
        votes=tuple(vote for vote in votes if vote.target_epoch >= meta.get("finalized_epoch", 0)),
        own_votes=tuple(own[-1:]),
        base=finalized.base if finalized else b"",
        journal={
            key.removeprefix(JOURNAL_PREFIX): value for key, value in meta.items() if key.startswith(JOURNAL_PREFIX)
        },
        evidence=_read_evidence(connection),
    )


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the single values (chain_id, checkpoint, certificate, journal …); ValueError if one is damaged."""
    rows = connection.execute("SELECT checksum, key, value FROM meta")
    return {row[0]: row[1] for row in map(check_row, rows)}


def _get_order(vote: VoteRecord) -> tuple[int, int]:
    return decode_vote(vote.raw).body.dynasty, vote.target_epoch


def _read_votes(connection: sqlite3.Connection) -> list[VoteRecord]:
    votes = []
    for row in connection.execute(
        "SELECT checksum, id, own, dynasty, source_epoch, target, target_epoch, raw FROM vote ORDER BY target_epoch, id"
    ):
        id, own, _, source_epoch, target, target_epoch, raw = check_row(row)
        votes.append(VoteRecord(Digest(id), raw, bool(own), Epoch(source_epoch), Digest(target), Epoch(target_epoch)))
    return votes


def _read_evidence(connection: sqlite3.Connection) -> tuple[EvidenceRecord, ...]:
    rows = connection.execute("SELECT checksum, pair, rule, offender, first, second FROM evidence ORDER BY number")
    return tuple(
        EvidenceRecord(rule, NodeId(offender), first, second)
        for _, rule, offender, first, second in map(check_row, rows)
    )


def _read_recent(connection: sqlite3.Connection, height: int) -> RecentTransactions:
    recent = RecentTransactions()
    for ids, expiries in connection.execute(
        "SELECT ids, body.expiries FROM chain INDEXED BY chain_expires JOIN body USING (number) WHERE expires >= ?",
        (height,),
    ):
        recent.extend(ids, expiries, height)
    return recent
