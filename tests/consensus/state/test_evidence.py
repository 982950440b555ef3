"""Evidence: every offence is punished once, nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from microchain.consensus.objects import Transaction
from microchain.consensus.state import (
    FALSE_REVEAL,
    TWO_HEADERS,
    TWO_VOTES,
    EvidencePayload,
    InvalidTransaction,
    encode_payload,
    get_account,
    view_sharing,
)
from microchain.consensus.state.payloads import RevealPayload, SharingView, decode_payload
from microchain.consensus.types import TransactionKind
from microchain.crypto.group import multiply
from msgspec.structs import replace

from tests.consensus.state.chain import Chain, Node

NODES = [Node(f"v{n}") for n in range(6)]
REPORTER, OFFENDER = NODES[0], NODES[5]
OTHER = b"u" * 32


def evidence(chain: Chain, offence: int, *proof: bytes, reporter: Node = REPORTER) -> Transaction:
    first, second = proof
    return reporter.transaction(chain, TransactionKind.EVIDENCE, EvidencePayload(offence, first, second))


def double_vote(chain: Chain, offender: Node = OFFENDER, *, dynasty: int = 0, epoch: int = 5) -> Transaction:
    votes = [offender.vote(chain, epoch, dynasty=dynasty, target=target).raw for target in (OTHER, b"t" * 32)]
    return evidence(chain, TWO_VOTES, *votes)


def excluded(chain: Chain, node: Node) -> int:
    account = get_account(chain.state, node.id)
    assert account is not None
    return account.excluded_until


# --- what is an offence ---


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"target": OTHER}, {}),
        ({"source": 2}, {}),
        ({"epoch": 9, "source": 3}, {"epoch": 8, "source": 4}),
        ({"epoch": 8, "source": 4}, {"epoch": 9, "source": 3}),
    ],
)
def test_votes_that_exclude_each_other_are_punished(one: dict[str, Any], other: dict[str, Any]) -> None:
    chain = Chain(NODES)
    votes = [OFFENDER.vote(chain, **{"epoch": 8, **changes}).raw for changes in (one, other)]
    chain.extend(evidence(chain, TWO_VOTES, *votes))
    assert (chain.credit(OFFENDER), excluded(chain, OFFENDER)) == (50, 11)
    assert [chain.credit(node) for node in NODES[:5]] == [100] * 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({"epoch": 9}, {}),
        ({"epoch": 9, "source": 4}, {"epoch": 8, "source": 4}),
        ({"epoch": 9, "source": 8}, {"epoch": 8, "source": 3}),
        ({"dynasty": 2, "target": OTHER}, {}),
    ],
)
def test_votes_that_an_honest_member_may_cast_are_none(one: dict[str, Any], other: dict[str, Any]) -> None:
    chain = Chain(NODES)
    votes = [OFFENDER.vote(chain, **{"epoch": 8, **changes}).raw for changes in (one, other)]
    with pytest.raises(InvalidTransaction, match="no offence"):
        chain.extend(evidence(chain, TWO_VOTES, *votes))


def test_votes_of_two_voters_are_no_offence() -> None:
    chain = Chain(NODES)
    with pytest.raises(InvalidTransaction, match="no offence"):
        chain.extend(evidence(chain, TWO_VOTES, NODES[1].vote(chain, 8).raw, OFFENDER.vote(chain, 8).raw))


def test_two_blocks_in_one_slot_on_one_parent_are_punished() -> None:
    chain = Chain(NODES)
    headers = [OFFENDER.header(chain, tx_root=root).raw for root in (OTHER, bytes(32))]
    chain.extend(evidence(chain, TWO_HEADERS, *headers))
    assert chain.credit(OFFENDER) == 50


@pytest.mark.parametrize("changes", [{}, {"parent": OTHER}, {"slot": 10}, {"dynasty": 2}, {"proposer": NODES[1].id}])
def test_blocks_on_other_parents_or_in_other_slots_are_no_offence(changes: dict[str, Any]) -> None:
    chain = Chain(NODES)
    with pytest.raises(InvalidTransaction, match="no offence"):
        chain.extend(evidence(chain, TWO_HEADERS, OFFENDER.header(chain).raw, OFFENDER.header(chain, **changes).raw))


def test_forged_signatures_prove_nothing() -> None:
    chain = Chain(NODES)
    framed = [NODES[1].header(chain, proposer=OFFENDER.id, tx_root=root).raw for root in (OTHER, bytes(32))]
    with pytest.raises(InvalidTransaction, match="signature or proof is wrong"):
        chain.extend(evidence(chain, TWO_HEADERS, *framed))
    one, other = (OFFENDER.vote(chain, 8, target=target) for target in (OTHER, b"t" * 32))
    damaged = other.raw[:-1] + bytes([other.raw[-1] ^ 1])
    with pytest.raises(InvalidTransaction, match="signature or proof is wrong"):
        chain.extend(evidence(chain, TWO_VOTES, one.raw, damaged))


def test_evidence_from_another_chain_or_against_strangers_is_refused() -> None:
    chain, other = Chain(NODES), Chain(NODES[:5])
    for made in (
        evidence(chain, TWO_VOTES, *(OFFENDER.vote(other, 8, target=t).raw for t in (OTHER, b"t" * 32))),
        evidence(chain, TWO_HEADERS, *(OFFENDER.header(other, tx_root=r).raw for r in (OTHER, bytes(32)))),
    ):
        with pytest.raises(InvalidTransaction, match="another chain"):
            chain.extend(made)
    with pytest.raises(InvalidTransaction, match="not registered"):
        chain.extend(double_vote(chain, Node("stranger")))


# --- false reveals ---


def at_reveals(dealers: list[Node] = NODES, **parameters: Any) -> Chain:
    chain = Chain(NODES, **parameters)
    chain.run(8, dealers)
    chain.run(10, ())
    return chain


def false_reveal(chain: Chain, offender: Node = OFFENDER) -> Transaction:
    duty = chain.duty(offender)
    assert duty is not None
    payload = decode_payload(duty.body.payload, RevealPayload)
    wrong = replace(payload.reveal, share=multiply(2, payload.reveal.share))
    return offender.transaction(chain, TransactionKind.REVEAL, replace(payload, reveal=wrong))


def test_false_reveal_is_punished_in_its_dynasty_and_later() -> None:
    chain = at_reveals()
    reveal, view = false_reveal(chain), encode_payload(view_sharing(chain.state))
    made = evidence(chain, FALSE_REVEAL, reveal.raw, view)
    assert get_account(chain.try_block(made), OFFENDER.id) != get_account(chain.state, OFFENDER.id)
    chain.finish(NODES[:5])
    chain.extend(evidence(chain, FALSE_REVEAL, reveal.raw, view))
    assert excluded(chain, OFFENDER) == 12


def test_true_reveal_is_no_offence_nor_one_for_other_deals() -> None:
    chain = at_reveals()
    true, view = chain.duty(OFFENDER), view_sharing(chain.state)
    assert true is not None
    with pytest.raises(InvalidTransaction, match="signature or proof is wrong"):
        chain.extend(evidence(chain, FALSE_REVEAL, true.raw, encode_payload(view)))
    other_view = SharingView(view.members, view.encrypted[::-1])
    with pytest.raises(InvalidTransaction, match="not for the deals of that dynasty"):
        chain.extend(evidence(chain, FALSE_REVEAL, true.raw, encode_payload(other_view)))
    branch = at_reveals(NODES[1:])
    abandoned = branch.duty(OFFENDER)
    assert abandoned is not None
    with pytest.raises(InvalidTransaction, match="not for the deals of that dynasty"):
        chain.extend(evidence(chain, FALSE_REVEAL, abandoned.raw, encode_payload(view_sharing(branch.state))))


def test_other_transactions_and_strangers_are_no_false_reveal() -> None:
    deal = Chain(NODES).duty(OFFENDER)
    assert deal is not None
    chain = at_reveals()
    true, view = chain.duty(OFFENDER), encode_payload(view_sharing(chain.state))
    assert true is not None
    with pytest.raises(InvalidTransaction, match="no reveal on this chain"):
        chain.extend(evidence(chain, FALSE_REVEAL, deal.raw, view))
    copied = Node("stranger").transaction(chain, TransactionKind.REVEAL, true.body.payload)
    with pytest.raises(InvalidTransaction, match="the sender was no member"):
        chain.extend(evidence(chain, FALSE_REVEAL, copied.raw, view))


# --- punishment ---


def test_offence_is_punished_once_for_each_dynasty() -> None:
    chain = Chain(NODES)
    with pytest.raises(InvalidTransaction, match="punished for that dynasty already"):
        chain.extend(double_vote(chain), double_vote(chain, epoch=6))
    chain.extend(double_vote(chain))
    headers = [OFFENDER.header(chain, tx_root=root).raw for root in (OTHER, bytes(32))]
    with pytest.raises(InvalidTransaction, match="punished for that dynasty already"):
        chain.extend(evidence(chain, TWO_HEADERS, *headers))
    chain.finish(NODES[:5])
    with pytest.raises(InvalidTransaction, match="punished for that dynasty already"):
        chain.extend(double_vote(chain, dynasty=1))
    chain.extend(double_vote(chain, dynasty=2))
    assert excluded(chain, OFFENDER) == 12


def test_old_evidence_counts_for_as_many_dynasties_as_the_exclusion_lasts() -> None:
    chain = Chain(NODES, exclusion_dynasties=2, dynasty_epochs=6)
    with pytest.raises(InvalidTransaction, match="evidence of dynasty 2 does not count in dynasty 1"):
        chain.extend(double_vote(chain, dynasty=2))
    for _ in range(2):
        chain.finish()
    chain.try_block(double_vote(chain, dynasty=1))
    chain.extend(double_vote(chain, dynasty=3))
    chain.finish()
    with pytest.raises(InvalidTransaction, match="evidence of dynasty 1 does not count in dynasty 4"):
        chain.extend(double_vote(chain, dynasty=1))
    chain.finish()
    with pytest.raises(InvalidTransaction, match="punished for that dynasty already"):
        chain.extend(double_vote(chain, dynasty=3))
    chain.finish()
    with pytest.raises(InvalidTransaction, match="evidence of dynasty 3 does not count in dynasty 6"):
        chain.extend(double_vote(chain, dynasty=3))
    assert not chain.state.slashes


def test_false_reveal_counts_as_long_as_other_evidence() -> None:
    chain = at_reveals(exclusion_dynasties=2)
    made = evidence(chain, FALSE_REVEAL, false_reveal(chain).raw, encode_payload(view_sharing(chain.state)))
    for _ in range(2):
        chain.finish()
        chain.try_block(made)
    chain.finish()
    with pytest.raises(InvalidTransaction, match="not for the deals of that dynasty"):
        chain.extend(made)


@pytest.mark.parametrize(("height", "first_without"), [(0, 2), (8, 3)])
def test_excluded_member_is_out_from_the_next_snapshot_until_its_time_is_over(height: int, first_without: int) -> None:
    chain = Chain(NODES, exclusion_dynasties=2, dynasty_epochs=20)
    chain.run(height)
    chain.extend(*chain.duties(NODES), double_vote(chain))
    seated = []
    for _ in range(4):
        chain.finish()
        seated.append("v5" in chain.members())
    # Excluded until dynasty 3: whoever was caught after the snapshot of dynasty 2 keeps that seat.
    assert seated == [first_without > 2, False, True, True]


def test_credit_falls_but_no_seat_where_too_few_would_be_left() -> None:
    chain = Chain(NODES[2:])
    chain.extend(*chain.duties(NODES[2:]), evidence_by_member(chain))
    assert (chain.credit(OFFENDER), excluded(chain, OFFENDER)) == (50, 0)
    chain.finish()
    assert len(chain.members()) == 4
    poor = Chain([*NODES[2:5], Node("v5", credit=15)])
    poor.extend(evidence_by_member(poor))
    assert (poor.credit(OFFENDER), excluded(poor, OFFENDER)) == (10, 0)


def evidence_by_member(chain: Chain) -> Transaction:
    votes = [OFFENDER.vote(chain, 5, target=target).raw for target in (OTHER, b"t" * 32)]
    return evidence(chain, TWO_VOTES, *votes, reporter=NODES[2])


def test_devices_report_too_and_gain_nothing() -> None:
    device = Node("sensor", "device")
    chain = Chain([*NODES, device])
    votes = [OFFENDER.vote(chain, 5, target=target).raw for target in (OTHER, b"t" * 32)]
    chain.extend(evidence(chain, TWO_VOTES, *votes, reporter=device))
    assert (chain.credit(device), chain.credit(OFFENDER)) == (100, 50)
