"""Looking through a whole ledger: its digest for comparison with other nodes', and its problems."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

from microchain.consensus.handover import list_votes
from microchain.consensus.interface import BlockRecord
from microchain.consensus.objects import decode_header, decode_transaction, decode_vote
from microchain.consensus.types import Digest
from microchain.ledger.restore import read_meta
from microchain.ledger.rows import BLOCK_COLUMNS, check_row, count_data, decode_block, decode_list
from microchain.ledger.transaction_index import find_index_problems

__all__ = ["PROBLEMS_LIMIT", "compute_digest", "find_problems"]

PROBLEMS_LIMIT = 100


def compute_digest(connection: sqlite3.Connection, chain_id: Digest) -> dict[str, Any]:
    """Return the finalized chain, the own votes and the evidence as JSON values (ids in hex).

    ``blocks`` lists [height, id, clients' transactions, SHA-256 of the stored votes and transactions]; of damaged
    transactions there are 0.
    """
    blocks = [
        [height, id.hex(), _count_data(transactions), hashlib.sha256(votes + transactions).hexdigest()]
        for height, id, votes, transactions in connection.execute(
            "SELECT chain.height, id, votes, transactions "
            "FROM chain JOIN block USING (number) JOIN body USING (number) ORDER BY chain.height"
        )
    ]
    return {
        "chain_id": chain_id.hex(),
        "finalized": {"height": blocks[-1][0], "id": blocks[-1][1]} if blocks else {"height": 0, "id": chain_id.hex()},
        "blocks": blocks,
        "own_votes": connection.execute("SELECT count(*) FROM vote WHERE own = 1").fetchone()[0],
        "evidence": [
            {"rule": rule, "offender": offender.hex(), "first": first.hex(), "second": second.hex()}
            for rule, offender, first, second in connection.execute(
                "SELECT rule, offender, first, second FROM evidence ORDER BY number"
            )
        ],
    }


def _count_data(transactions: bytes) -> int:
    try:
        return count_data(transactions)
    except msgspec.MsgspecError:
        return 0


def find_problems(connection: sqlite3.Connection, chain_id: Digest) -> Iterator[str]:
    """Yield one sentence for each problem: file structure, ids, parents, heights, bodies, votes, transaction index."""
    for (line,) in connection.execute(f"PRAGMA integrity_check({PROBLEMS_LIMIT})"):
        if line != "ok":
            yield f"file structure: {line}"
    previous: tuple[int, bytes] = (0, chain_id)
    for height, *row in connection.execute(
        f"SELECT chain.height, {BLOCK_COLUMNS} FROM chain LEFT JOIN block USING (number) LEFT JOIN body USING (number) "
        "ORDER BY chain.height"
    ):
        block, problems = _check_block(height, row)
        yield from problems
        if height != previous[0] + 1:
            yield f"height {height}: follows height {previous[0]}"
        if block is not None and previous[1] and block.parent != previous[1]:
            yield f"height {height}: its parent is not the block below"
        previous = height, block.id if block else b""
    for height, *row in connection.execute(
        f"SELECT unfinalized.height, {BLOCK_COLUMNS} FROM unfinalized LEFT JOIN block USING (number) "
        "LEFT JOIN body USING (number)"
    ):
        yield from _check_block(height, row)[1]
    for number, height in connection.execute(
        "SELECT number, height FROM block WHERE number NOT IN (SELECT number FROM chain UNION ALL "
        "SELECT number FROM unfinalized)"
    ):
        yield f"height {height}: block row {number} is neither final nor unfinalized"
    for (height,) in connection.execute(
        "SELECT chain.height FROM chain JOIN block USING (number) WHERE chain.expires != block.expires"
    ):
        yield f"height {height}: the expiry in the chain differs from the block's"
    yield from _check_votes(connection)
    yield from _check_single_values(connection)
    yield from find_index_problems(connection)


def _check_block(height: int, row: list[Any]) -> tuple[BlockRecord | None, list[str]]:
    where = f"height {height}"
    try:
        block = decode_block(row)
        header = decode_header(block.header)
        ids = tuple(decode_transaction(raw).id for raw in block.transactions)
        list_votes(block.votes)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        return None, [f"{where}: the block cannot be read: {error}"]
    problems = []
    if header.id != block.id:
        problems.append(f"{where}: the header does not hash to the block's id")
    if (header.height, header.parent) != (block.height, block.parent) or block.height != height:
        problems.append(f"{where}: height or parent differ from the header's")
    if ids != block.transaction_ids:
        problems.append(f"{where}: the transactions do not hash to the stored ids")
    return block, problems


def _check_votes(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute(
        "SELECT checksum, id, own, dynasty, source_epoch, target, target_epoch, raw FROM vote"
    ):
        try:
            id, _, _, source_epoch, target, target_epoch, raw = check_row(row)
            vote = decode_vote(raw)
            same = (vote.id, vote.source_epoch, vote.target, vote.target_epoch) == (
                id,
                source_epoch,
                target,
                target_epoch,
            )
        except (TypeError, ValueError) as error:
            yield f"a vote cannot be read: {error}"
        else:
            if not same:
                yield f"vote {bytes(id).hex()[:16]}: is not what its id and epochs say"


def _check_single_values(connection: sqlite3.Connection) -> Iterator[str]:
    try:
        list_votes(decode_list(read_meta(connection).get("certificate", b"\x90")))
        for digest, base in connection.execute("SELECT digest, state FROM base"):
            if hashlib.sha256(base).digest() != digest:
                raise ValueError("the base of some blocks' state is damaged")
        for row in connection.execute("SELECT checksum, pair, rule, offender, first, second FROM evidence"):
            check_row(row)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        yield f"the newest certificate or a piece of evidence cannot be read: {error}"
