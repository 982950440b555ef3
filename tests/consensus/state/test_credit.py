"""Credit: what members earn and lose in a dynasty, and from when it counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from microchain.consensus.objects import Vote
from microchain.consensus.state import get_committee, next_dynasty

from tests.consensus.state.chain import Chain, Node

NODES = [Node(f"v{n}") for n in range(4)]


def after_dynasty(
    chain: Chain,
    *,
    voters: dict[Node, Iterable[int]] | None = None,
    proposers: Sequence[Node] = (),
    active: Sequence[Node] = NODES,
    votes: Sequence[Vote] = (),
) -> Chain:
    """Run one dynasty of 20 epochs: who votes for which epochs, and who proposes (in turn)."""
    by_epoch = {node: set(epochs) for node, epochs in (voters or {}).items()}
    first = chain.state.height
    while chain.state.height < chain.state.windows.end:
        epoch = chain.state.height
        contained = [node.vote(chain, epoch) for node, epochs in by_epoch.items() if epoch in epochs]
        proposer = proposers[(epoch - first) % len(proposers)] if proposers else None
        chain.extend(*chain.duties(active), votes=[*contained, *votes], proposer=proposer)
    chain.state = next_dynasty(chain.state)
    return chain


@pytest.mark.parametrize(
    ("epochs", "points"),
    [
        (range(1, 19), 10),  # all 18 that count
        (range(1, 21), 10),  # the last two do not count
        (range(19, 21), -10),
        (range(1, 18), 9),  # 170 // 18 - 10 // 18
        (range(1, 10), 0),
        (range(1, 9), -1),  # 80 // 18 - 100 // 18
        (range(0), -10),
    ],
)
def test_voting_earns_and_missing_costs(epochs: range, points: int) -> None:
    chain = after_dynasty(Chain(NODES), voters={NODES[0]: epochs})
    # Everybody dealt and revealed, which is worth 5.
    assert [chain.credit(node) for node in NODES] == [105 + points, 95, 95, 95]


def test_votes_of_strangers_and_for_epochs_of_the_dynasty_before_earn_nothing() -> None:
    chain = after_dynasty(Chain(NODES))
    before = [chain.credit(node) for node in NODES]
    old = [node.vote(chain, epoch) for node in (NODES[0], Node("stranger")) for epoch in (19, 20)]
    after_dynasty(chain, votes=old)
    assert [chain.credit(node) for node in NODES] == [credit - 5 for credit in before]


def test_dealing_and_revealing_earn_only_together() -> None:
    chain = Chain(NODES)
    chain.run(8, NODES[:3])
    chain.run(14, NODES[1:])
    after_dynasty(chain, active=NODES)
    assert [chain.credit(node) for node in NODES] == [90, 95, 95, 90]


@pytest.mark.parametrize(
    ("epochs", "proposers", "points"),
    [
        (20, NODES[:1], 2),  # twenty blocks are the beginning of one hundred
        (250, NODES[:1], 6),
        (250, NODES[:2], 6),
        (600, NODES[:1], 10),  # six hundreds, at most 10 points
        (600, NODES[1:3], 0),
    ],
)
def test_proposing_earns_for_each_hundred_blocks(epochs: int, proposers: list[Node], points: int) -> None:
    chain = after_dynasty(Chain(NODES, dynasty_epochs=epochs), proposers=proposers)
    assert chain.credit(NODES[0]) == 95 + points


def test_proposing_in_one_hundred_earns_once() -> None:
    chain = Chain(NODES, dynasty_epochs=300)
    for _ in range(5):
        chain.extend(*chain.duties(NODES), proposer=NODES[0])
    for _ in range(95):
        chain.extend(*chain.duties(NODES))
    chain.extend(*chain.duties(NODES), proposer=NODES[0])
    after_dynasty(chain)
    assert chain.credit(NODES[0]) == 95 + 4


def test_credit_is_capped_and_does_not_fall_below_the_minimum() -> None:
    nodes = [Node("v0", credit=995), Node("v1", credit=12), Node("v2", credit=10), Node("v3", credit=7)]
    chain = after_dynasty(Chain(nodes), voters={nodes[0]: range(1, 19)}, active=nodes)
    assert [chain.credit(node) for node in nodes] == [1000, 10, 10, 7]


def test_weights_follow_the_credit_one_dynasty_later() -> None:
    chain = Chain(NODES)
    for expected in (100, 100, 115):
        weights = {member.name: member.weight for member in get_committee(chain.state).members}
        assert weights["v0"] == expected
        after_dynasty(chain, voters={NODES[0]: range(chain.state.height + 1, chain.state.height + 19)})
