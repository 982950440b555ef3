"""The engine's parts by themselves: lottery, weights, branch state, fork choice, votes, pool, replay index."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from microchain.consensus.branch import VOTE_WINDOW, BranchState
from microchain.consensus.genesis import Committee, Genesis, Parameters, RegistryEntry, compute_weights
from microchain.consensus.kept import decode_kept, encode_kept
from microchain.consensus.lottery import Lottery
from microchain.consensus.objects import VERSION, VOTE_TAG, Vote, VoteBody, encode_body, seal
from microchain.consensus.pool import Pool, PoolEntry
from microchain.consensus.replay import ReplayIndex
from microchain.consensus.state import genesis_state as genesis_chain
from microchain.consensus.tree import Block, Tree
from microchain.consensus.types import Digest, Dynasty, Epoch, Height, Nanoseconds, NodeId, ProtocolError, Slot
from microchain.consensus.votebook import VoteBook
from microchain.crypto.hashing import tagged_hash

CHAIN = Digest(b"c" * 32)
BEACON = b"b" * 32


def make_committee(size: int, credits: Sequence[int] = ()) -> Committee:
    entries = [
        RegistryEntry(
            name=f"v{i}", role="validator", signing_key=bytes([i]) * 32, credit=credits[i] if credits else 100
        )
        for i in range(size)
    ]
    return Committee.from_entries(entries, 10)


def make_vote(committee: Committee, voter: int, target: bytes, epoch: int, source: bytes, source_epoch: int) -> Vote:
    member = committee.members[voter]
    body = VoteBody(VERSION, CHAIN, 1, source, source_epoch, target, epoch, member.id)
    signed = encode_body(body)
    return Vote(tagged_hash(VOTE_TAG, signed), seal(signed, b"s"), body, b"s")


def digest_of(*parts: int) -> Digest:
    return tagged_hash("test", *(part.to_bytes(8, "big") for part in parts))


# --- weights and lottery ---


@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_one_crashed_member_never_costs_finality(size: int) -> None:
    generator = random.Random(size)
    for _ in range(2000):
        weights = compute_weights([generator.randint(0, 1000) for _ in range(size)])
        assert 3 * (sum(weights) - max(weights)) > 2 * sum(weights)


def draw_all(lottery: Lottery, size: int) -> list[tuple[NodeId, Slot]]:
    drawn = [lottery.candidate(position) for position in range(size)]
    return [(c.member.id, c.slot) for c in drawn if c is not None]


@given(st.integers(4, 20), st.binary(min_size=32, max_size=32), st.integers(0, 1000))
def test_every_member_is_a_candidate_exactly_once_and_slots_do_not_fall(size: int, seed: bytes, slot: int) -> None:
    committee = make_committee(size)
    drawn = draw_all(Lottery(committee, BEACON, Digest(seed), Slot(slot), eager=False), size)
    assert sorted(member for member, _ in drawn) == [m.id for m in committee.members]
    slots = [slot for _, slot in drawn]
    assert slots == sorted(slots) and slots[0] > slot


@given(st.integers(4, 12), st.binary(min_size=32, max_size=32))
def test_a_member_wins_in_its_first_winning_slot_only(size: int, seed: bytes) -> None:
    committee = make_committee(size)
    drawn = dict(draw_all(Lottery(committee, BEACON, Digest(seed), Slot(0), eager=False), size))
    asked = Lottery(committee, BEACON, Digest(seed), Slot(0), eager=False)
    for member, own in drawn.items():
        for slot in range(1, max(drawn.values()) + 3):
            assert (asked.winner(member, Slot(slot)) is not None) == (slot == own)


def test_an_absurd_slot_costs_no_more_than_a_whole_draw() -> None:
    lottery = Lottery(make_committee(4), BEACON, Digest(b"s" * 32), Slot(0), eager=False)
    assert lottery.winner(NodeId(b"x" * 32), Slot(2**62)) is None


def test_credit_decides_how_often_a_member_comes_first() -> None:
    committee = make_committee(4, [125, 75, 75, 75])
    heavy = max(committee.members, key=lambda m: m.weight)
    first = sum(
        draw_all(Lottery(committee, BEACON, digest_of(i), Slot(0), eager=False), 1)[0][0] == heavy.id
        for i in range(2000)
    )
    share = heavy.weight / committee.total
    assert abs(first / 2000 - share) < 0.06


def test_eager_winners_of_the_first_slot_share_rank_zero() -> None:
    committee = make_committee(16)
    for i in range(50):
        lottery = Lottery(committee, BEACON, digest_of(i), Slot(0), eager=True)
        drawn = [c for position in range(16) if (c := lottery.candidate(position)) is not None]
        for candidate in drawn:
            assert (candidate.rank == 0) == (candidate.slot == drawn[0].slot)


# --- branch state ---


def genesis_state() -> BranchState:
    return BranchState(b"seed" * 8, CHAIN, 0, 0, {})


def grow(state: BranchState, committee: Committee, epoch: int, voters: Sequence[int], previous: bytes) -> BranchState:
    """Extend by the checkpoint of ``epoch`` that contains the voters' votes for ``previous``."""
    entry = state.open.get(previous)
    votes = []
    if entry is not None:
        votes = [make_vote(committee, v, previous, entry.epoch, entry.source, entry.source_epoch) for v in voters]
    state.check_votes(votes, committee, CHAIN, Dynasty(1))
    return state.extend(digest_of(epoch), Epoch(epoch), Digest(b"n" * 32), votes, committee)


def test_a_chain_whose_blocks_carry_the_votes_finalizes_two_behind() -> None:
    committee = make_committee(4)
    state, previous = genesis_state(), bytes(CHAIN)
    for epoch in range(1, 20):
        state = grow(state, committee, epoch, [0, 1, 2], previous)
        previous = digest_of(epoch)
        assert state.justified_epoch == max(0, epoch - 1)
        assert state.finalized_epoch == max(0, epoch - 2)
    assert len(state.open) == 2


def test_two_thirds_exactly_justify_nothing() -> None:
    committee = make_committee(6)
    state = grow(genesis_state(), committee, 1, [], CHAIN)
    state = grow(state, committee, 2, [0, 1, 2, 3], digest_of(1))
    assert state.justified_epoch == 0
    again = [make_vote(committee, 4, digest_of(1), 1, CHAIN, 0)]
    assert state.extend(digest_of(3), Epoch(3), Digest(b"n" * 32), again, committee).justified_epoch == 1


def test_a_gap_of_one_epoch_finalizes_only_with_the_middle_justified() -> None:
    committee = make_committee(4)
    state = grow(genesis_state(), committee, 1, [], CHAIN)
    state = grow(state, committee, 2, [0, 1, 2], digest_of(1))  # 1 justified; source of 2 is 1
    state = grow(state, committee, 3, [0], digest_of(2))  # 2 not justified; source of 3 is 1
    entry = state.open[digest_of(3)]
    assert entry.source == digest_of(1)
    for_three = [make_vote(committee, v, digest_of(3), 3, digest_of(1), 1) for v in (0, 1, 2)]
    lame = state.extend(digest_of(4), Epoch(4), Digest(b"n" * 32), for_three, committee)
    assert (lame.justified_epoch, lame.finalized_epoch) == (3, 0)
    late = [make_vote(committee, v, digest_of(2), 2, digest_of(1), 1) for v in (1, 2)]
    full = state.extend(digest_of(4), Epoch(4), Digest(b"n" * 32), [*for_three, *late], committee)
    assert (full.justified_epoch, full.finalized_epoch) == (3, 2 if full.open[digest_of(4)].epoch == 3 else 1)


@pytest.mark.parametrize("fault", ["twice", "stranger", "source", "epoch", "unknown", "chain", "dynasty"])
def test_votes_that_a_block_may_not_contain_are_refused(fault: str) -> None:
    committee = make_committee(4)
    state = grow(genesis_state(), committee, 1, [], CHAIN)
    target = digest_of(1)
    good = make_vote(committee, 0, target, 1, CHAIN, 0)
    state.check_votes([good], committee, CHAIN, Dynasty(1))
    other_chain = Digest(b"x" * 32)
    votes = {
        "twice": [good, good],
        "stranger": [make_vote(make_committee(9), 7, target, 1, CHAIN, 0)],
        "source": [make_vote(committee, 0, target, 1, digest_of(9), 0)],
        "epoch": [make_vote(committee, 0, target, 2, CHAIN, 0)],
        "unknown": [make_vote(committee, 0, digest_of(5), 1, CHAIN, 0)],
        "chain": [good],
        "dynasty": [good],
    }[fault]
    if fault == "stranger" and votes[0].voter in committee.by_id:
        pytest.skip("that stranger has a member's key")
    with pytest.raises(ProtocolError):
        state.check_votes(
            votes,
            committee,
            other_chain if fault == "chain" else CHAIN,
            Dynasty(2 if fault == "dynasty" else 1),
        )


def test_a_long_stall_keeps_the_state_bounded_and_it_survives_storage() -> None:
    committee = make_committee(4)
    state, previous = genesis_state(), bytes(CHAIN)
    for epoch in range(1, 3 * VOTE_WINDOW):
        state = grow(state, committee, epoch, [0], previous)
        previous = digest_of(epoch)
    assert len(state.open) <= VOTE_WINDOW
    chain = genesis_chain(make_genesis())
    assert decode_kept(*encode_kept(state, chain)) == (state, chain)


# --- fork choice ---


def make_genesis() -> Genesis:
    return Genesis(
        run_id="0" * 32,
        parameters=Parameters(signature="simulated"),
        registry=tuple(RegistryEntry(name=f"v{i}", role="validator", signing_key=bytes([i]) * 32) for i in range(4)),
    )


def make_tree(shape: Sequence[int], justified: Sequence[int], order: Sequence[int]) -> Block:
    """Insert blocks (block i + 1 on block shape[i]; 0 is genesis) in ``order`` where parents allow; return the head."""
    genesis = make_genesis()
    committee = genesis.committee()

    def block(index: int, parent: Block | None) -> Block:
        seed = digest_of(index)
        lottery = Lottery(committee, BEACON, seed, Slot(0 if parent is None else index), eager=False)
        height = 0 if parent is None else parent.height + 1
        candidate = parent.lottery.candidate(index % 4) if parent is not None else None
        made = Block(
            id=seed,
            parent=parent.id if parent else seed,
            height=Height(height),
            slot=candidate.slot if candidate else Slot(0),
            epoch=Epoch(height),
            checkpoint=True,
            proposer=NodeId(bytes(32)),
            header=b"",
            state=genesis_state(),
            chain=genesis_chain(genesis),
            closes=None,
            lottery=lottery,
            candidate=candidate,
        )
        made.restored = True
        made.justified = index in justified
        return made

    blocks = {0: block(0, None)}
    for index in range(1, len(shape) + 1):
        blocks[index] = block(index, blocks[shape[index - 1]])
    tree = Tree(blocks[0], genesis.parameters)
    waiting = list(order)
    while waiting:
        ready = next(i for i in waiting if blocks[i].parent in tree.blocks)
        tree.insert(blocks[ready])
        waiting.remove(ready)
    return tree.best_head(Nanoseconds(0))[0]


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    size = draw(st.integers(1, 12))
    shape = [draw(st.integers(max(0, i - 3), i)) for i in range(size)]
    justified = draw(st.lists(st.integers(1, size), max_size=3))
    order = draw(st.permutations(range(1, size + 1)))
    return shape, justified, list(order)


@settings(max_examples=150)
@given(trees())
def test_fork_choice_does_not_depend_on_the_order_of_arrival(case: tuple[list[int], list[int], list[int]]) -> None:
    shape, justified, order = case
    assert make_tree(shape, justified, order).id == make_tree(shape, justified, sorted(order)).id


@given(trees())
def test_fork_choice_takes_the_highest_justified_then_the_greatest_height(
    case: tuple[list[int], list[int], list[int]],
) -> None:
    shape, justified, order = case
    parents = {i + 1: parent for i, parent in enumerate(shape)}

    def branch(index: int) -> list[int]:
        path = []
        while index:
            path.append(index)
            index = parents[index]
        return path

    keys = {}
    for index in range(len(shape) + 1):
        path = branch(index)
        best = max((len(branch(i)) for i in path if i in justified), default=0)
        keys[digest_of(index)] = (best, len(path))
    assert keys[make_tree(shape, justified, order).id] == max(keys.values())


# --- votes, pool, replay ---


def test_a_second_vote_for_an_epoch_is_evidence_and_a_third_is_not_kept() -> None:
    committee = make_committee(4)
    book = VoteBook(committee, Dynasty(1))
    votes = [make_vote(committee, 0, digest_of(i), 1, CHAIN, 0) for i in range(3)]
    assert book.add(votes[0]) == (True, None)
    assert book.add(votes[0]) == (False, None)
    kept, evidence = book.add(votes[1])
    assert kept and evidence is not None and evidence.rule == "double-vote"
    assert {evidence.first, evidence.second} == {votes[0].raw, votes[1].raw}
    assert not book.add(votes[2])[0]


@pytest.mark.parametrize("inner_first", [True, False])
def test_a_surrounding_vote_is_evidence_in_either_order(inner_first: bool) -> None:
    committee = make_committee(4)
    book = VoteBook(committee, Dynasty(1))
    inner = make_vote(committee, 0, digest_of(3), 3, digest_of(2), 2)
    outer = make_vote(committee, 0, digest_of(4), 4, digest_of(1), 1)
    first, second = (inner, outer) if inner_first else (outer, inner)
    assert book.add(first) == (True, None)
    evidence = book.add(second)[1]
    assert evidence is not None and evidence.rule == "surround-vote"


def test_honest_votes_along_a_chain_are_no_evidence() -> None:
    committee = make_committee(4)
    book = VoteBook(committee, Dynasty(1))
    for epoch in range(1, 60):
        assert book.add(make_vote(committee, 0, digest_of(epoch), epoch, digest_of(epoch - 1), epoch - 1))[1] is None


def test_far_votes_are_bounded_to_the_newest_of_each_voter() -> None:
    committee = make_committee(4)
    book = VoteBook(committee, Dynasty(1))
    for epoch in range(1000, 3000):
        book.add(make_vote(committee, 0, digest_of(epoch), epoch, CHAIN, 0))
    assert len(book.targets()) == 1
    assert digest_of(2999) in book.targets()


def test_pruned_votes_are_gone_and_not_taken_again() -> None:
    committee = make_committee(4)
    book = VoteBook(committee, Dynasty(1))
    vote = make_vote(committee, 0, digest_of(1), 1, CHAIN, 0)
    book.add(vote)
    book.prune(Epoch(1))
    assert not book.targets() and not book.knows(vote)
    assert book.add(vote) == (False, None)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 3)), max_size=200))
def test_the_pool_counts_its_bytes_right(operations: list[tuple[int, int]]) -> None:
    pool = Pool(10_000)
    for number, operation in operations:
        id, raw = digest_of(number), bytes(number)
        if operation == 0 and pool.has_room(len(raw)):
            pool.add(id, PoolEntry(raw, number, local=False))
        elif operation == 1:
            pool.include(id, PoolEntry(raw, number, local=False))
        elif operation == 2:
            pool.restore(id)
        else:
            pool.remove([id])
        assert pool.pending_bytes == sum(len(entry.raw) for entry in pool.pending.values())
        assert not pool.pending.keys() & pool.included.keys()


def test_selection_takes_the_oldest_that_fit_and_leaves_the_expired() -> None:
    pool = Pool(10_000)
    for number, (size, valid_until) in enumerate([(400, 9), (400, 5), (400, 9), (300, 9), (200, 9)]):
        pool.add(digest_of(number), PoolEntry(bytes(size), valid_until, local=False))
    assert [id for id, _ in pool.select(Height(6), 1000)] == [digest_of(0), digest_of(2), digest_of(4)]
    assert pool.expire(Height(5)) == [digest_of(1)]


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 6000))
def test_the_replay_index_knows_exactly_what_was_added(seed: int, count: int) -> None:
    generator = random.Random(seed)
    index, added = ReplayIndex(), {}
    for number in range(count):
        added[digest_of(seed, number)] = generator.randint(0, 500)
    for id, valid_until in added.items():
        index.add(id, valid_until)
    assert all(index.contains(id, valid_until) for id, valid_until in added.items())
    assert not any(index.contains(digest_of(seed, count + n), 100) for n in range(100))
    index.expire(Height(200))
    for id, valid_until in added.items():
        if valid_until > 200:
            assert index.contains(id, valid_until)
