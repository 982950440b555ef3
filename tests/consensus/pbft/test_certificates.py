"""Certificates prove what they say and nothing else: quorums of distinct members for one thing."""

from __future__ import annotations

from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.consensus.genesis import Genesis, Parameters, RegistryEntry
from microchain.consensus.objects import VOTE_TAG, encode_body, seal
from microchain.consensus.pbft.certificates import (
    check_commits,
    check_new_view,
    check_prepared,
    check_view_change,
    choose,
    primary_of,
)
from microchain.consensus.pbft.statements import (
    NewViewBody,
    PrepareBody,
    Prepared,
    ViewChangeBody,
    commit_body,
    decode_new_view,
    decode_prepare,
    decode_view_change,
    encode,
)
from microchain.consensus.types import Digest, Height, NodeId, ProtocolError
from microchain.crypto.hashing import tagged_hash
from microchain.simulator.crypto import SimulatedKeyring, SimulatedSuite

SUITE = SimulatedSuite(b"certificates")
KEYS = {}
for number in range(7):
    key = SUITE.create_keyring(f"validator-{number}")
    KEYS[key.signing_key] = key
GENESIS = Genesis(
    run_id="00" * 16,
    parameters=Parameters(engine="pbft", signature="simulated"),
    registry=tuple(
        RegistryEntry(name=f"validator-{n}", role="validator", signing_key=k, credit=10 + 100 * n)
        for n, k in enumerate(KEYS)
    ),
)
CHAIN, COMMITTEE = GENESIS.chain_id(), GENESIS.committee()
MEMBERS = [member.id for member in COMMITTEE.members]
BLOCK, PARENT = Digest(sha256(b"block").digest()), Digest(sha256(b"parent").digest())

members = st.lists(st.integers(0, 6), max_size=9)


def key_of(member: NodeId) -> SimulatedKeyring:
    return KEYS[COMMITTEE.by_id[member].signing_key]


def prepare(member: NodeId, view: int = 1, height: int = 5, block: bytes = BLOCK) -> bytes:
    signed, id = encode(PrepareBody(1, CHAIN, view, height, block, member))
    return seal(signed, key_of(member).sign(id))


def commit(member: NodeId, view: int = 1, height: int = 5, block: bytes = BLOCK, parent: bytes = PARENT) -> bytes:
    signed = encode_body(commit_body(CHAIN, view, Height(height), parent, block, member))
    return seal(signed, key_of(member).sign(tagged_hash(VOTE_TAG, signed)))


def view_change(member: NodeId, view: int, height: int, prepared: Prepared | None = None) -> bytes:
    finalized = PARENT if height else CHAIN
    commits = tuple(commit(m, 0, height, PARENT, BLOCK) for m in MEMBERS[:5]) if height else ()
    signed, id = encode(ViewChangeBody(1, CHAIN, view, height, finalized, commits, prepared, member))
    return seal(signed, key_of(member).sign(id))


def new_view(view: int, changes: tuple[bytes, ...], by: NodeId | None = None) -> bytes:
    by = by or primary_of(COMMITTEE, view)
    signed, id = encode(NewViewBody(1, CHAIN, view, changes, by))
    return seal(signed, key_of(by).sign(id))


def test_every_member_counts_as_one_whatever_its_credit() -> None:
    assert {member.weight for member in COMMITTEE.members} == {1}


@given(members)
def test_only_a_quorum_of_distinct_members_makes_a_block_final(chosen: list[int]) -> None:
    raws = [commit(MEMBERS[i]) for i in chosen]
    if len(set(chosen)) == len(chosen) and len(chosen) >= 5:
        signed = check_commits(COMMITTEE, CHAIN, raws, BLOCK, Height(5))
        assert all(SUITE.verify(COMMITTEE.by_id[s.signer].signing_key, s.id, s.signature) for s in signed)
        assert check_commits(COMMITTEE, CHAIN, raws, PARENT, Height(4)) == signed
    else:
        with pytest.raises(ProtocolError):
            check_commits(COMMITTEE, CHAIN, raws, BLOCK, Height(5))


@given(members)
def test_only_a_quorum_of_distinct_members_prepares(chosen: list[int]) -> None:
    prepared = Prepared(1, BLOCK, tuple(prepare(MEMBERS[i]) for i in chosen))
    if len(set(chosen)) == len(chosen) and len(chosen) >= 5:
        assert len(check_prepared(COMMITTEE, CHAIN, prepared, Height(5), 2)) == len(chosen)
    else:
        with pytest.raises(ProtocolError):
            check_prepared(COMMITTEE, CHAIN, prepared, Height(5), 2)


@pytest.mark.parametrize("field", [{"view": 2}, {"height": 6}, {"block": PARENT}])
def test_statements_for_different_things_are_no_certificate(field: dict[str, object]) -> None:
    odd = {**field}
    prepares = (*(prepare(m) for m in MEMBERS[:4]), prepare(MEMBERS[4], **odd))  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        check_prepared(COMMITTEE, CHAIN, Prepared(1, BLOCK, prepares), Height(5), 9)
    commits = [*(commit(m) for m in MEMBERS[:4]), commit(MEMBERS[4], **odd)]  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        check_commits(COMMITTEE, CHAIN, commits, BLOCK, Height(5))


def test_a_prepare_is_no_commit_and_a_commit_no_prepare() -> None:
    with pytest.raises(ProtocolError):
        check_commits(COMMITTEE, CHAIN, [prepare(m) for m in MEMBERS], BLOCK, Height(5))
    with pytest.raises(ProtocolError):
        check_prepared(COMMITTEE, CHAIN, Prepared(1, BLOCK, tuple(commit(m) for m in MEMBERS)), Height(5), 2)


def test_what_was_prepared_in_the_wanted_view_or_later_is_refused() -> None:
    prepared = Prepared(3, BLOCK, tuple(prepare(m, view=3) for m in MEMBERS[:5]))
    statement = decode_view_change(view_change(MEMBERS[0], 3, 4, prepared))
    with pytest.raises(ProtocolError, match="prepared in view 3, asking for view 3"):
        check_view_change(COMMITTEE, CHAIN, statement)
    check_view_change(COMMITTEE, CHAIN, decode_view_change(view_change(MEMBERS[0], 4, 4, prepared)))


def test_a_new_view_begins_with_what_is_prepared_in_the_greatest_view_above_the_greatest_height() -> None:
    early = Prepared(0, PARENT, tuple(prepare(m, 0, 5, PARENT) for m in MEMBERS[:5]))
    late = Prepared(1, BLOCK, tuple(prepare(m, 1, 5, BLOCK) for m in MEMBERS[2:]))
    low = Prepared(1, PARENT, tuple(prepare(m, 1, 1, PARENT) for m in MEMBERS[:5]))
    changes = (
        view_change(MEMBERS[0], 2, 0, low),
        view_change(MEMBERS[1], 2, 4, early),
        view_change(MEMBERS[3], 2, 4, late),
        view_change(MEMBERS[4], 2, 4),
        view_change(MEMBERS[5], 2, 0),
    )
    signed, choice = check_new_view(COMMITTEE, CHAIN, decode_new_view(new_view(2, changes)))
    assert (choice.height, choice.block) == (5, BLOCK)
    assert all(SUITE.verify(COMMITTEE.by_id[s.signer].signing_key, s.id, s.signature) for s in signed)
    for wrong in (changes[:4], (*changes[:4], changes[0]), (*changes[:4], view_change(MEMBERS[5], 3, 0))):
        with pytest.raises(ProtocolError):
            check_new_view(COMMITTEE, CHAIN, decode_new_view(new_view(2, wrong)))
    with pytest.raises(ProtocolError, match="not by its primary"):
        check_new_view(COMMITTEE, CHAIN, decode_new_view(new_view(2, changes, by=MEMBERS[0])))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=7, max_size=7), st.permutations(range(7)))
def test_what_a_quorum_has_prepared_is_in_every_new_view(others: list[tuple[int, int]], order: list[int]) -> None:
    """Block 5 is final somewhere: a quorum prepared it in view 4. Any quorum of view changes then names it."""
    prepared = Prepared(4, BLOCK, ())
    older = [Prepared(view, PARENT, ()) if kind else None for view, kind in others]
    changes = [
        ViewChangeBody(1, CHAIN, 5, 4, PARENT, (), prepared if i < 5 else older[i], MEMBERS[i]) for i in order[:5]
    ]
    assert choose(changes).block == BLOCK


@given(st.binary(max_size=300))
def test_rubbish_is_refused_with_a_typed_error(data: bytes) -> None:
    for decode in (decode_prepare, decode_view_change, decode_new_view):
        with pytest.raises(ProtocolError):
            decode(data)


def test_a_second_encoding_of_a_statement_is_refused() -> None:
    signed, id = encode(PrepareBody(1, CHAIN, 1, 5, BLOCK, MEMBERS[0]))
    padded = msgspec.msgpack.encode([1, CHAIN, 1, 5, BLOCK, MEMBERS[0]]).replace(b"\x05", b"\xcc\x05", 1)
    assert padded != signed
    with pytest.raises(ProtocolError, match="canonical"):
        decode_prepare(seal(padded, key_of(MEMBERS[0]).sign(id)))
