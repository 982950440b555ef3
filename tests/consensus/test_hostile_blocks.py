"""Wrong blocks, and right ones that others spoil: only the guilty are told on, and the right ones get through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from microchain.consensus.messages import (
    CompactBlock,
    FullBlock,
    GetBlocks,
    GetHeaders,
    Message,
    Transactions,
)
from microchain.consensus.objects import (
    decode_header,
    seal,
    split,
)
from microchain.consensus.tree import Block

from tests.consensus.driver import SECOND, Town
from tests.consensus.harness import Forge, Scene, compact, full, random_id, transaction
from tests.consensus.test_hostile import NEVER_VALID, NOT_NOW


@pytest.fixture
def scene() -> Scene:
    return Scene()


WRONG_HEADERS: dict[str, dict[str, Any]] = {
    "chain": {"chain_id": bytes(32)},
    "height": {"height": 7},
    "slot": {"slot": 10**6},
    "dynasty": {"dynasty": 2},
    "tx_root": {"tx_root": bytes(32)},
    "votes_root": {"votes_root": bytes(32)},
    "state_root": {"state_root": bytes(32)},
    "committee_root": {"committee_root": bytes(32)},
    "seed_proof": {"seed_proof": bytes(80)},
    "absurd height": {"height": 2**62},
}


@pytest.mark.parametrize("fault", WRONG_HEADERS)
def test_a_block_with_a_wrong_header_is_refused(scene: Scene, fault: str) -> None:
    block = scene.forge.block(scene.forge.genesis, [transaction(scene.town)], **WRONG_HEADERS[fault])
    scene.hear(scene.liar, full(block))
    assert scene.head() == scene.town.chain_id
    assert scene.accused() == {scene.liar}
    assert scene.works_on()


@pytest.mark.parametrize("fault", ["another's candidacy", "no member", "another's signature"])
def test_a_block_by_the_wrong_proposer_is_refused(scene: Scene, fault: str) -> None:
    changes: dict[str, Any] = {
        "another's candidacy": {"proposer": scene.honest},
        "no member": {"proposer": scene.town.device},
        "another's signature": {},
    }[fault]
    signer = scene.honest if fault != "no member" else scene.town.device
    scene.hear(scene.liar, full(scene.forge.block(scene.forge.genesis, signer=signer, **changes)))
    assert scene.head() == scene.town.chain_id
    assert scene.accused() == {scene.liar}
    assert scene.works_on()


def bad_contents(scene: Scene) -> dict[str, list[bytes]]:
    town = scene.town
    good = transaction(town)
    return {
        "twice": [good, good],
        "expired": [transaction(town, valid_until=0)],
        "too far": [transaction(town, valid_until=20_000)],
        "too many bytes": [transaction(town, payload=bytes([n]) * 1500) for n in range(3)],
        "wrong signature": [NEVER_VALID["wrong signature"](town)],
        "unknown sender": [NEVER_VALID["unknown sender"](town)],
        "evidence of nothing": [NOT_NOW["evidence of nothing"](town)],
    }


@pytest.mark.parametrize("form", [full, compact])
@pytest.mark.parametrize(
    "fault",
    ["twice", "expired", "too far", "too many bytes", "wrong signature", "unknown sender", "evidence of nothing"],
)
def test_a_block_with_wrong_transactions_is_refused(fault: str, form: Callable[[Block], Message]) -> None:
    scene = Scene(max_block_bytes=4096, max_tx_bytes=2048)
    block = scene.forge.block(scene.forge.genesis, bad_contents(scene)[fault])
    scene.hear(scene.liar, form(block), Transactions(block.transactions))
    assert scene.head() == scene.town.chain_id
    # Too many bytes may be the fault of who supplied the transactions, so nobody is told on for that.
    assert scene.accused() == {scene.liar} or (fault == "too many bytes" and form is compact)
    assert scene.works_on()


def test_a_transaction_that_the_branch_has_is_refused_in_a_later_block(scene: Scene) -> None:
    raw = transaction(scene.town)
    first = scene.forge.block(scene.forge.genesis, [raw])
    scene.hear(first.proposer, full(first))
    scene.hear(scene.liar, full(scene.forge.block(first, [raw])))
    assert scene.head() == first.id
    assert scene.accused() == {scene.liar}


CONTAINED: dict[str, Callable[[Scene, Block], list[bytes]]] = {
    "foreign target": lambda s, b: [s.forge.vote(s.liar, b, target=random_id("t"))],
    "wrong source": lambda s, b: [s.forge.vote(s.liar, b, source=random_id("s"))],
    "wrong epoch": lambda s, b: [s.forge.vote(s.liar, b, target_epoch=2)],
    "no member": lambda s, b: [s.forge.vote(s.town.device, b)],
    "other chain": lambda s, b: [s.forge.vote(s.liar, b, chain_id=bytes(32))],
    "other dynasty": lambda s, b: [s.forge.vote(s.liar, b, dynasty=2)],
    "duplicate": lambda s, b: [s.forge.vote(s.liar, b)] * 2,
    "wrong signature": lambda s, b: [s.forge.vote(s.honest, b, signer=s.liar)],
    "malformed": lambda s, b: [b"\x00"],
    "too many": lambda s, b: [s.forge.vote(s.liar, b)] * 300,
}


@pytest.mark.parametrize("fault", CONTAINED)
def test_a_block_with_votes_that_it_may_not_contain_is_refused(scene: Scene, fault: str) -> None:
    first = scene.forge.block(scene.forge.genesis)
    scene.hear(first.proposer, full(first))
    votes = CONTAINED[fault](scene, first)
    if fault == "malformed":
        message = msgspec.structs.replace(full(scene.forge.block(first)), votes=tuple(votes))
    else:
        message = full(scene.forge.block(first, (), votes))
    scene.hear(scene.liar, message)
    assert scene.head() == first.id
    assert scene.accused() == {scene.liar}


# --- one peer spoils what another one brings ---


def damaged(block: Block, how: str, town: Town) -> Message:
    message = full(block)
    match how:
        case "header signature":
            return msgspec.structs.replace(message, header=seal(split(message.header)[0], bytes(32)))
        case "transaction signature":
            raw = seal(split(block.transactions[0])[0], bytes(32))
            return msgspec.structs.replace(message, transactions=(raw, *block.transactions[1:]))
        case "without transactions":
            return msgspec.structs.replace(message, transactions=())
        case "other transactions":
            return msgspec.structs.replace(message, transactions=(transaction(town, payload=b"other"),))
        case "wrong ids":
            return CompactBlock(block.header, (random_id("id"),), ())
        case _:
            return msgspec.structs.replace(message, votes=(b"\x00",))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("sender", ["relay", "proposer"])
@pytest.mark.parametrize(
    "how",
    ["header signature", "transaction signature", "without transactions", "other transactions", "wrong ids", "votes"],
)
def test_a_damaged_copy_does_not_condemn_the_block(how: str, sender: str, *, late: bool) -> None:
    """Not even from its proposer, who could send a damaged body to one node and the right one to all others."""
    scene = Scene(late=late)
    block = scene.forge.block(scene.forge.genesis, [transaction(scene.town)])
    bringer = block.proposer if sender == "proposer" else scene.order[2]
    other = scene.honest
    scene.victim.hear(bringer, damaged(block, how, scene.town))
    scene.victim.hear(other, full(block))
    scene.finish()
    assert scene.head() == block.id
    assert scene.accused() <= {bringer}
    assert bool(scene.accused()) == (how != "wrong ids")


@pytest.mark.parametrize("longer", [False, True])
def test_a_damaged_transaction_for_a_waiting_block_is_blamed_on_its_supplier(*, longer: bool) -> None:
    scene = Scene(max_block_bytes=1024, max_tx_bytes=1024)
    raw = transaction(scene.town, payload=b"x" * (1024 - len(transaction(scene.town)) - 1))
    block = scene.forge.block(scene.forge.genesis, [raw])
    bad = seal(split(raw)[0], bytes(33 if longer else 32))
    scene.hear(block.proposer, compact(block))
    scene.hear(scene.honest, Transactions((bad,)))
    assert block.proposer not in scene.accused()
    scene.victim.advance(2 * SECOND)
    assert [message.ids for message in scene.victim.sent(GetBlocks)][-1] == (block.id,)
    scene.hear(block.proposer, full(block))
    assert scene.head() == block.id
    assert scene.accused() <= {scene.honest}


def test_nothing_above_an_invalid_block_is_kept_or_fetched(scene: Scene) -> None:
    bad = scene.forge.block(scene.forge.genesis, seed_proof=bytes(80))
    above = scene.forge.chain(5, parent=bad, voted=False)
    for block in reversed(above):
        scene.hear(scene.liar, full(block))
    scene.hear(scene.liar, full(bad))
    scene.hear(scene.liar, full(scene.forge.block(bad, rank=1)))
    scene.victim.actions.clear()
    scene.victim.advance(20 * SECOND)
    assert not scene.victim.sent(GetHeaders) and not scene.victim.sent(GetBlocks)
    assert scene.works_on()


def test_an_early_block_of_the_last_candidate_does_not_silence_the_first() -> None:
    """It may not be used yet, so it must not keep others from proposing: it could censor transactions for ever."""
    town = Town()
    forge = Forge(town)
    first = town.driver(forge.ranked(forge.genesis)[0])
    early = forge.block(forge.genesis, rank=3)
    first.hear(early.proposer, full(early))
    first.submit([transaction(town)])
    first.advance(SECOND // 2)
    # Whether it goes on with a block above its own is up to the lottery.
    proposal, *_ = (m for m in first.sent(FullBlock) if decode_header(m.header).proposer == first.id)
    assert proposal.transactions
