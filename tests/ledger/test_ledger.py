"""What is written is read back, and nothing that was final or voted for is ever contradicted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from microchain.consensus.interface import (
    BlockRecord,
    DiscardRecord,
    EvidenceRecord,
    FinalizedRecord,
    JournalRecord,
    Restored,
)
from microchain.consensus.objects import decode_vote, encode_body, seal
from microchain.consensus.types import Digest, Height, NodeId, TransactionKind
from microchain.ledger import transaction_index
from microchain.ledger.ledger import Ledger, LedgerConflict, LedgerError
from microchain.ledger.store import EVIDENCE_LIMIT

from tests.ledger.chain import (
    CHAIN_ID,
    COMMITTEE,
    finalize,
    make_block,
    make_chain,
    make_evidence,
    make_link,
    make_transaction,
    make_vote,
    store_chain,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.db", CHAIN_ID, committee=COMMITTEE)
    yield ledger
    ledger.close()


def reopen(ledger: Ledger) -> Ledger:
    ledger.close()
    return Ledger(ledger.path, CHAIN_ID, committee=COMMITTEE)


def summarize(restored: Restored) -> tuple[object, ...]:
    return (
        restored.finalized,
        restored.state,
        restored.certificate,
        tuple(restored.recent),
        restored.blocks,
        restored.votes,
        restored.own_votes,
    )


def test_new_ledger_holds_only_genesis(ledger: Ledger) -> None:
    assert ledger.finalized() == (0, CHAIN_ID)
    restored = ledger.restore()
    assert summarize(restored) == (b"", b"", (), (), (), (), ())
    assert ledger.block_at(Height(0)) is None
    assert ledger.certificate_for(Height(0)) is None
    assert ledger.verify() == []


def test_blocks_are_read_back_as_written(ledger: Ledger) -> None:
    blocks = make_chain(6, transactions=3)
    ledger.write(store_chain(blocks, 4), durable=True)
    ledger = reopen(ledger)
    assert ledger.finalized() == (4, blocks[3].id)
    for block in blocks:
        assert ledger.block(block.id) == block
        assert ledger.block_at(block.height) == (block if block.height <= 4 else None)
    assert ledger.block(Digest(bytes(32))) is None
    restored = ledger.restore()
    assert restored.finalized == blocks[3].header
    assert restored.state == blocks[3].state
    assert restored.blocks == tuple(blocks[4:])
    assert restored.certificate == make_link(blocks[3], blocks[4])
    assert ledger.verify() == []
    ledger.close()


def test_recent_lists_the_finalized_transactions_that_could_be_repeated(ledger: Ledger) -> None:
    raws = [make_transaction(i, valid_until=limit) for i, limit in enumerate((1, 2, 3, 4))]
    first = make_block(None, raws)
    second = make_block(first, [make_transaction(9, valid_until=9)])
    third = make_block(second, [make_transaction(10, valid_until=1)])
    ledger.write([first, second, third, finalize([first, second])], durable=False)
    expected = [(first.transaction_ids[i], limit) for i, limit in ((1, 2), (2, 3), (3, 4))]
    expected.append((second.transaction_ids[0], 9))
    recent = ledger.restore().recent
    assert list(recent) == expected
    assert len(recent) == 4
    assert [recent[i] for i in range(4)] == expected
    assert recent[-1] == expected[-1]
    assert list(recent[1:3]) == expected[1:3]
    with pytest.raises(IndexError):
        recent[4]


def test_writing_again_changes_nothing(ledger: Ledger) -> None:
    blocks = make_chain(5)
    vote = make_vote(0, blocks[2].id, 3, blocks[3].id, 4, own=True)
    records = [*store_chain(blocks, 3), vote, make_evidence(1)]
    ledger.write(records, durable=True)
    before = summarize(ledger.restore()), ledger.digest()
    ledger.write(records, durable=True)
    for record in records:
        ledger.write([record], durable=False)
    assert (summarize(ledger.restore()), ledger.digest()) == before
    assert ledger.verify() == []


def test_vote_and_block_become_own_when_written_as_own(ledger: Ledger) -> None:
    block = make_block(None, [make_transaction(1)], own=False)
    vote = make_vote(0, CHAIN_ID, 0, block.id, 1)
    ledger.write([block, vote], durable=False)
    own_block = make_block(None, [make_transaction(1)], own=True)
    own_vote = make_vote(0, CHAIN_ID, 0, block.id, 1, own=True)
    ledger.write([own_block, own_vote], durable=True)
    ledger.write([block, vote], durable=False)
    restored = ledger.restore()
    assert restored.blocks == (own_block,)
    assert restored.own_votes == restored.votes == (own_vote,)


def test_second_own_vote_for_an_epoch_is_refused(ledger: Ledger) -> None:
    one, other = make_block(None, slot=1), make_block(None, slot=2)
    vote = make_vote(0, CHAIN_ID, 0, one.id, 1, own=True)
    ledger.write([one, vote], durable=True)
    with pytest.raises(LedgerConflict, match="contradicts"):
        ledger.write([other, make_vote(0, CHAIN_ID, 0, other.id, 1, own=True)], durable=True)
    assert ledger.restore().own_votes == (vote,)
    assert ledger.block(other.id) is None, "nothing of a refused write is stored"


@pytest.mark.parametrize(("first", "second"), [((3, 5), (2, 6)), ((1, 6), (3, 4)), ((3, 5), (4, 5))])
def test_own_vote_that_breaks_a_rule_of_ffg_is_refused(
    ledger: Ledger, first: tuple[int, int], second: tuple[int, int]
) -> None:
    blocks = make_chain(6)
    votes = [make_vote(0, blocks[s - 1].id, s, blocks[t - 1].id, t, own=True) for s, t in (first, second)]
    ledger.write([*blocks, votes[0]], durable=True)
    with pytest.raises(LedgerConflict, match="offence"):
        ledger.write([votes[1]], durable=True)


def test_own_votes_may_be_stored_in_another_order_than_they_were_cast(ledger: Ledger) -> None:
    blocks = make_chain(6)
    older = make_vote(0, blocks[1].id, 2, blocks[2].id, 3, own=True)
    newer = make_vote(0, blocks[2].id, 3, blocks[3].id, 4, own=True)
    ledger.write([*blocks, newer], durable=True)
    ledger.write([older], durable=True)
    assert ledger.restore().own_votes == (newer,)


def test_second_own_proposal_in_a_slot_is_refused(ledger: Ledger) -> None:
    block = make_block(None, slot=7, own=True)
    ledger.write([block], durable=True)
    ledger.write([block], durable=True)
    with pytest.raises(LedgerConflict, match="equivocation"):
        ledger.write([make_block(None, [make_transaction(1)], slot=7, own=True)], durable=True)
    ledger.write([make_block(block, slot=7, own=True)], durable=True)


def test_finalized_blocks_are_never_replaced_or_discarded(ledger: Ledger) -> None:
    blocks = make_chain(3)
    rival = make_block(blocks[0], slot=9)
    ledger.write([*blocks, rival, finalize(blocks[:1])], durable=False)
    refused: list[FinalizedRecord | DiscardRecord] = [
        finalize([rival, blocks[2]]),
        finalize([blocks[2]]),
        finalize([make_block(None, slot=5)]),
        DiscardRecord((blocks[0].id,)),
    ]
    for record in refused:
        with pytest.raises(LedgerConflict):
            ledger.write([record], durable=False)
    ledger.write([finalize(blocks[1:2])], durable=False)
    with pytest.raises(LedgerConflict):
        ledger.write([rival, finalize([rival])], durable=False)
    assert ledger.finalized() == (2, blocks[1].id)
    assert ledger.verify() == []


def test_discarded_blocks_go_with_their_votes_but_own_votes_stay(ledger: Ledger) -> None:
    block, rival = make_block(None, slot=1), make_block(None, slot=2)
    own = make_vote(0, CHAIN_ID, 0, rival.id, 1, own=True)
    other = make_vote(1, CHAIN_ID, 0, rival.id, 1)
    ledger.write([block, rival, own, other], durable=True)
    ledger.write([DiscardRecord((rival.id,))], durable=False)
    assert ledger.block(rival.id) is None
    restored = ledger.restore()
    assert restored.blocks == (block,)
    assert restored.votes == restored.own_votes == (own,)


def test_dead_branches_and_old_votes_do_not_pile_up(ledger: Ledger) -> None:
    blocks = make_chain(60)
    previous: BlockRecord | None = None
    for index, block in enumerate(blocks):
        source_id, source_epoch = (previous.id, previous.height) if previous else (CHAIN_ID, 0)
        votes = [make_vote(v, source_id, source_epoch, block.id, block.height, own=v == 0) for v in range(4)]
        rival = make_block(previous, slot=100 + index)
        ledger.write([block, rival, *votes], durable=False)
        if previous is not None:
            ledger.write([finalize([previous], block)], durable=False)
        previous = block
    restored = ledger.restore()
    assert {vote.target_epoch for vote in restored.votes} == {59, 60}
    assert restored.own_votes[0].target_epoch == 60
    assert len(restored.blocks) == 2
    assert ledger.digest()["own_votes"] == 2


def test_newest_own_vote_survives_finality_far_above_it(ledger: Ledger) -> None:
    blocks = make_chain(9)
    vote = make_vote(0, blocks[0].id, 1, blocks[1].id, 2, own=True)
    ledger.write([*blocks, vote], durable=True)
    ledger.write([finalize(blocks[:8], blocks[8])], durable=False)
    restored = ledger.restore()
    assert restored.own_votes == (vote,)
    assert restored.votes == ()


def test_transactions_are_found_in_and_outside_the_index(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_index, "PENDING_TRANSACTIONS", 20)
    blocks = make_chain(40, transactions=3)
    for record in store_chain(blocks, 38):
        ledger.write([record], durable=False)
    for block in blocks:
        for index, id in enumerate(block.transaction_ids):
            assert ledger.find_transaction(id) == ((block.height, index) if block.height <= 38 else None)
    assert ledger.find_transaction(Digest(bytes(32))) is None
    assert ledger.verify() == []


def test_ids_with_equal_prefixes_are_told_apart(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    block = make_block(None, [make_transaction(i) for i in range(3)])
    ids = tuple(Digest(bytes(8) + bytes([i + 1]) * 24) for i in range(3))
    alike = BlockRecord(
        block.id, block.height, block.parent, block.header, block.transactions, ids, block.votes, block.state, False
    )
    for limit in (100, 1):
        monkeypatch.setattr(transaction_index, "PENDING_TRANSACTIONS", limit)
        if limit == 100:
            ledger.write([alike, finalize([alike])], durable=False)
        else:
            above = make_block(block)
            ledger.write([above, finalize([above])], durable=False)
        assert [ledger.find_transaction(id) for id in ids] == [(1, 0), (1, 1), (1, 2)]
        assert ledger.find_transaction(Digest(bytes(8) + bytes([9]) * 24)) is None
        # Bytes that lie across two ids are no id.
        assert ledger.find_transaction(Digest((ids[0] + ids[1])[8:40])) is None


def test_blocks_from_returns_what_fits_and_at_least_one(ledger: Ledger) -> None:
    blocks = make_chain(8, transactions=2, payload_bytes=1000)
    ledger.write(store_chain(blocks, 7), durable=False)
    assert ledger.blocks_from(Height(2), 1) == blocks[1:2]
    assert ledger.blocks_from(Height(1), 10**9) == blocks[:7]
    assert 1 < len(ledger.blocks_from(Height(1), 10_000)) < 7
    assert ledger.blocks_from(Height(8), 10**9) == []


def test_certificate_is_found_in_the_votes_of_later_blocks(ledger: Ledger) -> None:
    blocks = make_chain(8)
    ledger.write(store_chain(blocks, 7), durable=False)
    for block in blocks[:5]:
        assert ledger.certificate_for(block.height) == make_link(block, blocks[block.height])
    # The votes for height 7 and 8 stand in no finalized block yet: the newest certificate proves them.
    assert ledger.certificate_for(Height(7)) == make_link(blocks[6], blocks[7])
    assert ledger.certificate_for(Height(8)) is None


def test_certificate_of_two_steps_has_the_middle_link(ledger: Ledger) -> None:
    one = make_block(None)
    two = make_block(one, votes=make_link(None, one))
    three = make_block(two)
    short = make_link(two, three, voters=(0, 1))
    middle, long = make_link(None, two), make_link(one, three)
    four = make_block(three, votes=middle + short)
    five = make_block(four, votes=long)
    ledger.write([one, two, three, four, five, finalize([one, two, three, four, five])], durable=False)
    assert ledger.certificate_for(Height(1)) == long + middle


def test_certificate_counts_members_once_and_only_members(ledger: Ledger) -> None:
    one = make_block(None)
    two = make_block(one, votes=make_link(None, one))
    stranger = msgspec.structs.replace(decode_vote(make_link(one, two)[0]).body, voter=bytes(32))
    three = make_block(two, votes=(*make_link(one, two, voters=(0, 1, 1)), seal(encode_body(stranger), bytes(64))))
    four = make_block(three, votes=make_link(one, two, voters=(1, 2)))
    newest = make_link(three, four)
    ledger.write([one, two, three, finalize([one, two, three], four)], durable=False)
    assert ledger.certificate_for(Height(1)) == newest
    ledger.write([four, finalize([four])], durable=False)
    assert ledger.certificate_for(Height(1)) == make_link(one, two, voters=(0, 1, 2))


def test_evidence_is_kept_once_and_bounded_for_each_offender(ledger: Ledger) -> None:
    pieces = [make_evidence(i) for i in range(EVIDENCE_LIMIT + 5)]
    other = make_evidence(100, offender=1)
    swapped = type(other)(other.rule, other.offender, other.second, other.first)
    for piece in [*pieces, other, swapped, other]:
        ledger.write([piece], durable=False)
    assert ledger.evidence() == [*pieces[:EVIDENCE_LIMIT], other]
    assert len(ledger.digest()["evidence"]) == EVIDENCE_LIMIT + 1


def test_the_digest_does_not_count_the_protocols_own_transactions(ledger: Ledger) -> None:
    block = make_block(None, [make_transaction(1), make_transaction(2, kind=TransactionKind.DEAL), make_transaction(3)])
    ledger.write([block, finalize([block])], durable=False)
    assert [row[2] for row in ledger.digest()["blocks"]] == [2]


def test_digest_describes_the_finalized_chain(ledger: Ledger) -> None:
    blocks = make_chain(4)
    ledger.write(store_chain(blocks, 3), durable=False)
    digest = ledger.digest()
    assert digest["chain_id"] == CHAIN_ID.hex()
    assert digest["finalized"] == {"height": 3, "id": blocks[2].id.hex()}
    assert [row[:3] for row in digest["blocks"]] == [[b.height, b.id.hex(), 2] for b in blocks[:3]]
    assert len({row[3] for row in digest["blocks"]}) == 3


def test_malformed_records_are_refused_whole(ledger: Ledger) -> None:
    good = make_block(None, [make_transaction(1)])
    bad = BlockRecord(good.id, good.height, good.parent, good.header, (b"junk",), good.transaction_ids, (), b"", False)
    vote = make_vote(1, CHAIN_ID, 0, good.id, 1)
    with pytest.raises(LedgerError, match="malformed"):
        ledger.write([vote, bad], durable=False)
    assert ledger.restore().votes == ()
    with pytest.raises(LedgerConflict, match="not stored"):
        ledger.write([finalize([good])], durable=False)
    ledger.write([good, finalize([good])], durable=False)
    assert ledger.verify() == []


def test_durable_write_of_known_records_still_reaches_the_disk(ledger: Ledger) -> None:
    block = make_block(None)
    ledger.write([block], durable=False)
    log = ledger.path.with_name(ledger.path.name + "-wal")
    size = log.stat().st_size
    ledger.write([block], durable=True)
    assert log.stat().st_size > size, "SQLite syncs only what it appends"


def test_readers_see_finished_writes_while_the_ledger_is_in_use(ledger: Ledger) -> None:
    blocks = make_chain(4)
    ledger.write(store_chain(blocks, 2), durable=False)
    onlooker = Ledger(ledger.path, CHAIN_ID, read_only=True)
    assert onlooker.finalized() == (2, blocks[1].id)
    ledger.write([finalize(blocks[2:3])], durable=False)
    assert onlooker.finalized() == (3, blocks[2].id)
    with pytest.raises(LedgerError, match="reading only"):
        onlooker.write([blocks[3]], durable=False)
    onlooker.close()
    ledger.close()
    ledger.close()


def test_the_journal_keeps_each_keys_newest_value(ledger: Ledger) -> None:
    ledger.write([JournalRecord("first", b"1"), JournalRecord("view", b"2")], durable=True)
    ledger.write([JournalRecord("view", b"3")], durable=True)
    assert reopen(ledger).restore().journal == {"first": b"1", "view": b"3"}


def test_a_false_reveal_is_kept_once_with_the_shares_it_is_false_against(ledger: Ledger) -> None:
    record = EvidenceRecord("false-reveal", NodeId(bytes(32)), make_transaction(1), b"shares")
    ledger.write([record, record], durable=True)
    assert reopen(ledger).restore().evidence == (record,)
