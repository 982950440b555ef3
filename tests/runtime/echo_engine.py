"""A small engine for tests of the runtime: accepts everything, stores it, passes it on, counts."""

from __future__ import annotations

from typing import Literal

from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import (
    Action,
    AdmissionCode,
    BlockRecord,
    Broadcast,
    EngineStatus,
    Event,
    EvidenceRecord,
    MessageReceived,
    Outcome,
    PeerConnected,
    PeerDisconnected,
    Persist,
    Persisted,
    Reply,
    Restored,
    SetTimer,
    TimerFired,
    TransactionsSubmitted,
    TransactionTrace,
    VerifySignatures,
    Work,
    WorkDone,
)
from microchain.consensus.messages import Transactions
from microchain.consensus.objects import decode_transaction, seal
from microchain.consensus.types import Digest, Height, Nanoseconds, NodeId


class EchoEngine:
    """Submitted transactions are verified (Work), stored (as evidence: any bytes may be), answered, then broadcast."""

    def __init__(self, genesis: Genesis, identity: NodeId, restored: Restored | None) -> None:
        self.genesis = genesis
        self.identity = identity
        self.restored = restored
        self.events: list[Event] = []
        self.times: list[int] = []
        self.received: list[bytes] = []
        self.peers: list[NodeId] = []
        self._open: dict[int, TransactionsSubmitted] = {}
        self._keys = {entry.name: entry.signing_key for entry in genesis.registry}

    def start(self, now: Nanoseconds) -> list[Action]:
        return [SetTimer("tick", Nanoseconds(now + 20_000_000))]

    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        self.events.append(event)
        self.times.append(now)
        match event:
            case PeerConnected(peer):
                self.peers.append(peer)
            case PeerDisconnected(peer):
                self.peers.remove(peer)
            case TimerFired("tick"):
                return [SetTimer("tick", Nanoseconds(now + 20_000_000))]
            case TransactionsSubmitted(request, transactions):
                self._open[request] = event
                key = self._keys["device-1"]
                decoded = [decode_transaction(raw) for raw in transactions]
                return [Work(request, (VerifySignatures(tuple((key, t.id, t.signature) for t in decoded)),))]
            case WorkDone(token, results):
                assert results == ((True,) * len(self._open[token].transactions),)
                raws = self._open[token].transactions
                record = EvidenceRecord("double-vote", self.identity, raws[0], seal(token.to_bytes(8, "big"), b""))
                return [Persist(token, (record,), durable=True)]
            case Persisted(token):
                raws = self._open.pop(token).transactions
                ids = tuple(decode_transaction(raw).id for raw in raws)
                outcomes = tuple(Outcome(AdmissionCode.ACCEPTED, id, "") for id in ids)
                trace = TransactionTrace("accepted", ids, local=True)
                return [trace, Reply(token, outcomes), Broadcast(Transactions(raws))]
            case MessageReceived(_, Transactions(raws)):
                self.received += raws
        return []

    def status(self) -> EngineStatus:
        id, zero = self.genesis.chain_id(), Height(0)
        return EngineStatus(id, zero, id, zero, id, zero, len(self.received), 0, 0, 0, False)

    def find_transaction(self, id: Digest) -> tuple[Literal["pooled", "included", "committed"], Digest | None] | None:
        return None

    def find_block(self, id: Digest) -> BlockRecord | None:
        return None
