"""The simulator's store means what the ledger means; power loss takes no more than the ledger may lose."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from microchain.consensus.interface import DiscardRecord, Record, Restored
from microchain.consensus.types import Height
from microchain.ledger.errors import LedgerConflict
from microchain.simulator.store import MemoryStore, Store

from tests.ledger.chain import (
    CHAIN_ID,
    COMMITTEE,
    finalize,
    make_block,
    make_chain,
    make_transaction,
    make_vote,
    store_chain,
)
from tests.simulator.ledger_store import LedgerStore


@pytest.fixture(params=["memory", "ledger"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    kept = LedgerStore(tmp_path / "ledger.db", CHAIN_ID, COMMITTEE)
    yield kept
    kept.ledger.close()


def summarize(restored: Restored) -> tuple[object, ...]:
    return (
        restored.finalized,
        restored.state,
        restored.certificate,
        dict(restored.recent),
        {block.id: block for block in restored.blocks},
        {vote.id: vote for vote in restored.votes},
        restored.own_votes,
    )


def test_restores_what_was_written(store: Store) -> None:
    chain = make_chain(5)
    store.write(store_chain(chain, 2), durable=False)
    fork = make_block(chain[2], [make_transaction(900)], slot=7, own=True)
    early, late = (
        make_vote(0, CHAIN_ID, 0, chain[3].id, 4, own=True),
        make_vote(0, chain[1].id, 2, chain[4].id, 5, own=True),
    )
    other = make_vote(1, chain[1].id, 2, chain[4].id, 5)
    store.write([fork, early], durable=True)
    store.write([late, other], durable=True)
    restored = store.restore()
    assert restored.finalized == chain[1].header
    assert restored.state == chain[1].state
    assert restored.own_votes == (late,)
    assert {block.id for block in restored.blocks} == {*(block.id for block in chain[2:]), fork.id}
    assert other.id in {vote.id for vote in restored.votes}
    assert {id for id, _ in restored.recent} == {id for block in chain[:2] for id in block.transaction_ids}


def test_both_stores_agree_after_forks_discards_and_finality(tmp_path: Path) -> None:
    chain = make_chain(8)
    forks = [make_block(parent, [make_transaction(800 + i)], slot=9) for i, parent in enumerate(chain[:7])]
    votes = [
        make_vote(i % 4, chain[h].id, h + 1, chain[h + 1].id, h + 2, own=i == 0) for h in range(6) for i in range(4)
    ]
    batches: list[Sequence[Record]] = [store_chain(chain[:3], 1), forks, chain[3:], votes]
    batches += [[finalize(chain[1:3], chain[3])], [DiscardRecord((forks[4].id,))], [finalize(chain[3:4], chain[4])]]
    memory, ledger = MemoryStore(), LedgerStore(tmp_path / "ledger.db", CHAIN_ID, COMMITTEE)
    for batch in batches:
        memory.write(batch, durable=True)
        ledger.write(batch, durable=True)
        assert summarize(memory.restore()) == summarize(ledger.restore())
    for height in range(1, 6):
        assert memory.blocks_from(Height(height), 600) == ledger.blocks_from(Height(height), 600)
    ledger.ledger.close()


def test_refuses_a_finalized_block_that_does_not_follow(store: Store) -> None:
    chain = make_chain(3)
    store.write(store_chain(chain, 1), durable=True)
    with pytest.raises((ValueError, LedgerConflict)):
        store.write([finalize(chain[2:3])], durable=True)


def test_power_loss_keeps_durable_writes_and_a_prefix_of_the_others() -> None:
    chain = make_chain(6)
    outcomes = set()
    for seed in range(30):
        store = MemoryStore()
        for number, block in enumerate(chain):
            store.write([block], durable=number == 2)
        store.lose_power(random.Random(seed))
        kept = [block.id for block in store.restore().blocks]
        assert kept == [block.id for block in chain[: len(kept)]]
        outcomes.add(len(kept))
        assert all(store.is_durable(block.id) for block in chain[:3])
    assert outcomes == {3, 4, 5, 6}


def test_knows_what_is_durable() -> None:
    chain = make_chain(3)
    store = MemoryStore()
    store.write(chain[:1], durable=False)
    assert not store.is_durable(chain[0].id)
    store.write(chain[1:2], durable=True)
    store.write(chain[2:], durable=False)
    assert [store.is_durable(block.id) for block in chain] == [True, True, False]
