"""The change of dynasty: what proves that a dynasty's last block is final, and what does not."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from microchain.consensus.genesis import Committee
from microchain.consensus.handover import (
    Boundary,
    check_handover,
    decode_handover,
    is_handover,
    list_votes,
)
from microchain.consensus.objects import VOTE_TAG, Header, HeaderBody, VoteBody, decode_header, encode_body, seal
from microchain.consensus.types import Digest, Dynasty, Height, NodeId, ProtocolError
from microchain.crypto.hashing import tagged_hash
from microchain.simulator.behaviours import TAMPERING
from microchain.simulator.scenario import create_scenario
from microchain.simulator.simulation import Simulation

from tests.consensus.driver import Town

ZERO = bytes(32)
LAST = Digest(b"L" * 32)


class Closing:
    """Dynasty 3 of a town of four, whose last block is at height 12, and closing blocks above it."""

    def __init__(self, epoch_blocks: int = 1) -> None:
        self.town = Town(epoch_blocks=epoch_blocks)
        self.parameters = self.town.genesis.parameters
        self.committee: Committee = self.town.genesis.committee()
        self.boundary = Boundary(LAST, Height(12), Dynasty(3), self.committee)
        self.headers: list[bytes] = []
        self._at: tuple[bytes, int] = (LAST, 12)

    def close(self, **changes: object) -> Header:
        parent, height = self._at
        body = HeaderBody(
            1, self.town.chain_id, height + 1, height + 1, parent, 3, LAST, ZERO, ZERO, self.committee.root,
            self.town.members[0], b"", 0,
        )  # fmt: skip
        self.headers.append(self.town.header(msgspec.structs.replace(body, **changes)))
        header = decode_header(self.headers[-1])
        self._at = header.id, header.height
        return header

    def votes(
        self, source: bytes, source_epoch: int, target: Header, count: int = 3, *, dynasty: int = 3
    ) -> list[bytes]:
        epoch = -(-target.height // self.parameters.epoch_blocks)
        return [
            self._vote(member, VoteBody(1, self.town.chain_id, dynasty, source, source_epoch, target.id, epoch, member))
            for member in self.town.members[:count]
        ]

    def _vote(self, member: NodeId, body: VoteBody) -> bytes:
        signed = encode_body(body)
        return seal(signed, self.town.keyrings[member].sign(tagged_hash(VOTE_TAG, signed)))

    def check(self, votes: list[bytes], headers: list[bytes] | None = None) -> int:
        handover = decode_handover([*(self.headers if headers is None else headers), *votes])
        assert handover.boundary == LAST
        items = check_handover(handover, self.boundary, self.town.chain_id, self.parameters)
        assert all(self.town.suite.verify(*item) for item in items)
        return len(items)


def test_the_next_epochs_votes_prove_the_last_block_final() -> None:
    closing = Closing()
    target = closing.close()
    assert closing.check(closing.votes(LAST, 12, target)) == 3


def test_a_closing_block_that_is_final_proves_it_without_the_blocks_between() -> None:
    closing = Closing(epoch_blocks=2)
    below = [closing.close() for _ in range(4)]
    top = [closing.close() for _ in range(2)]
    votes = closing.votes(below[-1].id, 8, top[-1])
    assert closing.check(votes, closing.headers[4:]) == 3


def test_a_link_over_two_epochs_needs_the_votes_for_the_one_between() -> None:
    closing = Closing()
    middle, top = closing.close(), closing.close()
    votes = closing.votes(LAST, 12, top)
    with pytest.raises(ProtocolError, match="two thirds"):
        closing.check(votes)
    assert closing.check(votes + closing.votes(ZERO, 11, middle)) == 6


def _two_thirds(c: Closing) -> list[bytes]:
    return c.votes(LAST, 12, c.close(), 2)


def _repeated(c: Closing) -> list[bytes]:
    return c.votes(LAST, 12, c.close(), 2) * 2


def _other_source(c: Closing) -> list[bytes]:
    return c.votes(ZERO, 11, c.close())


def _other_dynasty(c: Closing) -> list[bytes]:
    return c.votes(LAST, 12, c.close(), dynasty=2)


def _other_target(c: Closing) -> list[bytes]:
    first = c.close()
    del c.headers[:]
    c._at = LAST, 12
    c.close(timestamp=5)
    return c.votes(LAST, 12, first)


def _both(c: Closing, middle: Header, top: Header) -> list[bytes]:
    return c.votes(LAST, 12, top) + c.votes(ZERO, 11, middle)


def _no_closing_block(c: Closing) -> list[bytes]:
    return _both(c, c.close(), c.close(tx_root=ZERO))


def _header_of_the_next_dynasty(c: Closing) -> list[bytes]:
    return c.votes(LAST, 12, c.close(dynasty=4))


def _header_below(c: Closing) -> list[bytes]:
    c._at = ZERO, 11
    return c.votes(ZERO, 11, c.close())


def _gap(c: Closing) -> list[bytes]:
    middle = c.close()
    c._at = ZERO, 13
    return _both(c, middle, c.close())


def _padded(c: Closing) -> list[bytes]:
    votes = c.votes(LAST, 12, c.close())
    return [*votes, votes[0]]


def _other_parent(c: Closing) -> list[bytes]:
    c._at = ZERO, 12
    return c.votes(ZERO, 12, c.close())


def _header_of_another_chain(c: Closing) -> list[bytes]:
    return c.votes(LAST, 12, c.close(chain_id=ZERO))


def _too_long(c: Closing) -> list[bytes]:
    headers = [c.close() for _ in range(3)]
    return [vote for header in headers for vote in c.votes(LAST, 12, header)]


FALSE: list[Callable[[Closing], list[bytes]]] = [
    _two_thirds, _repeated, _other_source, _other_dynasty, _other_target, _no_closing_block,
    _header_of_the_next_dynasty, _header_below, _gap, _too_long, _padded, _other_parent, _header_of_another_chain,
]  # fmt: skip


@pytest.mark.parametrize("make", FALSE, ids=lambda make: make.__name__.strip("_"))
def test_what_proves_nothing_is_refused(make: Callable[[Closing], list[bytes]]) -> None:
    closing = Closing()
    votes = make(closing)
    with pytest.raises(ProtocolError):
        closing.check(votes)


def test_a_link_from_between_two_checkpoints_proves_nothing() -> None:
    closing = Closing(epoch_blocks=2)
    between, top = closing.close(), closing.close()
    votes = closing.votes(between.id, 7, top)
    with pytest.raises(ProtocolError, match="checkpoint"):
        closing.check(votes, closing.headers[1:])


def test_votes_and_handovers_are_told_apart() -> None:
    closing = Closing()
    votes = closing.votes(LAST, 12, closing.close())
    assert not is_handover(votes) and not is_handover(()) and is_handover([*closing.headers, *votes])
    assert [v.raw for v in list_votes(votes)] == [v.raw for v in list_votes([*closing.headers, *votes])] == votes


@pytest.mark.parametrize(
    ("seed", "epochs"),
    [
        (28, 4),  # A last block that was final before it was adopted: its transactions came into the pool again.
        (8, 6),  # The boundary stayed in force after the root had moved on.
        (48, 10),  # A deal with shares that are no points of the curve.
        (53, 10),  # Evidence that was of no use any more crowded out the deals: no dynasty ended.
    ],
)
def test_what_a_schedule_found_stays_found(seed: int, epochs: int) -> None:
    scenario = create_scenario(seed)
    parameters = msgspec.structs.replace(
        scenario.parameters, dynasty_epochs=epochs, committee="fixed", unsafe_committee=False
    )
    liars = {liar: tuple(b for b in does if b != TAMPERING) for liar, does in scenario.byzantine.items()}
    scenario = msgspec.structs.replace(scenario, parameters=parameters, boundary_faults=(), byzantine=liars)
    report = Simulation(scenario).run()
    assert report.is_good, report
    assert report.dynasties > 1
