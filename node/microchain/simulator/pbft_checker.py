"""What honest PBFT replicas must hold to: one word in each view and height, none in a view they left, all durable."""

from __future__ import annotations

import msgspec

from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import Broadcast, EvidenceRecord, Send
from microchain.consensus.messages import CompactBlock, FullBlock, NewView, Prepares, ViewChange, Votes
from microchain.consensus.objects import decode_vote
from microchain.consensus.pbft.core import Promise, ViewJournal
from microchain.consensus.pbft.statements import decode_new_view, decode_prepare, decode_view_change
from microchain.consensus.types import Digest, NodeId, ProtocolError
from microchain.crypto.suite import Suite
from microchain.simulator.checker import Checker
from microchain.simulator.node import SimulatedNode
from microchain.simulator.store import MemoryStore
from microchain.simulator.world import World

__all__ = ["PbftChecker"]


class PbftChecker(Checker):
    """The common rules, and these."""

    def __init__(self, world: World, genesis: Genesis, suite: Suite, honest: frozenset[NodeId]) -> None:
        super().__init__(world, genesis, suite, honest)
        self._words: dict[tuple[object, ...], bytes] = {}
        self._left: dict[NodeId, int] = {}
        """The greatest view that each honest replica asked for: it promises nothing below it any more."""

    def _note_evidence(self, node: SimulatedNode, record: EvidenceRecord) -> None:
        """Evidence stays in the ledger: this engine punishes nobody."""

    def _on_sent(self, node: SimulatedNode, action: Send | Broadcast) -> None:
        try:
            match action.message:
                case Prepares(prepares):
                    for raw in self._news(prepares):
                        self._on_prepare(node, raw)
                case Votes(votes):
                    for raw in self._news(votes):
                        self._on_commit(node, raw)
                case ViewChange(raw):
                    for fresh in self._news((raw,)):
                        self._on_view_change(node, fresh)
                case NewView(raw):
                    for fresh in self._news((raw,)):
                        self._on_new_view(node, fresh)
                case CompactBlock(header=header) | FullBlock(header=header):
                    self._on_header(node, header)
        except ProtocolError as error:
            self.report(f"{node.name} sends what nobody can read: {error}")

    def _news(self, raws: tuple[bytes, ...]) -> list[bytes]:
        fresh = [raw for raw in raws if raw not in self._seen]
        self._seen.update(fresh)
        return fresh

    def _is_honest(self, signer: NodeId, id: Digest, signature: bytes) -> bool:
        return signer in self._honest and self._is_signed(signer, id, signature)

    def _hold(self, signer: NodeId, what: str, where: tuple[int, ...], word: bytes) -> None:
        if self._words.setdefault((signer, what, *where), word) != word:
            name = self._entries[signer].name
            self.report(f"{name}, which is honest, contradicts its {what} at {where}")

    def _on_prepare(self, node: SimulatedNode, raw: bytes) -> None:
        statement = decode_prepare(raw)
        signer, body = statement.replica, statement.body
        if not self._is_honest(signer, statement.id, statement.signature):
            return
        self._hold(signer, "prepare", (body.view, body.height), body.block)
        if node.id == signer:
            self._check_view(node, "prepare", body.view)
            promise = _promise(node)
            if promise is not None and promise.prepare != raw:
                self.report(f"{node.name} sends a prepare for height {body.height} before it is durable")
            if isinstance(node.store, MemoryStore) and not node.store.is_durable(Digest(body.block)):
                self.report(f"{node.name} prepares block {body.height} before that is durable")

    def _on_commit(self, node: SimulatedNode, raw: bytes) -> None:
        vote = decode_vote(raw)
        if not self._is_honest(vote.voter, vote.id, vote.signature):
            return
        view, height = vote.body.dynasty, vote.body.target_epoch
        self._hold(vote.voter, "commit", (view, height), vote.target)
        if node.id == vote.voter:
            self._check_view(node, "commit", view)
            promise = _promise(node)
            if promise is not None and promise.commit != raw:
                self.report(f"{node.name} sends a commit for height {height} before it is durable")

    def _check_view(self, node: SimulatedNode, what: str, view: int) -> None:
        left = self._left.get(node.id, 0)
        if view < left:
            self.report(f"{node.name} sends a {what} in view {view} after it asked for view {left}")

    def _on_view_change(self, node: SimulatedNode, raw: bytes) -> None:
        statement = decode_view_change(raw)
        if not self._is_honest(statement.replica, statement.id, statement.signature):
            return
        self._hold(statement.replica, "view change", (statement.body.view,), statement.id)
        if node.id == statement.replica:
            self._left[node.id] = max(self._left.get(node.id, 0), statement.body.view)
            journal = _journal(node)
            if journal is not None and journal.view <= statement.body.view and journal.view_change != raw:
                self.report(f"{node.name} asks for view {statement.body.view} before that is durable")

    def _on_new_view(self, node: SimulatedNode, raw: bytes) -> None:
        statement = decode_new_view(raw)
        if not self._is_honest(statement.replica, statement.id, statement.signature):
            return
        self._hold(statement.replica, "new view", (statement.body.view,), statement.id)
        if node.id == statement.replica:
            journal = _journal(node)
            if journal is not None and journal.view <= statement.body.view and journal.new_view != raw:
                self.report(f"{node.name} begins view {statement.body.view} before that is durable")


def _promise(node: SimulatedNode) -> Promise | None:
    """What the node would still know of its promises after a loss of power; None: its store can't tell."""
    if not isinstance(node.store, MemoryStore):
        return None
    value = node.store.durable_journal("promise")
    return msgspec.msgpack.decode(value, type=Promise) if value else Promise(0, 0, b"", b"")


def _journal(node: SimulatedNode) -> ViewJournal | None:
    if not isinstance(node.store, MemoryStore):
        return None
    value = node.store.durable_journal("view")
    return msgspec.msgpack.decode(value, type=ViewJournal) if value else ViewJournal()
