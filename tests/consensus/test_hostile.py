"""An attacker at the engine's door: nothing raises or grows, the honest path works on, only the guilty are told on."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from microchain.consensus.interface import (
    AdmissionCode,
    FinalizedRecord,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    Send,
    ServeFinalized,
    VoteRecord,
)
from microchain.consensus.messages import (
    BlocksMissing,
    CompactBlock,
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
    decode_message,
    encode_message,
)
from microchain.consensus.objects import (
    TRANSACTION_TAG,
    TransactionBody,
    decode_header,
    decode_transaction,
    encode_body,
    seal,
    split,
)
from microchain.consensus.tree import Block
from microchain.consensus.types import Digest, Height, NodeId, ProtocolError
from microchain.crypto.hashing import tagged_hash
from microchain.simulator.crypto import SimulatedKeyring

from tests.consensus.driver import SECOND, Driver, Town
from tests.consensus.harness import Forge, LateDriver, compact, full, largest_containers


class Scene:
    """A town, a forge, and one victim that is none of the first two candidates after genesis."""

    def __init__(self, *, late: bool = False, **parameters: object) -> None:
        self.town = Town(**{"idle_interval_ms": 3_600_000, **parameters})
        self.forge = Forge(self.town)
        self.order = self.forge.ranked(self.forge.genesis)
        self.liar, self.honest, self.victim_id = self.order[0], self.order[1], self.order[-1]
        self.victim = LateDriver(self.town, self.victim_id) if late else Driver(self.town, self.victim_id)
        for peer in self.town.members:
            if peer != self.victim_id:
                self.victim.feed(PeerConnected(peer))

    def finish(self) -> None:
        if isinstance(self.victim, LateDriver):
            self.victim.catch_up()

    def hear(self, peer: NodeId, *messages: Message) -> None:
        self.victim.hear(peer, *messages)
        self.finish()

    def head(self) -> Digest:
        return self.victim.engine.status().head

    def accused(self) -> set[NodeId]:
        return {accusation.peer for accusation in self.victim.accusations()}

    def works_on(self) -> bool:
        """Whether four honest blocks with everybody's votes are still taken, final but for the last two."""
        before, parent = self.accused(), self.forge.genesis
        for _ in range(4):
            votes = self.forge.votes(parent) if parent.height else ()
            rank = next(n for n, member in enumerate(self.forge.ranked(parent)) if member != self.liar)
            parent = self.forge.block(parent, (), votes, rank=rank)
            self.hear(parent.proposer, full(parent))
            self.victim.advance(2 * SECOND)
            self.finish()
        status = self.victim.engine.status()
        return status.finalized_height >= 2 and self.accused() == before


@pytest.fixture
def scene() -> Scene:
    return Scene()


def random_id(*parts: object) -> Digest:
    return Digest(sha256(repr(parts).encode()).digest())


def status_of(height: int, *, finalized: int = 0, name: object = "head", vote: bytes = b"") -> Status:
    return Status(
        random_id(name, height),
        height,
        random_id("j", finalized),
        finalized,
        random_id("f", finalized),
        finalized,
        vote,
    )


# --- transactions ---


def transaction(town: Town, *, key: SimulatedKeyring | None = None, payload: bytes = b"x", **changes: object) -> bytes:
    body = TransactionBody(1, town.chain_id, 0, town.device, 100, payload)
    signed = encode_body(msgspec.structs.replace(body, **changes))
    return seal(signed, (key or town.keyrings[town.device]).sign(tagged_hash(TRANSACTION_TAG, signed)))


NEVER_VALID: dict[str, Callable[[Town], bytes]] = {
    "random": lambda town: b"\xff" * 50,
    "empty": lambda town: b"",
    "re-encoded": lambda town: b"\xdc\x00\x02" + transaction(town)[1:],
    "trailing": lambda town: transaction(town) + b"\x00",
    "oversized": lambda town: transaction(town, payload=b"x" * (256 << 10)),
    "other chain": lambda town: transaction(town, chain_id=bytes(32)),
    "wrong kind": lambda town: transaction(town, kind=3),
    "unknown sender": lambda town: transaction(town, sender=random_id("nobody")),
    "wrong signature": lambda town: transaction(town, key=town.keyrings[town.members[0]]),
}
NOT_NOW: dict[str, Callable[[Town], bytes]] = {
    "expired": lambda town: transaction(town, valid_until=0),
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


def test_one_announcer_cannot_use_up_what_may_be_asked_of_others(scene: Scene) -> None:
    for flood in range(3):
        scene.hear(scene.liar, TransactionIds(tuple(random_id(flood, n) for n in range(16384))))
    asked = sum(len(message.ids) for message in scene.victim.sent(GetTransactions))
    assert asked <= 16384
    wanted = random_id("honest")
    scene.hear(scene.honest, TransactionIds((wanted,)))
    assert scene.victim.actions[-1] == Send(scene.honest, GetTransactions((wanted,)))


# --- blocks ---

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
        "wrong kind": [NEVER_VALID["wrong kind"](town)],
    }


@pytest.mark.parametrize("form", [full, compact])
@pytest.mark.parametrize(
    "fault", ["twice", "expired", "too far", "too many bytes", "wrong signature", "unknown sender", "wrong kind"]
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
    (proposal,) = [m for m in first.sent(FullBlock) if decode_header(m.header).proposer == first.id]
    assert proposal.transactions


# --- votes ---

WRONG_VOTES: dict[str, Callable[[Scene, Block], bytes]] = {
    "random": lambda s, b: b"\x92\x00",
    "re-encoded": lambda s, b: b"\xdc\x00\x02" + s.forge.vote(s.liar, b)[1:],
    "no member": lambda s, b: s.forge.vote(s.town.device, b),
    "other chain": lambda s, b: s.forge.vote(s.liar, b, chain_id=bytes(32)),
    "signed by another": lambda s, b: s.forge.vote(s.honest, b, signer=s.liar),
    "other dynasty": lambda s, b: s.forge.vote(s.liar, b, dynasty=2),
    "source not below target": lambda s, b: s.forge.vote(s.liar, b, source_epoch=5),
}


@pytest.mark.parametrize("fault", WRONG_VOTES)
def test_a_wrong_vote_does_not_count_and_its_bringer_is_told_on(scene: Scene, fault: str) -> None:
    first = scene.forge.block(scene.forge.genesis)
    scene.hear(first.proposer, full(first))
    scene.hear(scene.liar, Votes((WRONG_VOTES[fault](scene, first),)))
    assert scene.accused() == {scene.liar}
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


# --- floods ---


def flood(scene: Scene, kind: str, start: int, count: int) -> None:
    forge, liar, genesis = scene.forge, scene.liar, scene.forge.genesis
    first = forge.block(genesis)
    for n in range(start, start + count):
        match kind:
            case "forged headers":
                scene.hear(liar, full(forge.block(genesis, signer=scene.town.device, timestamp=n)))
            case "own headers on unknown parents":
                block = forge.block(genesis, timestamp=n, parent=random_id(n), height=1 + n)
                scene.hear(liar, compact(block))
            case "own headers, wrong":
                scene.hear(liar, full(forge.block(genesis, timestamp=n, height=5)))
            case "headers, then their blocks":
                block = forge.block(genesis, timestamp=n, parent=random_id(n), height=1 + n)
                scene.hear(liar, status_of(n + 1, name=n), Headers((block.header,)), full(block))
            case "heads":
                scene.hear(liar, status_of(n + 1, name=n))
            case "finality":
                scene.hear(liar, status_of(n + 1, finalized=n + 1))
                block = forge.block(genesis, timestamp=n, parent=random_id(n))
                scene.hear(liar, FinalizedBlocks((full(block),), ()))
            case "votes":
                scene.hear(liar, Votes((forge.vote(liar, first, target=random_id(n), target_epoch=1 + n),)))
            case "announcements":
                scene.hear(liar, TransactionIds(tuple(random_id(n, m) for m in range(100))))
            case "transactions":
                scene.hear(liar, Transactions((transaction(scene.town, payload=random_id(n)),)))
            case "reconnections":
                scene.victim.feed(PeerDisconnected(liar))
                scene.victim.feed(PeerConnected(liar))
                scene.hear(liar, status_of(0))
        if n % 50 == 49:
            scene.victim.advance(SECOND)


FLOODS = [
    "forged headers",
    "own headers on unknown parents",
    "own headers, wrong",
    "headers, then their blocks",
    "heads",
    "finality",
    "votes",
    "announcements",
    "transactions",
    "reconnections",
]


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_grows_nothing_beyond_its_bound(kind: str) -> None:
    scene = Scene(max_pool_bytes=20_000, propose="release")
    flood(scene, kind, 0, 250)
    before = largest_containers(scene.victim.engine)
    flood(scene, kind, 250, 500)
    after = largest_containers(scene.victim.engine)
    grown = {path: (before.get(path, 0), size) for path, size in after.items() if size > before.get(path, 0) + 20}
    assert not {path: sizes for path, sizes in grown.items() if sizes[1] > 200}
    # The pool is full, and stays so: what it can't take is the API's to refuse.
    assert kind == "transactions" or scene.works_on()


def test_forged_headers_do_not_use_up_an_honest_proposers_allowance(scene: Scene) -> None:
    for n in range(200):
        scene.hear(scene.liar, full(scene.forge.block(scene.forge.genesis, signer=scene.town.device, timestamp=n)))
    block = scene.forge.block(scene.forge.genesis, timestamp=1000)
    scene.hear(scene.honest, full(block))
    assert scene.head() == block.id
    assert scene.accused() == {scene.liar}


def test_a_proposer_with_three_blocks_on_one_parent_is_followed_where_the_others_went(scene: Scene) -> None:
    three = [scene.forge.block(scene.forge.genesis, timestamp=n) for n in range(3)]
    for block in three:
        scene.hear(block.proposer, full(block))
    scene.hear(scene.honest, Votes(tuple(scene.forge.votes(three[2])[:2])))
    assert scene.victim.sent(GetHeaders)[-1].tip == three[2].id
    asked = [a for a in scene.victim.actions if isinstance(a, Send) and isinstance(a.message, GetHeaders)][-1].peer
    scene.hear(asked, Headers((three[2].header,)))
    assert scene.victim.sent(GetBlocks)[-1].ids == (three[2].id,)
    scene.hear(asked, full(three[2]))
    assert three[2].id in [b.id for b in scene.victim.blocks("verified")]


def test_bodies_answered_by_others_than_the_first_sender_use_up_nobodys_room(scene: Scene) -> None:
    parent = scene.forge.genesis
    for n in range(100):
        block = scene.forge.block(parent, [transaction(scene.town, payload=bytes([n]))])
        scene.hear(scene.honest, compact(block))
        scene.hear(scene.order[2], full(block))
        parent = block
    last = scene.forge.block(parent)
    scene.hear(scene.honest, full(last))
    assert scene.head() == last.id


# --- anything in any order ---

TOWN = Town()


def make_pool() -> tuple[list[Message], list[Message]]:
    """Real objects of two branches with everybody's votes for both, and mutations of them."""
    forge = Forge(TOWN)
    raws = [transaction(TOWN, payload=bytes([n])) for n in range(4)]
    trunk = [forge.block(forge.genesis, raws[:2])]
    for n in range(4):
        trunk.append(forge.block(trunk[-1], raws[2 + n : 3 + n], forge.votes(trunk[-1])))
    fork = [forge.block(trunk[0], raws[2:], rank=1)]
    for _ in range(3):
        fork.append(forge.block(fork[-1], (), [forge.vote(m, fork[-1]) for m in TOWN.members[:2]]))
    blocks = [*trunk, *fork]
    messages: list[Message] = [*map(full, blocks), *map(compact, blocks)]
    # At most one of four is a liar: three vote along the trunk only.
    messages += [Votes((forge.vote(m, b),)) for b in trunk for m in TOWN.members]
    messages += [Votes((forge.vote(TOWN.members[0], b),)) for b in fork]
    messages += [Votes(tuple(forge.votes(b))) for b in trunk] * 2
    messages += [Transactions(tuple(raws)), TransactionIds(tuple(b.id for b in blocks))]
    messages += [GetHeaders(b.id, TOWN.chain_id) for b in blocks] + [GetBlocks(tuple(b.id for b in blocks))]
    messages += [GetTransactions(tuple(decode_transaction(raw).id for raw in raws)), GetFinalized(Height(0))]
    messages += [Headers(tuple(b.header for b in blocks)), BlocksMissing((trunk[0].id,))]
    for last in (1, 3, 5):
        messages.append(FinalizedBlocks(tuple(full(b) for b in trunk[:last]), tuple(forge.votes(trunk[last - 1]))))
    for b, f in ((trunk[4], trunk[2]), (fork[3], trunk[0]), (trunk[1], trunk[0])):
        messages.append(Status(b.id, b.height, f.id, f.height, f.id, f.height, forge.vote(TOWN.members[1], f)))
        messages.append(Status(b.id, b.height, random_id("j"), 2**62, random_id("f"), 2**62, b""))
    return messages, [m for m in messages if isinstance(m, FullBlock | Votes | Transactions | FinalizedBlocks)]


MESSAGES, BREAKABLE = make_pool()


def damage(message: Message, at: int, mask: int) -> Message | None:
    """The message with one byte changed, if that still decodes."""
    data = bytearray(encode_message(message))
    data[at % len(data)] ^= mask
    try:
        return decode_message(bytes(data))
    except ProtocolError:
        return None


steps = st.one_of(
    st.tuples(st.sampled_from(MESSAGES), st.just(0), st.just(0)),
    st.tuples(st.sampled_from(BREAKABLE), st.integers(0, 5000), st.integers(1, 255)),
    st.sampled_from(["tick", "reconnect", "submit"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), steps), min_size=15, max_size=100))
def test_no_sequence_of_messages_raises_or_finalizes_a_fork(
    sequence: list[tuple[int, str | tuple[Message, int, int]]],
) -> None:
    victim = TOWN.driver(TOWN.members[-1])
    for peer, step in sequence:
        sender = TOWN.members[peer]
        match step:
            case "tick":
                victim.advance(SECOND)
            case "reconnect":
                victim.feed(PeerDisconnected(sender))
                victim.feed(PeerConnected(sender))
            case "submit":
                victim.submit([transaction(TOWN, payload=bytes([peer]))])
            case (message, at, mask):
                changed = damage(message, at, mask) if mask else message
                if changed is not None:
                    victim.hear(sender, changed)
    event(f"finalized {min(3, victim.engine.status().finalized_height)}")
    heights: dict[int, Digest] = {}
    ids = [id for record in victim.records(FinalizedRecord) for id in record.blocks]
    assert len(ids) == len(set(ids))
    for trace in victim.blocks("finalized"):
        assert heights.setdefault(trace.height, trace.id) == trace.id
    own = [r for r in victim.records(VoteRecord) if r.own]
    assert [v.target_epoch for v in own] == sorted({v.target_epoch for v in own})
