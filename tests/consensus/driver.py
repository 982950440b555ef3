"""Drives one engine by hand: its work and writes are done at once, and what it does is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from microchain.consensus.engine import MicrochainEngine
from microchain.consensus.genesis import Genesis, Parameters, RegistryEntry, node_id
from microchain.consensus.interface import (
    Action,
    BlockTrace,
    Broadcast,
    CancelTimer,
    Event,
    EvidenceRecord,
    MessageReceived,
    Misbehaviour,
    Outcome,
    PeerConnected,
    Persist,
    Persisted,
    Record,
    Reply,
    Send,
    SetTimer,
    Sign,
    TimerFired,
    TransactionsSubmitted,
    Work,
    WorkDone,
)
from microchain.consensus.messages import FullBlock, Message, Status
from microchain.consensus.objects import (
    HEADER_TAG,
    TRANSACTION_TAG,
    VOTE_TAG,
    HeaderBody,
    TransactionBody,
    VoteBody,
    encode_body,
    seal,
)
from microchain.consensus.types import Digest, Height, Nanoseconds, NodeId
from microchain.consensus.work import perform
from microchain.crypto.hashing import tagged_hash
from microchain.simulator.crypto import SimulatedKeyring, SimulatedSuite

SECOND = 1_000_000_000
Kind = TypeVar("Kind")


class Town:
    """A genesis with four validators and a device, and everybody's keys."""

    def __init__(self, **parameters: object) -> None:
        self.suite = SimulatedSuite(b"town")
        names = [f"validator-{i}" for i in range(1, 5)]
        keyrings = {name: self.suite.create_keyring(name) for name in [*names, "device-1"]}
        self.ids = {name: node_id(k.signing_key) for name, k in keyrings.items()}
        self.keyrings: dict[NodeId, SimulatedKeyring] = {self.ids[name]: k for name, k in keyrings.items()}
        entries = [
            RegistryEntry(
                name=name,
                role="validator" if name in names else "device",
                signing_key=k.signing_key,
                vrf_key=k.vrf_key,
            )
            for name, k in keyrings.items()
        ]
        chosen = Parameters(signature="simulated", relay="full", **parameters)  # type: ignore[arg-type]
        self.genesis = Genesis(run_id="0" * 32, parameters=chosen, registry=tuple(entries))
        self.chain_id = self.genesis.chain_id()
        self.members = [member.id for member in self.genesis.committee().members]
        self.device = self.ids["device-1"]

    def driver(self, member: NodeId) -> Driver:
        """A started engine, connected to all others, which have nothing yet."""
        driver = Driver(self, member)
        for peer in self.members:
            if peer != member:
                driver.meet(peer)
        return driver

    def transaction(self, text: str, *, valid_until: int = 100, signer: NodeId | None = None) -> bytes:
        signed = encode_body(TransactionBody(1, self.chain_id, 0, self.device, valid_until, text.encode()))
        signature = self.keyrings[signer or self.device].sign(tagged_hash(TRANSACTION_TAG, signed))
        return seal(signed, signature)

    def header(self, body: HeaderBody, signer: NodeId | None = None) -> bytes:
        signed = encode_body(body)
        return seal(signed, self.keyrings[signer or NodeId(body.proposer)].sign(tagged_hash(HEADER_TAG, signed)))

    def vote(
        self, voter: NodeId, target: Digest, target_epoch: int, *, source_epoch: int = 0, signer: NodeId | None = None
    ) -> bytes:
        """A vote from genesis, honest or not."""
        body = VoteBody(1, self.chain_id, 1, self.chain_id, source_epoch, target, target_epoch, voter)
        signed = encode_body(body)
        return seal(signed, self.keyrings[signer or voter].sign(tagged_hash(VOTE_TAG, signed)))

    def first_block(self, *texts: str) -> tuple[NodeId, FullBlock]:
        """The first proposal that the committee makes for these transactions, and its proposer."""
        return self.first_blocks(1, *texts)[0]

    def first_blocks(self, count: int, *texts: str) -> list[tuple[NodeId, FullBlock]]:
        """The first proposals of a committee that all hear one another's blocks but no votes, and their proposers."""
        drivers = [self.driver(member) for member in self.members]
        for driver in drivers:
            driver.submit([self.transaction(text) for text in texts])
        blocks: dict[bytes, tuple[NodeId, FullBlock]] = {}
        while len(blocks) < count:
            for driver in drivers:
                driver.advance(SECOND // 20)
                for block in driver.sent(FullBlock):
                    if block.header not in blocks:
                        blocks[block.header] = driver.id, block
                        for other in drivers:
                            other.hear(driver.id, block)
        return list(blocks.values())[:count]


class Driver:
    """One engine at one moment, which `advance` moves."""

    def __init__(self, town: Town, id: NodeId) -> None:
        self.id = id
        self.now = Nanoseconds(SECOND)
        self.actions: list[Action] = []
        self._town = town
        self._timers: dict[str, int] = {}
        self._requests = 0
        self.signing: list[Work] | None = None
        """Where signing works wait for `finish`; None: all work is done at once."""
        self.engine = MicrochainEngine(town.genesis, id)
        self._do(self.engine.start(self.now))

    def feed(self, event: Event) -> None:
        """Let the engine handle an event and all that follows from it at once."""
        self._do(self.engine.handle(event, self.now))

    def meet(self, peer: NodeId) -> None:
        """Connect with a peer that has nothing yet."""
        self.feed(PeerConnected(peer))
        genesis = self._town.chain_id
        self.hear(peer, Status(genesis, Height(0), genesis, Height(0), genesis, Height(0), b""))

    def hear(self, peer: NodeId, *messages: Message) -> None:
        for message in messages:
            self.feed(MessageReceived(peer, message))

    def submit(self, transactions: Sequence[bytes]) -> tuple[Outcome, ...]:
        self._requests += 1
        self.feed(TransactionsSubmitted(self._requests, tuple(transactions)))
        return next(a for a in reversed(self.actions) if isinstance(a, Reply)).outcomes

    def advance(self, duration: int) -> None:
        """Let time pass; timers fire when they are due."""
        end = self.now + duration
        while self._timers:
            name, at = min(self._timers.items(), key=lambda item: item[1])
            if at > end:
                break
            self.now = Nanoseconds(max(self.now, at))
            del self._timers[name]
            self.feed(TimerFired(name))
        self.now = Nanoseconds(end)

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            self.actions.append(action)
            match action:
                case Work(jobs=(Sign(),)) if self.signing is not None:
                    self.signing.append(action)
                case Work():
                    self.finish(action)
                case Persist(token):
                    self.feed(Persisted(token))
                case SetTimer(timer, at):
                    self._timers[timer] = at
                case CancelTimer(timer):
                    self._timers.pop(timer, None)

    def finish(self, work: Work) -> None:
        """Give the engine the results of its work."""
        self.feed(WorkDone(work.token, perform(work.jobs, self._town.suite, self._town.keyrings[self.id])))

    # --- what it did ---

    def sent(self, kind: type[Kind]) -> list[Kind]:
        """All messages of a kind that it sent to somebody, or to all."""
        messages = (action.message for action in self.actions if isinstance(action, Send | Broadcast))
        return [message for message in messages if isinstance(message, kind)]

    def records(self, kind: type[Kind]) -> list[Kind]:
        stored: list[Record] = [r for a in self.actions if isinstance(a, Persist) for r in a.records]
        return [record for record in stored if isinstance(record, kind)]

    def evidence(self) -> list[EvidenceRecord]:
        return self.records(EvidenceRecord)

    def accusations(self) -> list[Misbehaviour]:
        return [action for action in self.actions if isinstance(action, Misbehaviour)]

    def blocks(self, event: str) -> list[BlockTrace]:
        return [action for action in self.actions if isinstance(action, BlockTrace) and action.event == event]
