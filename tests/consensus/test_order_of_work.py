"""Works may finish in any order, and what an engine promises must not depend on it."""

from __future__ import annotations

import pytest
from microchain.consensus.interface import VoteRecord

from tests.consensus.driver import SECOND, Town


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_journal_of_votes_only_goes_forward(order: tuple[int, ...]) -> None:
    town = Town()
    blocks = town.first_blocks(2, "a")
    proposers = {proposer for proposer, _ in blocks}
    voter = town.driver(next(member for member in town.members if member not in proposers))
    voter.signing = []
    for proposer, block in blocks:
        voter.hear(proposer, block)
        voter.advance(SECOND // 4)
    works = voter.signing
    assert len(works) >= 2
    for number in order:
        voter.finish(works[number])
    epochs = [record.target_epoch for record in voter.records(VoteRecord) if record.own]
    assert epochs == sorted(set(epochs))
    assert epochs[-1] == 2
