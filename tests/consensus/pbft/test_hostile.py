"""What peers send that they should not: refused with a reason, never kept without bound, never a crash."""

from __future__ import annotations

import pytest
from microchain.consensus.interface import Action, MessageReceived, Misbehaviour, PeerConnected, Work, WorkDone
from microchain.consensus.messages import (
    CompactBlock,
    FinalizedBlocks,
    FullBlock,
    Headers,
    Message,
    NewView,
    Prepares,
    ReplicaStatus,
    Transactions,
    ViewChange,
    Votes,
)
from microchain.consensus.objects import (
    HEADER_TAG,
    TRANSACTION_TAG,
    HeaderBody,
    TransactionBody,
    decode_transaction,
    encode_body,
    seal,
)
from microchain.consensus.pbft.core import WINDOW
from microchain.consensus.pbft.engine import PbftEngine
from microchain.consensus.pbft.statements import ViewChangeBody, encode
from microchain.consensus.pbft.validity import DYNASTY, EMPTY_STATE_ROOT
from microchain.consensus.types import Nanoseconds, NodeId, TransactionKind
from microchain.consensus.work import perform
from microchain.crypto.hashing import tagged_hash
from microchain.crypto.merkle import merkle_root

from tests.consensus.pbft.test_certificates import (
    CHAIN,
    COMMITTEE,
    GENESIS,
    MEMBERS,
    SUITE,
    commit,
    key_of,
    new_view,
    prepare,
    view_change,
)

LIAR = MEMBERS[3]


class Replica:
    """One engine, whose work is done at once."""

    def __init__(self) -> None:
        self.engine = PbftEngine(GENESIS, MEMBERS[1])
        self.core = self.engine._core
        self.engine.start(Nanoseconds(0))
        for member in MEMBERS:
            if member != MEMBERS[1]:
                self.engine.handle(PeerConnected(member), Nanoseconds(0))

    def hear(self, message: Message, peer: NodeId = LIAR) -> list[Action]:
        seen: list[Action] = []
        waiting = self.engine.handle(MessageReceived(peer, message), Nanoseconds(1))
        while waiting:
            action = waiting.pop(0)
            seen.append(action)
            if isinstance(action, Work):
                results = perform(action.jobs, SUITE, key_of(MEMBERS[1]))
                waiting += self.engine.handle(WorkDone(action.token, results), Nanoseconds(1))
        return seen


def accusations(actions: list[Action]) -> list[str]:
    return [action.reason for action in actions if isinstance(action, Misbehaviour)]


@pytest.mark.parametrize(
    "message",
    [
        Prepares((b"rubbish",)),
        Votes((b"rubbish",)),
        ViewChange(b"rubbish"),
        NewView(b"rubbish"),
        CompactBlock(b"rubbish", (), ()),
        FullBlock(b"rubbish", (), ()),
        Headers(()),
        Prepares((prepare(MEMBERS[4], height=1)[:-1] + b"x",)),
        Votes((commit(MEMBERS[4], height=1)[:-1] + b"x",)),
        ViewChange(view_change(LIAR, 3, 0)[:-1] + b"x"),
        NewView(new_view(1, ())),
        NewView(new_view(1, tuple(view_change(m, 1, 0) for m in MEMBERS[:4]))),
        NewView(new_view(1, tuple(view_change(m, 1, 0)[:-1] + b"x" for m in MEMBERS[:5]))),
    ],
)
def test_who_sends_it_is_accused(message: Message) -> None:
    replica = Replica()
    assert accusations(replica.hear(message))
    assert (replica.core.view, replica.core.tip.height) == (0, 0)


def test_unasked_final_blocks_are_ignored() -> None:
    replica = Replica()
    assert not accusations(replica.hear(FinalizedBlocks((), ())))


def test_statements_far_ahead_are_not_kept() -> None:
    replica = Replica()
    for height in range(1, 1000):
        replica.hear(Prepares((prepare(LIAR, 0, height),)))
        replica.hear(Votes((commit(LIAR, 0, height),)))
    for view in range(200):
        replica.hear(Prepares((prepare(LIAR, view, 1),)))
    for log in (replica.engine._agreement.prepares, replica.engine._agreement.commits):
        assert len(log._entries) == WINDOW
        assert all(len(views) <= 3 for of_height in log._entries.values() for views in of_height.values())


def test_a_flood_of_view_changes_moves_nobody_and_keeps_one() -> None:
    replica = Replica()
    for view in range(1, 300):
        assert not accusations(replica.hear(ViewChange(view_change(LIAR, view, 0))))
    replica.hear(ViewChange(view_change(MEMBERS[4], 10**9, 0)), MEMBERS[4])
    assert (replica.core.view, replica.core.journal.active) == (0, True)
    assert len(replica.engine._views._changes) == 2


def test_a_view_change_that_proves_nothing_is_refused() -> None:
    body = ViewChangeBody(1, CHAIN, 1, 7, MEMBERS[0], (), None, LIAR)
    signed, id = encode(body)
    assert accusations(Replica().hear(ViewChange(seal(signed, key_of(LIAR).sign(id)))))


def test_a_new_view_of_a_quorum_is_followed() -> None:
    replica = Replica()
    raw = new_view(1, tuple(view_change(m, 1, 0) for m in MEMBERS[2:]))
    assert not accusations(replica.hear(NewView(raw)))
    assert (replica.core.view, replica.core.journal.active) == (1, True)


def test_two_blocks_of_a_primary_are_evidence_and_only_one_is_kept() -> None:
    replica, primary = Replica(), COMMITTEE.members[0].id
    empty = merkle_root(())
    for timestamp in range(50):
        body = HeaderBody(
            1, CHAIN, 1, 0, CHAIN, DYNASTY, empty, empty, EMPTY_STATE_ROOT, COMMITTEE.root, primary, b"", timestamp
        )
        signed = encode_body(body)
        header = seal(signed, key_of(primary).sign(tagged_hash(HEADER_TAG, signed)))
        assert not accusations(replica.hear(CompactBlock(header, (), ()), primary))
    assert len(replica.core.blocks) == 1
    assert 0 < replica.core.evidence <= 16


def test_claims_of_a_height_only_make_it_ask() -> None:
    replica = Replica()
    replica.hear(ReplicaStatus(2**62, True, CHAIN, 2**62, 2**62))
    assert replica.engine.status().syncing
    assert (replica.core.view, replica.core.tip.height) == (0, 0)


@pytest.mark.parametrize("kind", TransactionKind)
def test_system_transactions_are_refused_in_pool_and_block(kind: TransactionKind) -> None:
    replica, primary = Replica(), COMMITTEE.members[0].id
    signed = encode_body(TransactionBody(1, CHAIN, kind, primary, 10, b"evidence of something"))
    raw = seal(signed, key_of(primary).sign(tagged_hash(TRANSACTION_TAG, signed)))
    is_data = kind is TransactionKind.DATA
    assert bool(accusations(replica.hear(Transactions((raw,)), primary))) is not is_data
    assert len(replica.core.pool.pending) == is_data and not replica.core.pool.system

    replica = Replica()
    root, empty = merkle_root([decode_transaction(raw).id]), merkle_root(())
    body = HeaderBody(1, CHAIN, 1, 0, CHAIN, DYNASTY, root, empty, EMPTY_STATE_ROOT, COMMITTEE.root, primary, b"", 0)
    signed = encode_body(body)
    header = seal(signed, key_of(primary).sign(tagged_hash(HEADER_TAG, signed)))
    replica.hear(FullBlock(header, (raw,), ()), primary)
    assert len(replica.core.blocks) == is_data
