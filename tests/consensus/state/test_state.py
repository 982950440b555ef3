"""The state as a whole: one encoding, a root that covers everything, and no input that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from microchain.consensus.genesis import Sortition
from microchain.consensus.objects import Transaction
from microchain.consensus.state import (
    ChainState,
    EvidencePayload,
    InvalidTransaction,
    RegisterPayload,
    RevokePayload,
    compute_checks,
    decode_state,
    encode_payload,
    encode_state,
    get_committee,
    perform_checks,
    select_transactions,
    senders,
    state_root,
    view_sharing,
)
from microchain.consensus.state.model import Account, Claim, Participation, PastSharing, Seat, Slash, Windows
from microchain.consensus.types import ProtocolError, TransactionKind
from msgspec.structs import replace

from tests.consensus.state.chain import SUITE, Chain, Node

NODES = [Node(f"v{n}") for n in range(6)]
AUTHORITY = Node("authority")


@lru_cache
def at(height: int) -> Chain:
    chain = Chain(NODES, AUTHORITY, committee=Sortition(expected_members=40), unsafe_committee=True)
    votes = [OFFENDER.vote(chain, 5, target=target).raw for target in (b"u" * 32, b"t" * 32)]
    chain.extend(NODES[0].transaction(chain, TransactionKind.EVIDENCE, EvidencePayload(1, *votes)))
    while chain.state.height < height:
        if chain.state.height == chain.state.windows.end:
            chain.finish()
        chain.run(min(height, chain.state.windows.end))
    return chain


OFFENDER = NODES[5]
HEIGHTS = [1, 8, 12, 16, 20, 30]


@pytest.mark.parametrize("height", HEIGHTS)
def test_state_comes_back_from_its_bytes_with_the_same_root(height: int) -> None:
    state = at(height).state
    again = decode_state(encode_state(state))
    assert again == state
    assert encode_state(again) == encode_state(state)
    assert state_root(again) == state_root(state)
    assert get_committee(again) == get_committee(state)


def test_every_state_of_a_chain_has_a_root_of_its_own() -> None:
    assert len({state_root(at(height).state) for height in HEIGHTS}) == len(HEIGHTS)


CHANGES: list[Callable[[ChainState], dict[str, Any]]] = [
    lambda s: {"rules": replace(s.rules, chain_id=bytes(32))},
    lambda s: {"rules": replace(s.rules, parameters=replace(s.rules.parameters, minimum_credit=11))},
    lambda s: {"registry": (*s.registry[:-1], replace(s.registry[-1], revoked_at=9))},
    lambda s: {"registry": (Account(b"", NODES[0].entry), *s.registry)},
    lambda s: {"snapshot": (*s.snapshot, Seat(b"z", 1))},
    lambda s: {"seats": (*s.seats, Seat(b"z", 1))},
    lambda s: {"height": s.height + 1},
    lambda s: {"dynasty": s.dynasty + 1},
    lambda s: {"start": s.start + 1},
    lambda s: {"beacon": bytes(32)},
    lambda s: {"next_beacon": bytes(32)},
    lambda s: {"windows": Windows(1, 2, 3, 4)},
    lambda s: {"participation": (*s.participation, Participation())},
    lambda s: {"sharing": replace(s.sharing, dealers=())},
    lambda s: {"sharing": replace(s.sharing, revealed=())},
    lambda s: {"claims": (*s.claims, Claim(b"", 0, 1))},
    lambda s: {"attempt": s.attempt + 1},
    lambda s: {"slashes": (*s.slashes, Slash(b"", 1))},
    lambda s: {"past_sharings": (*s.past_sharings, PastSharing(1, b""))},
]


@pytest.mark.parametrize("change", CHANGES)
def test_root_covers_everything(change: Callable[[ChainState], dict[str, Any]]) -> None:
    state = at(16).state
    assert state_root(replace(state, **change(state))) != state_root(state)


def test_changes_above_touch_every_field() -> None:
    assert {field for change in CHANGES for field in change(at(16).state)} == set(ChainState.__struct_fields__)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_another_state(data: st.DataObject) -> None:
    good = encode_state(at(16).state)
    place = data.draw(st.integers(0, len(good) - 1))
    bad = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    for attempt in (bad, good[:place], good + b"\x00"):
        try:
            state = decode_state(attempt)
        except ProtocolError:
            continue
        assert state_root(state) != state_root(at(16).state)


def test_revoked_nodes_are_no_senders_and_the_authority_is_one() -> None:
    chain = Chain(NODES, AUTHORITY)
    chain.extend(AUTHORITY.transaction(chain, TransactionKind.REVOKE, RevokePayload(NODES[2].id)))
    assert set(senders(chain.state)) == {node.id for node in [*NODES, AUTHORITY] if node is not NODES[2]}
    assert set(senders(Chain(NODES).state)) == {node.id for node in NODES}


# --- hostile transactions ---

SYSTEM = [kind for kind in TransactionKind if kind != TransactionKind.DATA]


@lru_cache
def honest(height: int) -> tuple[Transaction, ...]:
    """A transaction of every kind that is due at that height, and some that are not."""
    chain = at(height)
    votes = [NODES[4].vote(chain, 5, target=target).raw for target in (b"u" * 32, b"t" * 32)]
    headers = [NODES[4].header(chain, tx_root=root).raw for root in (b"u" * 32, bytes(32))]
    made = [NODES[0].transaction(chain, TransactionKind.EVIDENCE, EvidencePayload(1, *votes))]
    made += [NODES[0].transaction(chain, TransactionKind.EVIDENCE, EvidencePayload(0, *headers))]
    for duty in chain.duties(NODES):
        made += [duty, duty]
        made += [
            NODES[0].transaction(
                chain, TransactionKind.EVIDENCE, EvidencePayload(2, duty.raw, encode_payload(view_sharing(chain.state)))
            )
        ]
    made += [AUTHORITY.transaction(chain, TransactionKind.REGISTER, RegisterPayload(Node("new").entry))]
    made += [AUTHORITY.transaction(chain, TransactionKind.REVOKE, RevokePayload(NODES[1].id))]
    return tuple(made)


def judge(chain: Chain, *transactions: Transaction) -> bool:
    """Whether a block may contain them; anything but the typed error is a failure."""
    try:
        chain.try_block(*transactions)
    except InvalidTransaction:
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SYSTEM), st.binary(max_size=300), st.sampled_from([1, 8, 12, 16]))
def test_random_payloads_raise_only_the_typed_error(kind: TransactionKind, payload: bytes, height: int) -> None:
    chain = at(height)
    for sender in (NODES[0], AUTHORITY):
        transaction = sender.transaction(chain, kind, payload)
        assert not judge(chain, transaction)
        with pytest.raises(InvalidTransaction):
            compute_checks(chain.state, [transaction])
            raise InvalidTransaction("registrations leave nothing to check")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([0, 8, 12, 15]), st.data())
def test_damaged_payloads_are_refused_or_something_else(height: int, data: st.DataObject) -> None:
    chain = at(height or 1)
    original = data.draw(st.sampled_from(honest(height or 1)))
    payload = original.body.payload
    place, mask = data.draw(st.integers(0, len(payload) - 1)), data.draw(st.integers(1, 255))
    damaged = payload[:place] + bytes([payload[place] ^ mask]) + payload[place + 1 :]
    sender = next(node for node in [*NODES, AUTHORITY] if node.id == original.body.sender)
    transaction = sender.transaction(chain, TransactionKind(original.body.kind), damaged)
    registers = original.body.kind == TransactionKind.REGISTER
    assert registers or not judge(chain, transaction)


@pytest.mark.parametrize("height", [1, 8, 12, 15])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_a_proposer_selects_is_a_valid_block_and_nothing_more_would_fit(height: int, data: st.DataObject) -> None:
    chain = at(height)
    pooled = data.draw(st.lists(st.sampled_from(honest(height)), max_size=12))
    selected = select_transactions(chain.state, chain.context(), pooled)
    good = [tx for tx in selected if perform_checks(compute_checks(chain.state, [tx]), SUITE)]
    assert judge(chain, *good)
    left = list(pooled)
    for transaction in selected:
        left.remove(transaction)
    assert not any(judge(chain, *good, transaction) for transaction in left if len(good) == len(selected))


def test_name_that_is_no_text_is_refused() -> None:
    payload = encode_payload(RegisterPayload(Node("new").entry))
    transaction = AUTHORITY.transaction(at(1), TransactionKind.REGISTER, payload.replace(b"\xa3new", b"\xa3\xe4ew"))
    with pytest.raises(InvalidTransaction, match="malformed payload"):
        at(1).extend(transaction)


def test_payload_in_another_encoding_is_refused() -> None:
    payload = encode_payload(RevokePayload(NODES[1].id))
    longer = b"\xdc\x00\x01" + payload[1:]  # the same array of one element, its length in 16 bits
    with pytest.raises(InvalidTransaction, match="not canonically encoded"):
        at(1).extend(AUTHORITY.transaction(at(1), TransactionKind.REVOKE, longer))


def test_select_keeps_the_order_and_takes_each_offence_and_duty_once() -> None:
    chain = at(1)
    selected = select_transactions(chain.state, chain.context(), honest(1))
    kinds = [TransactionKind(transaction.body.kind).name for transaction in selected]
    assert kinds == ["EVIDENCE", "DEAL", "DEAL", "DEAL", "DEAL", "DEAL", "DEAL", "REGISTER", "REVOKE"]
