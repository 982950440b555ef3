"""Members that break the rules: wrappers around an honest engine that change what it says.

Each is an Engine itself, so the simulated node does not know. They hold only their own keys.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Literal

import msgspec

from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import (
    Action,
    BlockRecord,
    Broadcast,
    Engine,
    EngineStatus,
    Event,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    Send,
    SetTimer,
    TimerFired,
)
from microchain.consensus.messages import (
    CompactBlock,
    FinalizedBlocks,
    FullBlock,
    GetBlocks,
    GetHeaders,
    Headers,
    Message,
    Status,
    TransactionIds,
    Transactions,
    Votes,
)
from microchain.consensus.objects import (
    HEADER_TAG,
    VOTE_TAG,
    HeaderBody,
    MalformedObject,
    VoteBody,
    decode_header,
    decode_vote,
    encode_body,
    seal,
)
from microchain.consensus.types import Digest, Nanoseconds, NodeId
from microchain.crypto.hashing import tagged_hash
from microchain.crypto.suite import Keyring
from microchain.simulator.world import SECOND

__all__ = [
    "BEHAVIOURS",
    "Babbler",
    "ByzantineMember",
    "EquivocatingProposer",
    "LateTeller",
    "Withholder",
]


class ByzantineMember:
    """Runs the honest engine, and passes each outgoing (peer, message) and each incoming message through a subclass."""

    def __init__(self, engine: Engine, id: NodeId, keyring: Keyring, genesis: Genesis, rng: random.Random) -> None:
        self.engine = engine
        self.id = id
        self.rng = rng
        self.peers: list[NodeId] = []
        self._keyring = keyring
        self._chain_id = genesis.chain_id()
        self._timer = type(self).__name__

    def start(self, now: Nanoseconds) -> list[Action]:
        return [*self._rewrite(self.engine.start(now)), SetTimer(self._timer, Nanoseconds(now + SECOND))]

    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        match event:
            case PeerConnected(peer):
                self.peers.append(peer)
            case PeerDisconnected(peer):
                self.peers.remove(peer)
            case TimerFired(timer) if timer == self._timer:
                pause = int(SECOND * (0.2 + 2 * self.rng.random()))
                return [*self.on_timer(), SetTimer(timer, Nanoseconds(now + pause))]
        actions: list[Action] = []
        if isinstance(event, MessageReceived):
            actions += self.on_message(event.peer, event.message)
        return actions + self._rewrite(self.engine.handle(event, now))

    def status(self) -> EngineStatus:
        return self.engine.status()

    def find_transaction(self, id: Digest) -> tuple[Literal["pooled", "included", "committed"], Digest | None] | None:
        return self.engine.find_transaction(id)

    def find_block(self, id: Digest) -> BlockRecord | None:
        return self.engine.find_block(id)

    def _rewrite(self, actions: list[Action]) -> list[Action]:
        result: list[Action] = []
        for action in actions:
            match action:
                case Broadcast(message):
                    for peer in list(self.peers):
                        result += [Send(peer, changed) for changed in self.to_send(peer, message)]
                case Send(peer, message):
                    result += [Send(peer, changed) for changed in self.to_send(peer, message)]
                case _:
                    result.append(action)
        return result

    def sign_vote(self, body: VoteBody) -> bytes:
        """Return an envelope of a vote in this member's own name."""
        signed = encode_body(msgspec.structs.replace(body, voter=self.id))
        return seal(signed, self._keyring.sign(tagged_hash(VOTE_TAG, signed)))

    def sign_header(self, body: HeaderBody) -> bytes:
        """Return an envelope of a header."""
        signed = encode_body(body)
        return seal(signed, self._keyring.sign(tagged_hash(HEADER_TAG, signed)))

    # --- what a subclass changes ---

    def to_send(self, peer: NodeId, message: Message) -> list[Message]:
        """Return what to send instead of ``message``."""
        return [message]

    def on_message(self, peer: NodeId, message: Message) -> list[Action]:
        """Return what to send besides, before the honest engine sees the message."""
        return []

    def on_timer(self) -> list[Action]:
        """Return what to send now and then."""
        return []


class EquivocatingProposer(ByzantineMember):
    """Makes a twin of each of its blocks; half of the peers hear of one, half of the other."""

    def __init__(self, engine: Engine, id: NodeId, keyring: Keyring, genesis: Genesis, rng: random.Random) -> None:
        super().__init__(engine, id, keyring, genesis, rng)
        self._twins: dict[bytes, bytes] = {}
        self._originals: dict[Digest, Digest] = {}
        self._salt = rng.randrange(2)

    def _twin(self, raw: bytes) -> bytes:
        if raw not in self._twins:
            header = decode_header(raw)
            body = msgspec.structs.replace(header.body, timestamp=header.body.timestamp + 1)
            twin = self.sign_header(body) if header.proposer == self.id else raw
            self._twins[raw] = twin
            self._originals[decode_header(twin).id] = header.id
        return self._twins[raw]

    def to_send(self, peer: NodeId, message: Message) -> list[Message]:
        if isinstance(message, CompactBlock | FullBlock) and (peer[-1] + self._salt) % 2:
            return [msgspec.structs.replace(message, header=self._twin(message.header))]
        return [message]

    def on_message(self, peer: NodeId, message: Message) -> list[Action]:
        wanted = message.ids if isinstance(message, GetBlocks) else ()
        if isinstance(message, GetHeaders):
            wanted = (message.tip,)
        actions: list[Action] = []
        for id in wanted:
            original = self._originals.get(Digest(id))
            block = self.engine.find_block(original) if original else None
            if block is not None:
                header = self._twin(block.header)
                if isinstance(message, GetHeaders):
                    actions.append(Send(peer, Headers((header,))))
                else:
                    actions.append(Send(peer, FullBlock(header, block.transactions, block.votes)))
        return actions


class EquivocatingVoter(ByzantineMember):
    """Signs every link that anybody votes for, and tells each to some."""

    def __init__(self, engine: Engine, id: NodeId, keyring: Keyring, genesis: Genesis, rng: random.Random) -> None:
        super().__init__(engine, id, keyring, genesis, rng)
        self._links: dict[tuple[bytes, bytes], bytes] = {}

    def on_message(self, peer: NodeId, message: Message) -> list[Action]:
        votes = message.votes if isinstance(message, Votes | CompactBlock | FullBlock) else ()
        actions: list[Action] = []
        for raw in votes:
            try:
                body = decode_vote(raw).body
            except MalformedObject:
                continue
            link = (body.source, body.target)
            if link not in self._links:
                self._links[link] = self.sign_vote(body)
                chosen = [p for p in self.peers if self.rng.random() < 0.5]
                actions += [Send(p, Votes((self._links[link],))) for p in chosen]
        return actions

    def on_timer(self) -> list[Action]:
        if not self._links or not self.peers:
            return []
        newest = list(self._links.values())[-8:]
        return [Send(self.rng.choice(self.peers), Votes((self.rng.choice(newest),)))]


class Withholder(ByzantineMember):
    """Keeps kinds of messages from all or from some peers, and changes its mind now and then."""

    KINDS: tuple[tuple[type, ...], ...] = (
        (CompactBlock, FullBlock),
        (Votes, Status),
        (Transactions, TransactionIds),
        (FullBlock, Transactions, FinalizedBlocks, Headers),
    )

    def __init__(self, engine: Engine, id: NodeId, keyring: Keyring, genesis: Genesis, rng: random.Random) -> None:
        super().__init__(engine, id, keyring, genesis, rng)
        self._withheld: tuple[type, ...] = rng.choice(self.KINDS)
        self._favoured: set[NodeId] = set()

    def to_send(self, peer: NodeId, message: Message) -> list[Message]:
        return [] if isinstance(message, self._withheld) and peer not in self._favoured else [message]

    def on_timer(self) -> list[Action]:
        if self.rng.random() < 0.3:
            self._withheld = self.rng.choice(self.KINDS)
            self._favoured = {peer for peer in self.peers if self.rng.random() < self.rng.choice((0, 0.3, 0.7))}
        return []


class LateTeller(ByzantineMember):
    """Holds its blocks and votes back and releases them in bursts to some."""

    KINDS: tuple[type, ...] = (CompactBlock, FullBlock, Votes, Status)

    def __init__(self, engine: Engine, id: NodeId, keyring: Keyring, genesis: Genesis, rng: random.Random) -> None:
        super().__init__(engine, id, keyring, genesis, rng)
        self._held: list[tuple[NodeId, Message]] = []

    def to_send(self, peer: NodeId, message: Message) -> list[Message]:
        if isinstance(message, self.KINDS):
            self._held.append((peer, message))
            return []
        return [message]

    def on_timer(self) -> list[Action]:
        if self.rng.random() < 0.5:
            return []
        held, self._held = self._held, []
        return [Send(peer, message) for peer, message in held if self.rng.random() < 0.7]


class Babbler(ByzantineMember):
    """Sends mutated, invented and repeated messages, and lies about what it has."""

    def __init__(self, engine: Engine, id: NodeId, keyring: Keyring, genesis: Genesis, rng: random.Random) -> None:
        super().__init__(engine, id, keyring, genesis, rng)
        self._heard: deque[Message] = deque(maxlen=100)

    def on_message(self, peer: NodeId, message: Message) -> list[Action]:
        self._heard.append(message)
        return []

    def on_timer(self) -> list[Action]:
        if not self._heard:
            return []
        actions: list[Action] = []
        for peer in self.peers:
            choice = self.rng.choice((self._repeat, self._mutate, self._lie, self._invent_vote))
            actions.append(Send(peer, choice()))
        return actions

    def _repeat(self) -> Message:
        return self.rng.choice(self._heard)

    def _mutate(self) -> Message:
        message = self.rng.choice(self._heard)
        raws = [name for name in message.__struct_fields__ if isinstance(getattr(message, name), tuple)]
        if not raws:
            return self._lie()
        name = self.rng.choice(raws)
        values = [self._damage(value) if isinstance(value, bytes) else value for value in getattr(message, name)]
        return msgspec.structs.replace(message, **{name: tuple(values)})

    def _damage(self, value: bytes) -> bytes:
        at = self.rng.randrange(len(value) or 1)
        return value[:at] + self.rng.randbytes(1) + value[at + 1 :]

    def _lie(self) -> Message:
        status = self.engine.status()
        ahead = self.rng.choice((1, 5, 100_000))
        invented = self.rng.randbytes(32)
        return Status(
            head=invented,
            head_height=status.head_height + ahead,
            justified=self.rng.choice((invented, status.justified)),
            justified_height=status.justified_height + ahead,
            finalized=self.rng.choice((invented, status.finalized)),
            finalized_height=self.rng.choice((status.finalized_height, status.finalized_height + ahead)),
            vote=b"",
        )

    def _invent_vote(self) -> Message:
        epoch = self.rng.randrange(1, 200)
        body = VoteBody(
            1, self._chain_id, 0, self._chain_id, 0, self.rng.randbytes(32), epoch, self.id
        )  # fmt: skip
        return Votes((self.sign_vote(body),))


BEHAVIOURS: dict[str, type[ByzantineMember]] = {
    "equivocating-proposer": EquivocatingProposer,
    "equivocating-voter": EquivocatingVoter,
    "withholding": Withholder,
    "late": LateTeller,
    "babbling": Babbler,
}
