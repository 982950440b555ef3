"""PBFT's members that break the rules: two-tongued and silent primaries, garbage view changes, false statements."""

from __future__ import annotations

import random

import msgspec

from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import Action, Engine, Send
from microchain.consensus.messages import (
    CompactBlock,
    FinalizedBlocks,
    FullBlock,
    Message,
    NewView,
    Prepares,
    ReplicaStatus,
    TransactionIds,
    Transactions,
    ViewChange,
    Votes,
)
from microchain.consensus.objects import VOTE_TAG, VoteBody, decode_vote, encode_body, seal
from microchain.consensus.pbft.statements import (
    NewViewBody,
    PrepareBody,
    Prepared,
    ViewChangeBody,
    decode_prepare,
    encode,
)
from microchain.consensus.types import Digest, NodeId, ProtocolError
from microchain.crypto.hashing import tagged_hash
from microchain.crypto.suite import Keyring
from microchain.simulator.byzantine import Babbler, ByzantineMember, EquivocatingProposer, LateTeller, Withholder

__all__ = ["PBFT_BEHAVIOURS"]


class _Liar(ByzantineMember):
    """Signs statements in its own name."""

    def sign(self, body: PrepareBody | ViewChangeBody | NewViewBody) -> bytes:
        signed, id = encode(body)
        return seal(signed, self._keyring.sign(id))

    def sign_commit(self, body: VoteBody) -> bytes:
        signed = encode_body(msgspec.structs.replace(body, voter=self.id))
        return seal(signed, self._keyring.sign(tagged_hash(VOTE_TAG, signed)))


class EquivocatingPrimary(EquivocatingProposer, _Liar):
    """Shows half of the peers a twin of each of its blocks, and stands by the twin there."""

    def to_send(self, peer: NodeId, message: Message) -> list[Message]:
        twins = {original: twin for twin, original in self._originals.items()}
        if (peer[-1] + self._salt) % 2:
            if isinstance(message, Prepares):
                return [Prepares(tuple(self._stand_by(raw, twins) for raw in message.prepares))]
            if isinstance(message, Votes):
                return []
        return super().to_send(peer, message)

    def _stand_by(self, raw: bytes, twins: dict[Digest, Digest]) -> bytes:
        try:
            body = decode_prepare(raw).body
        except ProtocolError:
            return raw
        twin = twins.get(Digest(body.block))
        if twin is None or body.replica != self.id:
            return raw
        return self.sign(msgspec.structs.replace(body, block=twin))


class SilentPrimary(ByzantineMember):
    """Follows, prepares and commits, but its own blocks never leave it."""

    def to_send(self, peer: NodeId, message: Message) -> list[Message]:
        return [] if isinstance(message, CompactBlock | FullBlock) else [message]


class EquivocatingReplica(_Liar):
    """Prepares and commits every block that anybody names, and tells each of it to some."""

    def __init__(self, engine: Engine, id: NodeId, keyring: Keyring, genesis: Genesis, rng: random.Random) -> None:
        super().__init__(engine, id, keyring, genesis, rng)
        self._said: dict[tuple[int, bytes], None] = {}

    def on_message(self, peer: NodeId, message: Message) -> list[Action]:
        actions: list[Action] = []
        try:
            if isinstance(message, Prepares):
                for raw in message.prepares:
                    actions += self._repeat_prepare(decode_prepare(raw).body)
            elif isinstance(message, Votes):
                for raw in message.votes:
                    actions += self._repeat_commit(decode_vote(raw).body)
        except ProtocolError:
            pass
        return actions

    def _repeat_prepare(self, body: PrepareBody) -> list[Action]:
        if (body.view, body.block) in self._said:
            return []
        self._said[body.view, body.block] = None
        prepare = self.sign(msgspec.structs.replace(body, replica=self.id))
        return [Send(p, Prepares((prepare,))) for p in self.peers if self.rng.random() < 0.6]

    def _repeat_commit(self, body: VoteBody) -> list[Action]:
        if (body.dynasty, body.target + b"c") in self._said:
            return []
        self._said[body.dynasty, body.target + b"c"] = None
        commit = self.sign_commit(body)
        return [Send(p, Votes((commit,))) for p in self.peers if self.rng.random() < 0.6]


class ViewChanger(_Liar):
    """Asks for views near and far, with proofs that prove nothing, replays others', and begins views on its own."""

    def __init__(self, engine: Engine, id: NodeId, keyring: Keyring, genesis: Genesis, rng: random.Random) -> None:
        super().__init__(engine, id, keyring, genesis, rng)
        self._view = 0
        self._heard: list[Message] = []
        self._prepares: list[bytes] = []

    def on_message(self, peer: NodeId, message: Message) -> list[Action]:
        if isinstance(message, ReplicaStatus):
            self._view = max(self._view, min(message.view, 1 << 20))
        elif isinstance(message, ViewChange | NewView):
            self._heard = [*self._heard[-20:], message]
        elif isinstance(message, Prepares):
            self._prepares = [*self._prepares[-20:], *message.prepares]
        return []

    def on_timer(self) -> list[Action]:
        make = self.rng.choice((self._change, self._change, self._false_change, self._replay, self._new_view))
        message = make()
        return [Send(peer, message) for peer in self.peers if self.rng.random() < 0.8]

    def _body(self, view: int) -> ViewChangeBody:
        return ViewChangeBody(1, self._chain_id, view, 0, self._chain_id, (), None, self.id)

    def _change(self) -> Message:
        view = self._view + self.rng.choice((1, 1, 2, 7, 10_000))
        return ViewChange(self.sign(self._body(view)))

    def _false_change(self) -> Message:
        prepared = Prepared(self._view, self.rng.randbytes(32), tuple(self._prepares[-7:]))
        body = msgspec.structs.replace(self._body(self._view + 1), prepared=prepared)
        if self.rng.random() < 0.5:
            body = msgspec.structs.replace(body, height=self.rng.randrange(1, 50), finalized=self.rng.randbytes(32))
        return ViewChange(self.sign(body))

    def _replay(self) -> Message:
        return self.rng.choice(self._heard) if self._heard else self._change()

    def _new_view(self) -> Message:
        changes = tuple(m.view_change for m in self._heard if isinstance(m, ViewChange))
        return NewView(self.sign(NewViewBody(1, self._chain_id, self._view + self.rng.randrange(4), changes, self.id)))


class PbftWithholder(Withholder):
    """Keeps kinds of messages from some."""

    KINDS = (
        (CompactBlock, FullBlock),
        (Prepares,),
        (Votes, ReplicaStatus),
        (Transactions, TransactionIds),
        (ViewChange, NewView),
        (FullBlock, Transactions, FinalizedBlocks),
    )


class PbftLateTeller(LateTeller):
    """Holds its word back and releases it in bursts to some."""

    KINDS = (CompactBlock, FullBlock, Prepares, Votes, ViewChange, NewView, ReplicaStatus)


class PbftBabbler(Babbler, _Liar):
    """Sends mutated, invented and repeated messages, and lies about where it is."""

    def _lie(self) -> Message:
        status = self.engine.status()
        ahead = self.rng.choice((1, 5, 100_000))
        return ReplicaStatus(
            view=self.rng.choice((0, 1, ahead)),
            active=self.rng.random() < 0.5,
            finalized=self.rng.choice((self.rng.randbytes(32), status.finalized)),
            finalized_height=status.finalized_height + self.rng.choice((0, ahead)),
            committed=self.rng.choice((0, status.finalized_height)),
        )

    def _invent_vote(self) -> Message:
        view, height = self.rng.randrange(20), self.rng.choice((1, self.engine.status().finalized_height + 1, 1 << 40))
        body = PrepareBody(1, self._chain_id, view, height, self.rng.randbytes(32), self.id)
        return Prepares((self.sign(body),))


PBFT_BEHAVIOURS: dict[str, type[ByzantineMember]] = {
    "equivocating-primary": EquivocatingPrimary,
    "silent-primary": SilentPrimary,
    "equivocating-replica": EquivocatingReplica,
    "view-changer": ViewChanger,
    "withholding": PbftWithholder,
    "late": PbftLateTeller,
    "babbling": PbftBabbler,
}
