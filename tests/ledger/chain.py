"""Real encoded blocks, votes and transactions (with made-up signatures, which the ledger never looks at)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from microchain.consensus.genesis import Committee, RegistryEntry
from microchain.consensus.interface import (
    BlockRecord,
    EvidenceRecord,
    FinalizedRecord,
    Record,
    VoteRecord,
)
from microchain.consensus.objects import (
    HeaderBody,
    TransactionBody,
    VoteBody,
    decode_header,
    decode_transaction,
    decode_vote,
    encode_body,
    seal,
)
from microchain.consensus.types import Digest, Epoch, Height
from microchain.crypto.hashing import tagged_hash

CHAIN_ID = tagged_hash("test/chain", b"a")
OTHER_CHAIN_ID = tagged_hash("test/chain", b"b")
MEMBERS = 4


def make_committee(members: int = MEMBERS) -> Committee:
    return Committee.from_entries(
        [RegistryEntry(name=f"v{i}", role="validator", signing_key=bytes([i]) * 32) for i in range(members)], 10
    )


COMMITTEE = make_committee()


def make_transaction(seed: int, *, valid_until: int = 1000, payload_bytes: int = 20, kind: int = 0) -> bytes:
    payload = random.Random(seed).randbytes(payload_bytes)
    return seal(encode_body(TransactionBody(1, CHAIN_ID, kind, bytes(32), valid_until, payload)), bytes(64))


def make_block(
    parent: BlockRecord | None,
    transactions: Sequence[bytes] = (),
    *,
    votes: Sequence[bytes] = (),
    slot: int = 0,
    own: bool = False,
    proposer: int = 0,
) -> BlockRecord:
    """A block on ``parent`` (None: genesis); different ``slot`` or content makes a different block."""
    height, parent_id = (parent.height + 1, parent.id) if parent else (1, CHAIN_ID)
    ids = tuple(decode_transaction(raw).id for raw in transactions)
    member = COMMITTEE.members[proposer].id
    roots = tagged_hash("test/tx", *ids), tagged_hash("test/votes", *votes), bytes(32), COMMITTEE.root
    body = HeaderBody(1, CHAIN_ID, height, slot, parent_id, 1, *roots, member, bytes(80), 1)
    header = decode_header(seal(encode_body(body), bytes(64)))
    state = b"state" + height.to_bytes(4, "big")
    return BlockRecord(
        header.id, Height(height), Digest(parent_id), header.raw, tuple(transactions), ids, tuple(votes), state, own
    )


def make_vote(
    voter: int, source: Digest, source_epoch: int, target: Digest, target_epoch: int, *, own: bool = False
) -> VoteRecord:
    member = COMMITTEE.members[voter].id
    body = VoteBody(1, CHAIN_ID, 1, source, source_epoch, target, target_epoch, member)
    vote = decode_vote(seal(encode_body(body), bytes(64)))
    return VoteRecord(vote.id, vote.raw, own, Epoch(source_epoch), target, Epoch(target_epoch))


def make_link(source: BlockRecord | None, target: BlockRecord, voters: Sequence[int] = (0, 1, 2)) -> tuple[bytes, ...]:
    """Votes of ``voters`` for source → target, with one block an epoch."""
    id, height = (source.id, source.height) if source else (CHAIN_ID, 0)
    return tuple(make_vote(v, id, height, target.id, target.height).raw for v in voters)


def make_evidence(number: int, *, offender: int = 0) -> EvidenceRecord:
    first, second = (make_block(None, [make_transaction(2 * number + i)]).header for i in range(2))
    return EvidenceRecord("double-proposal", COMMITTEE.members[offender].id, first, second)


def make_chain(
    length: int, *, transactions: int = 2, first_seed: int = 0, payload_bytes: int = 20
) -> list[BlockRecord]:
    """A chain of one block an epoch; each block carries the votes from its grandparent for its parent."""
    blocks: list[BlockRecord] = []
    for height in range(1, length + 1):
        parent = blocks[-1] if blocks else None
        votes = make_link(blocks[-2] if height > 2 else None, blocks[-1]) if parent else ()
        first = first_seed + height * transactions
        raws = [
            make_transaction(first + i, valid_until=height + 5, payload_bytes=payload_bytes)
            for i in range(transactions)
        ]
        blocks.append(make_block(parent, raws, votes=votes))
    return blocks


def finalize(blocks: Sequence[BlockRecord], above: BlockRecord | None = None) -> FinalizedRecord:
    """The record that makes ``blocks`` final; ``above``: the block whose justification proves it."""
    last = blocks[-1]
    certificate = make_link(last, above) if above else ()
    return FinalizedRecord(tuple(block.id for block in blocks), last.id, certificate)


def store_chain(blocks: Sequence[BlockRecord], finalized: int) -> list[Record]:
    """Records that store all blocks and finalize the first ``finalized``, one by one."""
    records: list[Record] = []
    for index, block in enumerate(blocks):
        records.append(block)
        if 1 <= index <= finalized:
            records.append(finalize(blocks[index - 1 : index], block))
    if finalized == len(blocks):
        records.append(finalize(blocks[-1:]))
    return records
