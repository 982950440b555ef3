"""Writing records: each function runs inside the one transaction of a `Ledger.write`."""

from __future__ import annotations

import hashlib
import sqlite3

import msgspec

from microchain.consensus.handover import list_votes
from microchain.consensus.interface import (
    BlockRecord,
    DiscardRecord,
    EvidenceRecord,
    FinalizedRecord,
    JournalRecord,
    Record,
    VoteRecord,
)
from microchain.consensus.objects import MalformedObject, decode_header, decode_vote, split
from microchain.consensus.types import Digest
from microchain.crypto.hashing import tagged_hash
from microchain.ledger.errors import LedgerConflict, LedgerError
from microchain.ledger.rows import compute_checksum, encode_body_row, encode_list
from microchain.ledger.transaction_index import TransactionIndex

__all__ = ["EVIDENCE_LIMIT", "JOURNAL_PREFIX", "Store"]

EVIDENCE_LIMIT = 16
"""Pieces of evidence kept for each offender and rule; one is enough to punish."""
JOURNAL_PREFIX = "journal."


class Store:
    """Applies records to the tables. LedgerConflict if one contradicts what is stored. Genesis' id is ``chain_id``."""

    def __init__(self, connection: sqlite3.Connection, chain_id: Digest) -> None:
        self._connection = connection
        self._chain_id = chain_id
        self._index = TransactionIndex(connection)
        self._base: tuple[bytes, int] | None = None

    def forget(self) -> None:
        """Drop what is remembered of a transaction that was rolled back."""
        self._index.forget()
        self._base = None

    def apply(self, record: Record) -> None:
        """Store one record; storing it again changes nothing."""
        try:
            match record:
                case BlockRecord():
                    self._store_block(record)
                case VoteRecord():
                    self._store_vote(record)
                case FinalizedRecord():
                    self._finalize(record)
                case DiscardRecord():
                    self._discard(record.blocks)
                case EvidenceRecord():
                    self._store_evidence(record)
                case JournalRecord():
                    self._put_meta(JOURNAL_PREFIX + record.key, record.value)
        except (MalformedObject, msgspec.MsgspecError) as error:
            raise LedgerError(
                f"a {type(record).__name__} holds a malformed object and was not stored: {error}"
            ) from error

    def touch(self) -> None:
        """Change something: SQLite syncs no commit that changed nothing, even if earlier ones are not synced yet."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = 'touched'").fetchone()
        self._put_meta("touched", row[0] + 1 if row else 1)

    def _store_block(self, block: BlockRecord) -> None:
        known = self._connection.execute(
            "SELECT number, own, transaction_count, size, expires, header FROM block WHERE id = ?", (block.id,)
        ).fetchone()
        if known is not None and (known[1] or not block.own):
            return
        slot = self._check_own_proposal(block) if block.own else None
        head = (block.id, block.height, block.parent, int(block.own), slot)
        if known is not None:
            checksum = compute_checksum(*head, *known[2:])
            self._connection.execute(
                "UPDATE block SET checksum = ?, own = 1, slot = ? WHERE number = ?", (checksum, slot, known[0])
            )
            return
        body, expires = encode_body_row(block, self._store_base(block.base))
        size = len(body.transactions) + len(body.votes)
        values = (*head, len(block.transaction_ids), size, expires, block.header)
        number = self._connection.execute(
            "INSERT INTO block (checksum, id, height, parent, own, slot, transaction_count, size, expires, header) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (compute_checksum(*values), *values),
        ).lastrowid
        self._connection.execute(
            "INSERT INTO body VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (number, *msgspec.structs.astuple(body))
        )
        self._connection.execute("INSERT INTO unfinalized VALUES (?, ?)", (number, block.height))

    def _store_base(self, base: bytes) -> int:
        """Return the number of a base, stored if it is new."""
        if self._base is None or self._base[0] != base:
            digest = hashlib.sha256(base).digest()
            self._connection.execute(
                "INSERT INTO base (digest, state) VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, base)
            )
            row = self._connection.execute("SELECT number FROM base WHERE digest = ?", (digest,)).fetchone()
            self._base = base, row[0]
        return self._base[1]

    def _check_own_proposal(self, block: BlockRecord) -> int:
        """Return the block's slot; LedgerConflict if this node proposed another block on that parent in that slot."""
        slot = decode_header(block.header).slot
        other = self._connection.execute(
            "SELECT id FROM block WHERE own = 1 AND parent = ? AND slot = ?", (block.parent, slot)
        ).fetchone()
        if other is not None:
            raise LedgerConflict(
                f"own block {block.id.hex()[:16]} would be the second on {block.parent.hex()[:16]} in slot {slot}, "
                f"after {other[0].hex()[:16]}: that is equivocation"
            )
        return slot

    def _store_vote(self, vote: VoteRecord) -> None:
        known = self._connection.execute("SELECT own FROM vote WHERE id = ?", (vote.id,)).fetchone()
        if known is not None and (known[0] or not vote.own):
            return
        dynasty = self._check_own_vote(vote) if vote.own else None
        values = (vote.id, int(vote.own), dynasty, vote.source_epoch, vote.target, vote.target_epoch, vote.raw)
        self._connection.execute(
            "INSERT INTO vote (checksum, id, own, dynasty, source_epoch, target, target_epoch, raw) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "checksum = excluded.checksum, own = excluded.own, dynasty = excluded.dynasty, raw = excluded.raw",
            (compute_checksum(*values), *values),
        )

    def _check_own_vote(self, vote: VoteRecord) -> int:
        """Return the vote's dynasty; LedgerConflict if with an earlier own vote it breaks one of FFG's two rules.

        The engine sees to that itself; this is the last guard, behind all of its restarts.
        """
        dynasty = decode_vote(vote.raw).body.dynasty
        other = self._connection.execute(
            "SELECT id, source_epoch, target_epoch FROM vote WHERE own = 1 AND dynasty = :dynasty AND ("
            "target_epoch = :target OR (source_epoch < :source AND target_epoch > :target) "
            "OR (source_epoch > :source AND target_epoch < :target))",
            {"dynasty": dynasty, "source": vote.source_epoch, "target": vote.target_epoch},
        ).fetchone()
        if other is not None:
            raise LedgerConflict(
                f"own vote {vote.id.hex()[:16]} (epoch {vote.source_epoch} to {vote.target_epoch}) contradicts own "
                f"vote {other[0].hex()[:16]} (epoch {other[1]} to {other[2]}): sending it would be an offence"
            )
        return dynasty

    def _finalize(self, record: FinalizedRecord) -> None:
        tip = self._connection.execute(
            "SELECT height, id FROM block WHERE number = (SELECT number FROM chain ORDER BY height DESC LIMIT 1)"
        ).fetchone() or (0, self._chain_id)
        blocks = transactions = 0
        for id in record.blocks:
            added = self._extend_chain(id, tip)
            if added is not None:
                tip = added[0], id
                blocks += 1
                transactions += added[1]
        if not blocks and record.checkpoint != tip[1]:
            return
        self._put_meta("checkpoint", record.checkpoint)
        self._put_meta("certificate", encode_list(record.certificate))
        self._discard_numbers("SELECT number FROM unfinalized WHERE height <= ?", tip[0])
        self._prune_votes(record)
        self._index.add(blocks, transactions)

    def _extend_chain(self, id: Digest, tip: tuple[int, bytes]) -> tuple[int, int] | None:
        """Add a block on ``tip``; return its height and transaction count, or None if the chain has it already."""
        row = self._connection.execute(
            "SELECT number, height, parent, transaction_count, expires FROM block WHERE id = ?", (id,)
        ).fetchone()
        if row is None:
            raise LedgerConflict(f"block {id.hex()[:16]} cannot be final: it is not stored")
        number, height, parent, transactions, expires = row
        if height <= tip[0]:
            present = self._connection.execute("SELECT number FROM chain WHERE height = ?", (height,)).fetchone()
            if present == (number,):
                return None
            raise LedgerConflict(f"block {id.hex()[:16]} would replace the finalized block at height {height}")
        if height != tip[0] + 1 or parent != tip[1]:
            raise LedgerConflict(
                f"block {id.hex()[:16]} at height {height} does not follow the last finalized block "
                f"{tip[1].hex()[:16]} at height {tip[0]}"
            )
        self._connection.execute("INSERT INTO chain VALUES (?, ?, ?)", (height, number, expires))
        self._connection.execute("DELETE FROM unfinalized WHERE number = ?", (number,))
        return height, transactions

    def _prune_votes(self, record: FinalizedRecord) -> None:
        """Drop votes for targets below the finalized checkpoint, but never this node's newest."""
        epoch = _get_epoch(record)
        if epoch is not None:
            self._put_meta("finalized_epoch", epoch)
            self._connection.execute(
                "DELETE FROM vote WHERE target_epoch < ? AND id IS NOT "
                "(SELECT id FROM vote WHERE own = 1 ORDER BY dynasty DESC, target_epoch DESC LIMIT 1)",
                (epoch,),
            )

    def _discard(self, ids: tuple[Digest, ...]) -> None:
        for id in ids:
            row = self._connection.execute(
                "SELECT height, EXISTS (SELECT 1 FROM unfinalized WHERE number = block.number) FROM block WHERE id = ?",
                (id,),
            ).fetchone()
            if row is not None and not row[1]:
                raise LedgerConflict(f"block {id.hex()[:16]} cannot be discarded: it is final, at height {row[0]}")
            # Own votes stay in the journal until finality passes them: they say what may not be voted for again.
            self._connection.execute("DELETE FROM vote WHERE target = ? AND own = 0", (id,))
            self._discard_numbers("SELECT number FROM block WHERE id = ?", id)

    def _discard_numbers(self, query: str, value: bytes | int) -> None:
        for (number,) in self._connection.execute(query, (value,)).fetchall():
            for table in ("body", "block", "unfinalized"):
                self._connection.execute(f"DELETE FROM {table} WHERE number = ?", (number,))

    def _store_evidence(self, record: EvidenceRecord) -> None:
        # By what was signed: with another signature it is no other evidence. A false reveal is one with one view.
        signed = [split(raw)[0] for raw in (record.first, record.second)[: 1 if record.rule == "false-reveal" else 2]]
        ids = sorted(tagged_hash("microchain/evidence", part) for part in signed)
        values = (b"".join(ids), record.rule, record.offender, record.first, record.second)
        self._connection.execute(
            "INSERT INTO evidence (checksum, pair, rule, offender, first, second) SELECT ?, ?, ?, ?, ?, ? "
            "WHERE (SELECT count(*) FROM evidence WHERE offender = ? AND rule = ?) < ? ON CONFLICT DO NOTHING",
            (compute_checksum(*values), *values, record.offender, record.rule, EVIDENCE_LIMIT),
        )

    def _put_meta(self, key: str, value: bytes | int) -> None:
        self._connection.execute(
            "INSERT INTO meta VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET checksum = excluded.checksum, value = excluded.value",
            (key, compute_checksum(key, value), value),
        )


def _get_epoch(record: FinalizedRecord) -> int | None:
    """Return the finalized checkpoint's epoch: a certificate has votes from it or, where it needs two links, for it."""
    for vote in list_votes(record.certificate):
        if vote.source == record.checkpoint:
            return vote.source_epoch
        if vote.target == record.checkpoint:
            return vote.target_epoch
    return None
