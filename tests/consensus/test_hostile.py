"""An attacker at the engine's door, with transactions, votes, questions and lies."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from microchain.consensus.interface import (
    AdmissionCode,
    MessageReceived,
    PeerConnected,
    Send,
    ServeFinalized,
    VoteRecord,
)
from microchain.consensus.messages import (
    BlocksMissing,
    FinalizedBlocks,
    FullBlock,
    GetBlocks,
    GetFinalized,
    GetHeaders,
    GetTransactions,
    Headers,
    Message,
    Status,
    TransactionIds,
    Transactions,
    Votes,
)
from microchain.consensus.objects import (
    decode_transaction,
    seal,
    split,
)
from microchain.consensus.tree import Block
from microchain.consensus.types import Height

from tests.consensus.driver import SECOND, Driver, Town
from tests.consensus.harness import Scene, full, random_id, status_of, transaction


@pytest.fixture
def scene() -> Scene:
    return Scene()


# --- transactions ---


NEVER_VALID: dict[str, Callable[[Town], bytes]] = {
    "random": lambda town: b"\xff" * 50,
    "empty": lambda town: b"",
    "re-encoded": lambda town: b"\xdc\x00\x02" + transaction(town)[1:],
    "trailing": lambda town: transaction(town) + b"\x00",
    "oversized": lambda town: transaction(town, payload=b"x" * (256 << 10)),
    "other chain": lambda town: transaction(town, chain_id=bytes(32)),
    "unknown sender": lambda town: transaction(town, sender=random_id("nobody")),
    "wrong signature": lambda town: transaction(town, key=town.keyrings[town.members[0]]),
}
NOT_NOW: dict[str, Callable[[Town], bytes]] = {
    "expired": lambda town: transaction(town, valid_until=0),
    "evidence of nothing": lambda town: transaction(town, kind=3),
    "valid too far": lambda town: transaction(town, valid_until=10_001),
}


@pytest.mark.parametrize("fault", NEVER_VALID)
def test_a_transaction_that_is_never_valid_is_refused_and_its_bringer_told_on(scene: Scene, fault: str) -> None:
    bad = NEVER_VALID[fault](scene.town)
    scene.hear(scene.liar, Transactions((bad,)))
    assert scene.accused() == {scene.liar}
    (outcome,) = scene.victim.submit([bad])
    assert outcome.code is not AdmissionCode.ACCEPTED
    assert scene.victim.engine.status().pool_transactions == 0
    assert scene.works_on()


@pytest.mark.parametrize("fault", NOT_NOW)
def test_a_transaction_that_is_only_untimely_here_makes_nobody_guilty(scene: Scene, fault: str) -> None:
    """A peer whose head is a block further may accept what is too early here, and the other way round."""
    scene.hear(scene.liar, Transactions((NOT_NOW[fault](scene.town),)))
    assert not scene.accused()
    assert scene.victim.engine.status().pool_transactions == 0


def test_a_repeated_transaction_is_a_duplicate_wherever_it_is(scene: Scene) -> None:
    raw = transaction(scene.town)
    assert [o.code for o in scene.victim.submit([raw, raw])] == [AdmissionCode.ACCEPTED, AdmissionCode.DUPLICATE]
    blocks = [scene.forge.block(scene.forge.genesis, [raw])]
    scene.hear(blocks[0].proposer, full(blocks[0]))
    assert scene.victim.submit([raw])[0].code is AdmissionCode.DUPLICATE
    for _ in range(3):
        blocks.append(scene.forge.block(blocks[-1], (), scene.forge.votes(blocks[-1])))
        scene.hear(blocks[-1].proposer, full(blocks[-1]))
    assert scene.victim.engine.status().finalized_height >= 1
    assert scene.victim.submit([raw])[0].code is AdmissionCode.DUPLICATE
    assert not scene.accused()


def test_a_copy_with_a_damaged_signature_does_not_keep_out_the_right_one() -> None:
    scene = Scene(late=True)
    raw = transaction(scene.town)
    scene.victim.hear(scene.liar, Transactions((seal(split(raw)[0], bytes(32)),)))
    scene.victim.hear(scene.honest, Transactions((raw,)))
    scene.finish()
    assert scene.victim.engine.find_transaction(decode_transaction(raw).id) == ("pooled", None)
    assert scene.accused() == {scene.liar}


def test_an_acknowledged_transaction_stays_announced_through_reorganisations() -> None:
    """Only its entry node announces a transaction again; it must know that it is one after any change of branch."""
    scene = Scene(slot_timeout_ms=60_000)
    scene.victim.advance(62 * SECOND)  # So that blocks of the second candidates are not held.
    raw = transaction(scene.town)
    scene.victim.submit([raw])
    forge = scene.forge
    late = forge.block(forge.genesis, [raw])
    low = forge.block(late)
    other = [forge.block(late, rank=1)]
    other.append(forge.block(other[0]))
    better = [forge.block(forge.genesis, rank=1)]
    for _ in range(4):
        better.append(forge.block(better[-1]))
    for block in (late, low, *other, *better):
        scene.hear(block.proposer, full(block))
    assert scene.head() == better[-1].id
    scene.victim.actions.clear()
    scene.victim.advance(2 * SECOND)
    assert any(decode_transaction(raw).id in m.ids for m in scene.victim.sent(TransactionIds))


def test_who_connects_late_is_told_of_what_was_sent_before() -> None:
    """On an idle chain nothing else would bring it to a peer whose link was not there when it was pushed."""
    town = Town(propose="release")
    early, late = (town.driver(member) for member in town.members[:2])
    early.submit([town.transaction("early")])
    early.actions.clear()
    early.feed(PeerConnected(town.members[1]))
    (announced,) = early.sent(TransactionIds)
    late.hear(town.members[0], announced)
    assert [asked.ids for asked in late.sent(GetTransactions)] == [announced.ids]


def test_one_announcer_cannot_use_up_what_may_be_asked_of_others(scene: Scene) -> None:
    for flood in range(3):
        scene.hear(scene.liar, TransactionIds(tuple(random_id(flood, n) for n in range(16384))))
    asked = sum(len(message.ids) for message in scene.victim.sent(GetTransactions))
    assert asked <= 16384
    wanted = random_id("honest")
    scene.hear(scene.honest, TransactionIds((wanted,)))
    assert scene.victim.actions[-1] == Send(scene.honest, GetTransactions((wanted,)))


# --- votes ---

WRONG_VOTES: dict[str, Callable[[Scene, Block], bytes]] = {
    "random": lambda s, b: b"\x92\x00",
    "re-encoded": lambda s, b: b"\xdc\x00\x02" + s.forge.vote(s.liar, b)[1:],
    "no member": lambda s, b: s.forge.vote(s.town.device, b),
    "other chain": lambda s, b: s.forge.vote(s.liar, b, chain_id=bytes(32)),
    "signed by another": lambda s, b: s.forge.vote(s.honest, b, signer=s.liar),
    "no dynasty": lambda s, b: s.forge.vote(s.liar, b, dynasty=0),
    "source not below target": lambda s, b: s.forge.vote(s.liar, b, source_epoch=5),
}


@pytest.mark.parametrize("fault", WRONG_VOTES)
def test_a_wrong_vote_does_not_count_and_its_bringer_is_told_on(scene: Scene, fault: str) -> None:
    first = scene.forge.block(scene.forge.genesis)
    scene.hear(first.proposer, full(first))
    scene.hear(scene.liar, Votes((WRONG_VOTES[fault](scene, first),)))
    assert scene.accused() == {scene.liar}
    assert not scene.victim.blocks("justified")


def test_a_vote_of_another_dynasty_does_not_count_and_its_bringer_may_be_honest(scene: Scene) -> None:
    first = scene.forge.block(scene.forge.genesis)
    scene.hear(first.proposer, full(first))
    scene.hear(scene.liar, Votes(tuple(scene.forge.vote(member, first, dynasty=2) for member in scene.town.members)))
    assert not scene.accused()
    assert not scene.victim.blocks("justified")


def test_a_wrong_vote_does_not_hide_its_voters_right_one(scene: Scene) -> None:
    """Both are for one target: the first names a source that counts for nothing."""
    first = scene.forge.block(scene.forge.genesis)
    wrong = [scene.forge.vote(m, first, source=random_id("s")) for m in scene.order[:2]]
    scene.hear(scene.liar, Votes(tuple(wrong)))
    scene.hear(scene.liar, Votes(tuple(scene.forge.vote(m, first) for m in scene.order[:2])))
    scene.hear(first.proposer, full(first))
    assert [b.id for b in scene.victim.blocks("justified")] == [first.id]


def test_a_contained_vote_counts_though_its_voter_sent_two_others_before(scene: Scene) -> None:
    forge = scene.forge
    first = forge.block(forge.genesis)
    scene.hear(
        scene.liar, *(Votes((forge.vote(m, first, target=random_id(n)),)) for m in scene.order[:3] for n in (1, 2))
    )
    second = forge.block(first, (), [forge.vote(m, first) for m in scene.order[:3]])
    scene.hear(first.proposer, full(first))
    scene.hear(second.proposer, full(second))
    assert first.id in [b.id for b in scene.victim.blocks("justified")]


def test_an_offender_cannot_fill_the_disk_with_its_offences(scene: Scene) -> None:
    first = scene.forge.block(scene.forge.genesis)
    for n in range(300):
        scene.hear(scene.liar, Votes((scene.forge.vote(scene.liar, first, target=random_id(n)),)))
        double = scene.forge.block(scene.forge.genesis, timestamp=n)
        scene.hear(scene.liar, full(double))
    assert 1 <= len(scene.victim.evidence()) <= 32
    assert scene.victim.engine.status().evidence == len(scene.victim.evidence())


# --- messages that ask, or answer what nobody asked ---


def test_unknown_ids_in_every_message_do_nothing(scene: Scene) -> None:
    ids = tuple(random_id(n) for n in range(64))
    forged = full(scene.forge.chain(3)[-1])
    for message in (
        TransactionIds(ids),
        GetTransactions(ids),
        GetHeaders(ids[0], ids[1]),
        GetBlocks(ids),
        BlocksMissing(ids),
        GetFinalized(Height(10**9)),
        Headers((forged.header,)),
        Headers((b"\x00",)),
        FinalizedBlocks((), ()),
        FinalizedBlocks((forged,), ()),
        FinalizedBlocks((FullBlock(b"", (), ()),), (b"",)),
        status_of(10),
    ):
        scene.hear(scene.liar, message)
    scene.victim.advance(3 * SECOND)
    assert scene.head() == scene.town.chain_id
    assert scene.works_on()


def answered(scene: Scene, message: Message) -> int:
    """How many bytes a message draws out of the victim."""
    scene.victim.actions.clear()
    scene.hear(scene.liar, message)
    return sum(len(msgspec.msgpack.encode(a.message)) for a in scene.victim.actions if isinstance(a, Send))


def test_no_question_draws_many_answers() -> None:
    scene = Scene(max_block_bytes=2 << 20)
    raws = [transaction(scene.town, payload=bytes([n]) * 200_000) for n in range(10)]
    scene.victim.submit(raws)
    ids = [decode_transaction(raw).id for raw in raws]
    assert answered(scene, GetTransactions((ids[0],) * 16384)) < 300_000
    assert answered(scene, GetTransactions(tuple(ids))) > 1_900_000
    blocks = [scene.forge.block(scene.forge.genesis, raws)]
    for block in [*blocks, *scene.forge.chain(70, parent=blocks[0], voted=False)]:
        scene.hear(block.proposer, full(block))
        blocks.append(block)
    assert answered(scene, GetBlocks((blocks[0].id,) * 64)) < 2_100_000
    assert answered(scene, GetBlocks(tuple(b.id for b in blocks[:64]))) < 5_000_000
    assert answered(scene, GetHeaders(blocks[-1].id, scene.town.chain_id)) < 64 * 600
    scene.hear(scene.liar, GetFinalized(Height(0)))
    assert [a for a in scene.victim.actions if isinstance(a, ServeFinalized)] == [ServeFinalized(scene.liar, Height(0))]


def test_a_status_draws_votes_twice_a_second_at_most(scene: Scene) -> None:
    for block in scene.forge.chain(4):
        scene.hear(block.proposer, full(block))
    scene.victim.actions.clear()
    for _ in range(100):
        scene.hear(scene.liar, status_of(0))
    assert len(scene.victim.sent(Votes)) == 1
    scene.victim.advance(SECOND)
    scene.hear(scene.liar, status_of(0))
    assert len(scene.victim.sent(Votes)) == 2


def test_a_branch_longer_than_one_answer_is_fetched_to_its_end() -> None:
    """In a long stall a node can lack just the end of a long branch; the first headers that it gets are all known."""
    scene = Scene(slot_timeout_ms=10, propose="release")
    blocks = scene.forge.chain(150, voted=False)
    server = Driver(scene.town, scene.honest)
    for block in blocks:
        server.hear(block.proposer, full(block))
    server.advance(60 * SECOND)
    assert server.engine.status().head_height == 150
    for block in blocks[:20]:
        scene.hear(block.proposer, full(block))
    for _ in range(12):
        scene.victim.actions.clear()
        server.actions.clear()
        scene.victim.advance(SECOND)
        server.advance(SECOND)
        scene.hear(server.id, Status(blocks[-1].id, 150, bytes(32), 0, scene.town.chain_id, 0, b""))
        for _ in range(20):
            asked, scene.victim.actions = scene.victim.actions, []
            server.actions.clear()
            for action in asked:
                if isinstance(action, Send) and action.peer == server.id:
                    server.feed(MessageReceived(scene.victim_id, action.message))
            for action in list(server.actions):
                if isinstance(action, Send):
                    scene.hear(server.id, action.message)
    assert scene.head() == blocks[-1].id


# --- liars about what is final ---


def votes_sent(scene: Scene) -> list[VoteRecord]:
    return [record for record in scene.victim.records(VoteRecord) if record.own]


@pytest.mark.parametrize("voted_before", [False, True])
@pytest.mark.parametrize("answer", ["nothing", "empty", "old blocks", "no chain"])
def test_one_liar_about_finality_silences_nobody(answer: str, *, voted_before: bool) -> None:
    """It claims to be far ahead, and delivers nothing, or always something that brings nobody further."""
    scene = Scene()
    forge, victim = scene.forge, scene.victim
    first, second = forge.chain(2)
    honest = [peer for peer in scene.order if peer not in (scene.liar, scene.victim_id)]
    if voted_before:
        scene.hear(first.proposer, full(first))
        assert len(votes_sent(scene)) == 1
    claim = status_of(1000, finalized=900)
    for peer in honest:
        scene.hear(peer, Status(scene.town.chain_id, 0, scene.town.chain_id, 0, scene.town.chain_id, 0, b""))
    answers = {
        "nothing": None,
        "empty": FinalizedBlocks((), ()),
        "old blocks": FinalizedBlocks((full(first),), ()),
        "no chain": FinalizedBlocks((full(second), full(first)), ()),
    }
    for _ in range(30):
        scene.hear(scene.liar, claim)
        message = answers[answer]
        if message is not None:
            scene.hear(scene.liar, message)
        victim.advance(SECOND)
    for block in (first, second):
        scene.hear(block.proposer, full(block))
    assert votes_sent(scene)[-1].target == second.id


def test_a_peer_that_really_is_ahead_is_asked_though_liars_claim_more(scene: Scene) -> None:
    blocks = scene.forge.chain(8)
    truth = Status(blocks[-1].id, 8, blocks[6].id, 7, blocks[5].id, 6, b"")
    served = False
    for _ in range(20):
        scene.hear(scene.liar, status_of(1000, finalized=900))
        scene.hear(scene.honest, truth)
        asked = [a for a in scene.victim.actions if isinstance(a, Send) and isinstance(a.message, GetFinalized)]
        scene.victim.actions.clear()
        if any(a.peer == scene.honest for a in asked):
            served = True
            certificate = tuple(scene.forge.votes(blocks[6]))
            scene.hear(scene.honest, FinalizedBlocks(tuple(full(b) for b in blocks[:6]), certificate))
        scene.victim.advance(SECOND)
    assert served
    assert scene.victim.engine.status().finalized_height >= 4
    assert not scene.victim.accusations()


def test_a_private_chain_served_as_final_does_not_become_the_head(scene: Scene) -> None:
    """Its author holds all its slots, and its blocks come early; only votes of two thirds spare a block the holding."""
    private = scene.forge.chain(30, rank=3, voted=False)
    scene.hear(scene.liar, status_of(31, finalized=30))
    scene.hear(scene.liar, FinalizedBlocks(tuple(full(block) for block in private), ()))
    assert scene.head() == scene.town.chain_id
    assert not votes_sent(scene)


@pytest.mark.parametrize("as_final", [False, True])
def test_an_endless_private_chain_is_not_kept_without_end(*, as_final: bool) -> None:
    scene = Scene(slot_timeout_ms=60_000, dynasty_epochs=10_000)
    liar = scene.forge.ranked(scene.forge.genesis)[1]
    chain = [scene.forge.genesis]
    for _ in range(1100):
        chain.append(scene.forge.block(chain[-1], rank=scene.forge.ranked(chain[-1]).index(liar)))
    messages = [full(block) for block in chain[1:]]
    if as_final:
        scene.hear(liar, status_of(1100, finalized=1100), FinalizedBlocks(tuple(messages), ()))
    else:
        scene.hear(liar, *messages)
    assert 1024 <= len(scene.victim.blocks("verified")) <= 1025
    assert scene.head() == scene.town.chain_id
