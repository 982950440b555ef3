"""RandShare on the chain: one beacon for each dynasty, whoever f members are, and nothing revealed too early."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from microchain.consensus.objects import Transaction
from microchain.consensus.state import (
    BlockContext,
    DealDuty,
    InvalidTransaction,
    RevealDuty,
    find_duty,
    state_root,
)
from microchain.consensus.state.model import Windows
from microchain.consensus.state.payloads import DealPayload, RevealPayload, decode_payload
from microchain.consensus.types import Height, ProtocolError, TransactionKind
from microchain.crypto.group import multiply
from microchain.crypto.pvss import Deal, PvssKey
from msgspec.structs import replace

from tests.consensus.state.chain import Chain, Node

NODES = [Node(f"v{n}") for n in range(4)]
F = 1


def started(height: int = 0, nodes: list[Node] = NODES, **parameters: Any) -> Chain:
    chain = Chain(nodes, **parameters)
    chain.run(height)
    return chain


def test_each_dynasty_has_a_beacon_of_its_own_and_all_compute_the_same() -> None:
    one, other = started(), started()
    beacons = [one.state.beacon]
    for _ in range(3):
        one.finish()
        other.finish()
        assert state_root(one.state) == state_root(other.state)
        beacons.append(one.state.beacon)
    assert len(set(beacons)) == 4
    assert (one.state.dynasty, one.state.height, one.state.windows.end) == (4, 60, 80)


def test_beacon_is_the_same_whoever_reveals_and_in_whichever_order() -> None:
    chain = started(8)
    beacons = set()
    for revealing in (*combinations(NODES, 3), *combinations(NODES[::-1], 3), NODES):
        branch = started()
        branch.state = chain.state
        branch.run(14, revealing)
        assert len([share for share in branch.state.sharing.revealed if share]) == len(revealing)
        beacons.add(branch.state.next_beacon)
    assert len(beacons) == 1
    assert beacons != {b""}


def test_beacon_depends_on_every_deal() -> None:
    beacons = set()
    for dealing in (*combinations(NODES, 3), NODES):
        chain = started()
        chain.run(8, dealing)
        chain.run(14)
        beacons.add(chain.state.next_beacon)
    assert len(beacons) == 5


def test_f_members_that_do_nothing_do_not_stop_it() -> None:
    chain = started()
    chain.finish(NODES[F:])
    assert (chain.state.dynasty, chain.state.height) == (2, 20)
    assert chain.state.beacon


# --- windows ---


def test_windows_end_at_checkpoints_at_fractions_of_the_dynasty() -> None:
    assert started(dynasty_epochs=20).state.windows == Windows(8, 14, 19, 20)
    assert started(dynasty_epochs=600, epoch_blocks=4).state.windows == Windows(960, 1680, 2280, 2400)
    assert started(dynasty_epochs=4).state.windows == Windows(1, 2, 3, 4)


def test_too_few_deals_extend_all_windows_and_the_deals_that_are_in_stay() -> None:
    chain = started()
    chain.run(8, NODES[:2])
    assert chain.state.windows == Windows(12, 18, 23, 24)
    chain.run(12, NODES[:2])
    assert chain.state.windows.deals == 16
    chain.finish()
    assert (chain.state.dynasty, chain.state.height) == (2, 28)
    assert chain.state.windows.end == 48


def test_too_few_reveals_extend_what_follows_but_not_the_deals() -> None:
    chain = started(8)
    chain.run(14, NODES[:2])
    assert chain.state.windows == Windows(8, 18, 23, 24)
    assert not chain.state.next_beacon
    with pytest.raises(InvalidTransaction, match="deals ended at height 8"):
        chain.extend(deal_of(NODES[0], started()))
    chain.run(18)
    assert chain.state.next_beacon


def test_dynasty_goes_on_while_its_members_have_no_keys_to_deal_to() -> None:
    nodes = [Node(f"w{n}") for n in range(4)]
    nodes[2].entry = replace(nodes[2].entry, pvss_key=b"")
    chain = started(30, nodes)
    assert chain.state.dynasty == 1
    assert chain.state.windows.end > 30
    assert find_duty(chain.state, chain.context(), nodes[0].id) is None


def test_no_state_above_the_dynastys_last_block_or_out_of_turn() -> None:
    chain = started(20)
    with pytest.raises(ProtocolError, match="no state of dynasty 1 at height 21"):
        chain.extend()
    with pytest.raises(ProtocolError, match="height 9 after 7"):
        started(7).extend(context=BlockContext(Height(9), NODES[0].id, Height(0)))


# --- deals ---


def deal_of(node: Node, chain: Chain) -> Transaction:
    duty = chain.duty(node)
    assert duty is not None
    assert duty.body.kind == TransactionKind.DEAL
    return duty


def test_member_owes_one_deal_and_nobody_else_any() -> None:
    chain, stranger = started(), Node("stranger")
    assert isinstance(find_duty(chain.state, chain.context(), NODES[0].id), DealDuty)
    assert find_duty(chain.state, chain.context(), stranger.id) is None
    chain.extend(*chain.duties(NODES[:1]))
    assert find_duty(chain.state, chain.context(), NODES[0].id) is None
    assert isinstance(find_duty(chain.state, chain.context(), NODES[1].id), DealDuty)


def test_second_deal_is_refused_in_the_same_block_and_later() -> None:
    chain = started()
    deal = deal_of(NODES[0], chain)
    with pytest.raises(InvalidTransaction, match="dealt already"):
        chain.extend(deal, deal)
    chain.extend(deal)
    with pytest.raises(InvalidTransaction, match="dealt already"):
        chain.extend(deal)


def test_deals_of_strangers_of_other_dynasties_and_late_ones_are_refused() -> None:
    chain = started()
    payload = decode_payload(deal_of(NODES[0], chain).body.payload, DealPayload)
    device = Node("device", "device")
    with_device = started(nodes=[*NODES, device])
    with pytest.raises(InvalidTransaction, match="only the committee's members"):
        with_device.extend(device.transaction(with_device, TransactionKind.DEAL, payload))
    with pytest.raises(InvalidTransaction, match="not registered"):
        chain.extend(Node("stranger").transaction(chain, TransactionKind.DEAL, payload))
    with pytest.raises(InvalidTransaction, match="for dynasty 2; this is dynasty 1"):
        chain.extend(NODES[0].transaction(chain, TransactionKind.DEAL, replace(payload, dynasty=2)))
    late = started(8)
    with pytest.raises(InvalidTransaction, match="window for deals ended at height 8"):
        late.extend(NODES[0].transaction(late, TransactionKind.DEAL, payload))


def test_deal_of_another_member_or_dynasty_does_not_prove_itself_here() -> None:
    chain = started()
    payload = decode_payload(deal_of(NODES[0], chain).body.payload, DealPayload)
    with pytest.raises(InvalidTransaction, match="proof is wrong"):
        chain.extend(NODES[1].transaction(chain, TransactionKind.DEAL, payload))
    chain.finish()
    with pytest.raises(InvalidTransaction, match="proof is wrong"):
        chain.extend(NODES[0].transaction(chain, TransactionKind.DEAL, replace(payload, dynasty=2)))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: replace(d, encrypted=d.encrypted[:3]),
        lambda d: replace(d, encrypted=()),
        lambda d: replace(d, commitments=d.commitments[:3]),
        lambda d: replace(d, encrypted=(b"\xff" * 32, *d.encrypted[1:])),
        lambda d: replace(d, encrypted=(bytes(32), *d.encrypted[1:])),
        lambda d: replace(d, encrypted=(b"\x02" + bytes(31), *d.encrypted[1:])),  # on no point of the curve
        lambda d: replace(d, encrypted=d.encrypted[::-1]),
        lambda d: replace(d, responses=d.responses[::-1]),
    ],
)
def test_garbage_for_a_deal_is_refused_also_on_top_of_others(change: Callable[[Deal], Deal]) -> None:
    for earlier in (0, 2):
        chain = started()
        chain.extend(*chain.duties(NODES[:earlier]))
        payload = decode_payload(deal_of(NODES[3], chain).body.payload, DealPayload)
        with pytest.raises(InvalidTransaction):
            chain.extend(NODES[3].transaction(chain, TransactionKind.DEAL, replace(payload, deal=change(payload.deal))))


# --- reveals ---


def reveal_of(node: Node, chain: Chain) -> Transaction:
    duty = chain.duty(node)
    assert duty is not None
    assert duty.body.kind == TransactionKind.REVEAL
    return duty


def test_nobody_reveals_before_the_deals_are_final() -> None:
    chain = started(8)
    unready = BlockContext(Height(9), NODES[0].id, Height(7))
    assert find_duty(chain.state, unready, NODES[0].id) is None
    ready = BlockContext(Height(9), NODES[0].id, Height(8))
    duty = find_duty(chain.state, ready, NODES[0].id)
    assert isinstance(duty, RevealDuty)
    reveal = NODES[0].transaction(chain, duty.kind, duty.payload(NODES[0].pvss.reveal(duty.context, duty.encrypted)))
    with pytest.raises(InvalidTransaction, match="before height 8, where the deals end, is final"):
        chain.extend(reveal, context=unready)
    chain.extend(reveal, context=ready)


def test_second_reveal_and_one_outside_the_window_are_refused() -> None:
    chain = started(10)
    reveal = reveal_of(NODES[0], chain)
    with pytest.raises(InvalidTransaction, match="revealed already"):
        chain.extend(reveal, reveal)
    for height in (7, 14):
        other = started(height)
        with pytest.raises(InvalidTransaction, match="reveals belong into heights 9 to 14"):
            other.extend(reveal)


def test_false_reveals_are_refused() -> None:
    chain = started(10)
    reveal = reveal_of(NODES[0], chain)
    payload = decode_payload(reveal.body.payload, RevealPayload)
    wrong = replace(payload.reveal, share=multiply(2, payload.reveal.share))
    with pytest.raises(InvalidTransaction, match="proof is wrong"):
        chain.extend(NODES[0].transaction(chain, TransactionKind.REVEAL, replace(payload, reveal=wrong)))
    with pytest.raises(InvalidTransaction, match="proof is wrong"):
        chain.extend(NODES[1].transaction(chain, TransactionKind.REVEAL, payload))
    with pytest.raises(InvalidTransaction, match="other deals"):
        chain.extend(NODES[0].transaction(chain, TransactionKind.REVEAL, replace(payload, sharing=bytes(32))))


def test_reveal_made_on_a_branch_with_other_deals_does_not_count_here() -> None:
    chain, branch = started(8), started()
    branch.run(8, NODES[1:])
    branch.run(10)
    chain.run(10, ())
    with pytest.raises(InvalidTransaction, match="other deals than those in the chain"):
        chain.extend(reveal_of(NODES[0], branch))


def test_reveal_opens_with_no_key_but_the_members() -> None:
    chain = started(10)
    duty = find_duty(chain.state, chain.context(), NODES[0].id)
    assert isinstance(duty, RevealDuty)
    forged = PvssKey(b"x" * 32).reveal(duty.context, duty.encrypted)
    with pytest.raises(InvalidTransaction, match="proof is wrong"):
        chain.extend(NODES[0].transaction(chain, TransactionKind.REVEAL, duty.payload(forged)))
