"""An engine without voting, which believes the first block that it sees at each height."""

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
    FinalizedRecord,
    MessageReceived,
    Outcome,
    Persist,
    Persisted,
    Reply,
    Restored,
    ServeFinalized,
    SetTimer,
    Sign,
    TimerFired,
    TransactionsSubmitted,
    Work,
    WorkDone,
)
from microchain.consensus.messages import FinalizedBlocks, FullBlock, Status, Transactions
from microchain.consensus.objects import (
    HEADER_TAG,
    HeaderBody,
    decode_header,
    decode_transaction,
    encode_body,
    seal,
)
from microchain.consensus.types import Digest, Height, Nanoseconds, NodeId
from microchain.crypto.hashing import tagged_hash

INTERVAL = 200_000_000
ZERO = bytes(32)


class NaiveEngine:
    """Each node proposes in turn; who hears nothing for a while proposes out of turn."""

    def __init__(self, genesis: Genesis, identity: NodeId, restored: Restored | None) -> None:
        self.chain_id = genesis.chain_id()
        self.members = [member.id for member in genesis.committee().members]
        self.me = identity
        self.tip, self.height = self.chain_id, 0
        if restored is not None and restored.finalized:
            header = decode_header(restored.finalized)
            self.tip, self.height = header.id, header.height
        self.pool: dict[Digest, bytes] = {}
        self.done: set[Digest] = {id for id, _ in restored.recent} if restored else set()
        self.quiet = 0
        self.signing: tuple[Digest, bytes, tuple[bytes, ...]] | None = None
        self.untold: dict[int, FullBlock] = {}
        self.token = 0

    def start(self, now: Nanoseconds) -> list[Action]:
        return [SetTimer("turn", Nanoseconds(now + INTERVAL))]

    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        match event:
            case TimerFired():
                return [SetTimer("turn", Nanoseconds(now + INTERVAL)), self._status(), *self._propose()]
            case TransactionsSubmitted(request, transactions):
                outcomes = tuple(Outcome(AdmissionCode.ACCEPTED, self._pool(raw), "") for raw in transactions)
                return [Broadcast(Transactions(transactions)), Reply(request, outcomes)]
            case WorkDone(_, (bytes(signature),)):
                return self._sealed(signature)
            case Persisted(token) if token in self.untold:
                return [Broadcast(self.untold.pop(token))]
            case MessageReceived(peer, message):
                return self._on_message(peer, message)
        return []

    def _on_message(self, peer: NodeId, message: object) -> list[Action]:
        match message:
            case Transactions(transactions):
                for raw in transactions:
                    self._pool(raw)
            case FullBlock(header, transactions):
                return self._accept(header, transactions)
            case FinalizedBlocks(blocks):
                return [action for b in blocks for action in self._accept(b.header, b.transactions)]
            case Status(finalized_height=height) if height < self.height:
                return [ServeFinalized(peer, Height(height + 1))]
        return []

    def _status(self) -> Broadcast:
        return Broadcast(Status(self.tip, self.height, self.tip, self.height, self.tip, self.height, b""))

    def _pool(self, raw: bytes) -> Digest:
        id = decode_transaction(raw).id
        if id not in self.done:
            self.pool[id] = raw
        return id

    def _propose(self) -> list[Action]:
        self.quiet += 1
        leader = self.members[(self.height + self.quiet // 4) % len(self.members)]
        if leader != self.me or self.signing or not self.pool:
            return []
        signed = encode_body(
            HeaderBody(1, self.chain_id, self.height + 1, 1, self.tip, 1, ZERO, ZERO, ZERO, ZERO, self.me, b"", 0)
        )
        id = tagged_hash(HEADER_TAG, signed)
        self.signing = (id, signed, tuple(self.pool.values()))
        self.token += 1
        return [Work(self.token, (Sign(id),))]

    def _sealed(self, signature: bytes) -> list[Action]:
        assert self.signing is not None
        _, signed, transactions = self.signing
        self.signing = None
        return self._accept(seal(signed, signature), transactions)

    def _accept(self, raw: bytes, transactions: tuple[bytes, ...]) -> list[Action]:
        header = decode_header(raw)
        if header.height != self.height + 1 or header.parent != self.tip:
            return []
        self.tip, self.height, self.quiet = header.id, header.height, 0
        ids = tuple(decode_transaction(t).id for t in transactions)
        for id in ids:
            self.pool.pop(id, None)
            self.done.add(id)
        block = BlockRecord(header.id, header.height, header.parent, raw, transactions, ids, (), b"", False)
        self.token += 1
        persist = Persist(self.token, (block, FinalizedRecord((header.id,), header.id, ())), True)
        if header.proposer == self.me:
            self.untold[self.token] = FullBlock(raw, transactions, ())
        return [persist]

    def status(self) -> EngineStatus:
        tip, height = self.tip, Height(self.height)
        return EngineStatus(tip, height, tip, height, tip, height, len(self.pool), 0, 0, 0, False)

    def find_transaction(self, id: Digest) -> tuple[Literal["pooled", "included", "committed"], Digest | None] | None:
        return ("pooled", None) if id in self.pool else None

    def find_block(self, id: Digest) -> BlockRecord | None:
        return None
