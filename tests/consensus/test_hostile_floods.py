"""Floods, and anything in any order: nothing grows beyond its bound, nothing raises, no fork is final."""

from __future__ import annotations

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from microchain.consensus.interface import (
    FinalizedRecord,
    PeerConnected,
    PeerDisconnected,
    Send,
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
    decode_message,
    encode_message,
)
from microchain.consensus.objects import (
    decode_transaction,
)
from microchain.consensus.types import Digest, Height, ProtocolError

from tests.consensus.driver import SECOND, Town
from tests.consensus.harness import Forge, Scene, compact, full, largest_containers, random_id, status_of, transaction


@pytest.fixture
def scene() -> Scene:
    return Scene()


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
