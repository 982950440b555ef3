"""Committees: who is eligible, drawn and seated, and from which moment a change counts."""

from __future__ import annotations

from typing import Any

import pytest
from microchain.consensus.genesis import Sortition
from microchain.consensus.objects import Transaction
from microchain.consensus.state import (
    ClaimDuty,
    InvalidTransaction,
    find_duty,
    get_committee,
    next_dynasty,
    select_transactions,
)
from microchain.consensus.state.model import Windows
from microchain.consensus.state.payloads import ClaimPayload, RegisterPayload, RevokePayload, decode_payload
from microchain.consensus.types import ProtocolError, TransactionKind
from msgspec.structs import replace

from tests.consensus.state.chain import Chain, Node

NODES = [Node(f"v{n}") for n in range(12)]
AUTHORITY = Node("authority")
NEWCOMER = Node("newcomer")


def drawn(nodes: list[Node] = NODES, expected: int = 8, **parameters: Any) -> Chain:
    return Chain(nodes, AUTHORITY, committee=Sortition(expected_members=expected), unsafe_committee=True, **parameters)


def fixed(nodes: list[Node] = NODES[:4], **parameters: Any) -> Chain:
    return Chain(nodes, AUTHORITY, **parameters)


def register(chain: Chain, node: Node = NEWCOMER) -> Transaction:
    return AUTHORITY.transaction(chain, TransactionKind.REGISTER, RegisterPayload(node.entry))


def revoke(chain: Chain, node: Node) -> Transaction:
    return AUTHORITY.transaction(chain, TransactionKind.REVOKE, RevokePayload(node.id))


def claim(chain: Chain, node: Node) -> Transaction | None:
    duty = find_duty(chain.state, chain.context(), node.id)
    if not isinstance(duty, ClaimDuty):
        return None
    return node.transaction(chain, duty.kind, duty.payload(node.vrf.prove(duty.alpha)))


# --- fixed committees ---


def test_fixed_committee_is_every_validator_and_no_device() -> None:
    chain = fixed([*NODES[:4], Node("sensor", "device")])
    assert chain.members() == {"v0", "v1", "v2", "v3"}
    chain.finish()
    assert chain.members() == {"v0", "v1", "v2", "v3"}
    assert (
        find_duty(chain.state, chain.context(), next(n.id for n in chain.nodes.values() if n.name == "sensor")) is None
    )


def test_engines_committee_has_the_seats_in_order() -> None:
    chain = fixed([replace_credit(node, 50 + 20 * n) for n, node in enumerate(NODES[:4])])
    committee = get_committee(chain.state)
    assert [member.id for member in committee.members] == [seat.id for seat in chain.state.seats]
    assert committee == chain.genesis.committee()


def replace_credit(node: Node, credit: int) -> Node:
    return Node(node.name, credit=credit)


@pytest.mark.parametrize(("height", "dynasty"), [(0, 2), (7, 2), (8, 3), (15, 3)])
def test_registered_validator_serves_from_the_next_dynasty_if_the_deals_were_open(height: int, dynasty: int) -> None:
    chain = fixed()
    chain.nodes[NEWCOMER.id] = NEWCOMER
    chain.run(height)
    chain.extend(*chain.duties(NODES[:4]), register(chain))
    while chain.state.dynasty < dynasty:
        assert "newcomer" not in chain.members()
        chain.finish()
    assert "newcomer" in chain.members()


@pytest.mark.parametrize(("height", "dynasty"), [(0, 2), (8, 3)])
def test_revoked_validator_serves_no_more_by_the_same_rule(height: int, dynasty: int) -> None:
    chain = fixed(NODES[:5])
    chain.run(height)
    chain.extend(*chain.duties(NODES[1:5]), revoke(chain, NODES[0]))
    while chain.state.dynasty < dynasty:
        assert "v0" in chain.members()
        chain.finish()
    assert chain.members() == {"v1", "v2", "v3", "v4"}


def test_committee_stays_where_nobody_is_eligible() -> None:
    chain = fixed()
    chain.extend(*chain.duties(NODES[:4]), *(revoke(chain, node) for node in NODES[:4]))
    chain.run(8)
    assert chain.state.snapshot == ()
    # Revoked members cannot reveal any more, so the dynasty goes on.
    chain.run(30)
    assert chain.state.dynasty == 1


def test_dynasty_changes_at_its_last_block_only() -> None:
    chain = fixed()
    chain.run(19)
    with pytest.raises(ProtocolError, match="dynasty 1 ends at height 20, not at 19"):
        next_dynasty(chain.state)


# --- drawn committees ---


def test_drawn_committees_differ_by_dynasty_and_are_who_claimed() -> None:
    chain = drawn()
    seen = [frozenset(chain.members())]
    for _ in range(4):
        chain.run(chain.state.windows.claims - 1)
        claimed = {chain.nodes[claim.id].name for claim in chain.state.claims}  # type: ignore[index]
        chain.finish()
        assert chain.members() >= claimed
        assert len(chain.members()) >= 4
        seen.append(frozenset(chain.members()))
    assert len(set(seen)) > 1


def test_validator_that_does_not_claim_has_no_seat_and_weights_are_full() -> None:
    chain = drawn()
    chain.run(14)
    chain.finish([node for node in NODES if node.name != "v3"])
    assert "v3" not in chain.members()
    assert {seat.credit for seat in chain.state.seats} <= set(range(90, 120))


def test_claim_counts_once_and_only_in_its_window() -> None:
    chain = drawn()
    chain.run(14)
    claims = {node.name: made for node in NODES if (made := claim(chain, node))}
    assert len(claims) == 12
    good = select_transactions(chain.state, chain.context(), list(claims.values()))
    assert 4 <= len(good) < 12
    with pytest.raises(InvalidTransaction, match="claimed already"):
        chain.extend(good[0], good[0])
    undrawn = next(made for made in claims.values() if made not in good)
    with pytest.raises(InvalidTransaction, match="not drawn"):
        chain.extend(undrawn)
    for height in (13, 19):
        other = drawn()
        other.run(height)
        with pytest.raises(InvalidTransaction, match="do not belong into height"):
            other.extend(good[0])


def test_claims_that_are_not_the_senders_own_are_refused() -> None:
    chain = drawn()
    chain.run(14)
    good = select_transactions(chain.state, chain.context(), [c for node in NODES if (c := claim(chain, node))])
    payload = decode_payload(good[0].body.payload, ClaimPayload)
    owner = chain.nodes[good[0].body.sender]  # type: ignore[index]
    thief = next(node for node in NODES if node is not owner)
    with pytest.raises(InvalidTransaction, match="proof is wrong"):
        chain.extend(thief.transaction(chain, TransactionKind.CLAIM, payload))
    lucky = replace(payload, output=b"\xff" * 64)
    with pytest.raises(InvalidTransaction, match="proof is wrong"):
        chain.extend(owner.transaction(chain, TransactionKind.CLAIM, lucky))
    with pytest.raises(InvalidTransaction, match="claims for dynasty 3"):
        chain.extend(owner.transaction(chain, TransactionKind.CLAIM, replace(payload, dynasty=3)))
    with pytest.raises(InvalidTransaction, match="this is attempt 0"):
        chain.extend(owner.transaction(chain, TransactionKind.CLAIM, replace(payload, attempt=1)))


def test_too_few_claims_extend_the_window_and_draw_others_in_addition() -> None:
    chain = drawn(expected=8)
    chain.run(14)
    first = [made for node in NODES[:3] if (made := chain.duty(node))]
    while chain.state.height < 19:
        chain.extend(*(first if chain.state.height == 14 else ()))
    assert (chain.state.attempt, chain.state.windows) == (1, Windows(8, 14, 23, 24))
    claimed = {claim.id for claim in chain.state.claims}
    chain.finish()
    assert chain.state.dynasty == 2
    assert claimed <= {seat.id for seat in chain.state.seats}
    assert len(chain.state.seats) >= 4


def test_draw_that_is_never_sufficient_at_first_becomes_so_by_further_attempts() -> None:
    """Four validators of whom all four are needed: a single draw takes them all in one dynasty of six."""
    chain = drawn(NODES[:4], expected=4)
    for dynasty in (2, 3, 4):
        chain.finish()
        assert (chain.state.dynasty, len(chain.state.seats)) == (dynasty, 4)
    assert chain.state.height > 60


def test_fixed_committee_is_not_claimed() -> None:
    chain = fixed()
    chain.run(14)
    assert claim(chain, NODES[0]) is None
    with pytest.raises(InvalidTransaction, match="a fixed committee is not claimed"):
        chain.extend(NODES[0].transaction(chain, TransactionKind.CLAIM, ClaimPayload(2, 0, b"", bytes(64))))


def test_credit_after_the_snapshot_does_not_change_the_draw() -> None:
    chain = drawn()
    chain.run(8)
    snapshot = chain.state.snapshot
    assert {seat.credit for seat in snapshot} == {100}
    chain.finish()
    assert {seat.credit for seat in chain.state.seats} == {100}
    assert {chain.credit(node) for node in NODES} != {100}


# --- registration and revocation ---


def test_only_the_authority_registers_and_revokes() -> None:
    chain = fixed()
    for sender in (NODES[0], AUTHORITY):
        alone = Chain(NODES[:4])
        with pytest.raises(InvalidTransaction, match=r"authority|not registered"):
            alone.extend(sender.transaction(alone, TransactionKind.REGISTER, RegisterPayload(NEWCOMER.entry)))
    with pytest.raises(InvalidTransaction, match="only the chain's authority"):
        chain.extend(NODES[0].transaction(chain, TransactionKind.REGISTER, RegisterPayload(NEWCOMER.entry)))
    with pytest.raises(InvalidTransaction, match="only the chain's authority"):
        chain.extend(NODES[0].transaction(chain, TransactionKind.REVOKE, RevokePayload(NODES[1].id)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "v1"}, "v1 is registered with that name"),
        ({"signing_key": NODES[1].entry.signing_key}, "one of these keys"),
        ({"vrf_key": NODES[1].entry.vrf_key}, "one of these keys"),
        ({"pvss_key": NODES[1].entry.pvss_key}, "one of these keys"),
        ({"tls_key": NODES[1].entry.tls_key}, "one of these keys"),
        ({"address": NODES[1].entry.address}, "registered with the address v1:9101"),
        ({"address": "x" * 301}, "too long"),
        ({"tls_key": b"x" * 1025}, "too long"),
        ({"signing_key": b"x" * 31}, "no ed25519 public key"),
        ({"pvss_key": b""}, "no point"),
        ({"vrf_key": bytes([1]) + bytes(31)}, "no point"),
        ({"signing_key": AUTHORITY.public_key}, "authority's own key"),
    ],
)
def test_registration_that_would_confuse_is_refused(changes: dict[str, Any], message: str) -> None:
    chain = fixed()
    payload = RegisterPayload(replace(NEWCOMER.entry, **changes))
    with pytest.raises(InvalidTransaction, match=message):
        chain.extend(AUTHORITY.transaction(chain, TransactionKind.REGISTER, payload))


def test_node_is_registered_once_and_never_again_after_its_revocation() -> None:
    chain = fixed()
    with pytest.raises(InvalidTransaction, match="newcomer is registered"):
        chain.extend(register(chain), register(chain))
    chain.extend(register(chain))
    chain.extend(revoke(chain, NEWCOMER))
    with pytest.raises(InvalidTransaction, match="newcomer is registered"):
        chain.extend(register(chain))
    for node in (NEWCOMER, Node("stranger")):
        with pytest.raises(InvalidTransaction, match="not registered, or revoked already"):
            chain.extend(revoke(chain, node))


def test_revoked_node_sends_nothing_more_from_the_next_block_on() -> None:
    chain = fixed()
    deal = chain.duty(NODES[0])
    assert deal is not None
    chain.extend(revoke(chain, NODES[0]))
    assert chain.duty(NODES[0]) is None
    with pytest.raises(InvalidTransaction, match="not registered, or revoked"):
        chain.extend(deal)


def test_registered_device_may_send_but_has_no_seat() -> None:
    chain, device = fixed(), Node("sensor", "device")
    chain.extend(register(chain, device))
    assert device.id in dict.fromkeys(account.id for account in chain.state.registry)
    chain.finish(NODES[:4])
    assert chain.members() == {"v0", "v1", "v2", "v3"}
