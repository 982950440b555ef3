"""A node without consensus: real transactions, headers, votes, Merkle roots and ledger; blocks are made on demand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

from microchain.api.service import NodeBusy, SubscriberDropped
from microchain.client.sensors import Reading
from microchain.client.transactions import SignedTransaction, sized_transaction
from microchain.consensus.genesis import Genesis, Parameters, RegistryEntry, node_id
from microchain.consensus.interface import (
    Action,
    AdmissionCode,
    BlockRecord,
    Engine,
    EngineStatus,
    Event,
    FinalizedRecord,
    Outcome,
)
from microchain.consensus.objects import (
    HEADER_TAG,
    VOTE_TAG,
    HeaderBody,
    MalformedObject,
    VoteBody,
    decode_transaction,
    encode_body,
    seal,
)
from microchain.consensus.types import Digest, Height, Nanoseconds, NodeId
from microchain.crypto.hashing import tagged_hash
from microchain.crypto.merkle import merkle_root
from microchain.crypto.signatures import SigningKey, get_scheme
from microchain.ledger.ledger import Ledger

TOKEN = "a-token-for-tests"
SCHEME = get_scheme("ed25519")
NAMES = ("validator-1", "validator-2", "validator-3", "validator-4")


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; AssertionError if that takes longer than anything in these tests should."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("what the test waits for did not happen")


@cache
def signing_key(name: str) -> SigningKey:
    return SCHEME.generate()


def make_genesis(**parameters: Any) -> Genesis:
    """Four validators and a device; parameters as given."""
    entries = [
        RegistryEntry(
            name=name, role="validator", signing_key=signing_key(name).public_key, address=f"127.0.0.1:{port}"
        )
        for port, name in enumerate(NAMES, 9101)
    ]
    device = RegistryEntry(name="device-1", role="device", signing_key=signing_key("device-1").public_key)
    return Genesis(
        run_id="5a" * 16,
        parameters=Parameters(signature="ed25519", **parameters),
        registry=(*entries, device),
    )


def make_signed(
    genesis: Genesis, *, nonce: int = 0, size: int = 512, signer: str = "device-1", valid_until: int = 1000
) -> SignedTransaction:
    """A data transaction of ``size`` bytes; ``signer`` may be a name that the registry does not know."""
    key = signing_key(signer)
    sender = node_id(key.public_key)
    reading: Reading = {"at": 1}
    return sized_transaction(
        genesis.chain_id(), key, sender, Height(valid_until), reading=reading, nonce=nonce, size=size
    )


class StandInEngine:
    """The chain as the API sees it: a pool, unfinalized blocks on one branch, and where transactions are."""

    def __init__(self, chain_id: Digest) -> None:
        self.pool: dict[Digest, bytes] = {}
        self.branch: list[BlockRecord] = []
        self.justified_height = Height(0)
        self.finalized = (Height(0), chain_id)

    def start(self, now: Nanoseconds) -> list[Action]:
        return []

    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        return []

    def status(self) -> EngineStatus:
        height, id = self.finalized
        head = (self.branch[-1].height, self.branch[-1].id) if self.branch else (height, id)
        return EngineStatus(head[1], head[0], id, height, id, height, len(self.pool), 0, 0, 0, False)

    def find_transaction(self, id: Digest) -> tuple[Literal["pooled", "included", "committed"], Digest | None] | None:
        if id in self.pool:
            return "pooled", None
        for record in self.branch:
            if id in record.transaction_ids:
                return ("committed" if record.height <= self.justified_height else "included"), record.id
        return None

    def find_block(self, id: Digest) -> BlockRecord | None:
        return next((record for record in self.branch if record.id == id), None)


class StandInNode:
    """A NodeService whose answers a test can bend: ``busy``, ``pool_full``, ``ready``, ``max_lag``."""

    name = "validator-1"

    def __init__(self, directory: Path, genesis: Genesis | None = None) -> None:
        self.genesis = genesis or make_genesis()
        self.chain = StandInEngine(self.genesis.chain_id())
        self.engine: Engine = self.chain
        self.ledger = Ledger(directory / "ledger.db", self.genesis.chain_id(), committee=self.genesis.committee())
        self.known: set[Digest] = set()
        self.releases: list[int | None] = []
        self.leases: list[float] = []
        self.busy = False
        self.ready = True
        self.pool_full = False
        self.max_lag = 10_000
        self.hold: asyncio.Event | None = None
        self.submissions = 0
        self._queues: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._senders = {node_id(e.signing_key): e.signing_key for e in self.genesis.registry}

    async def submit(self, transactions: Sequence[bytes]) -> tuple[Outcome, ...]:
        self.submissions += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.busy:
            raise NodeBusy("the node is starting")
        outcomes = tuple(self._admit(raw) for raw in transactions)
        if ids := [o.id.hex() for o in outcomes if o.id is not None and o.code is AdmissionCode.ACCEPTED]:
            self.publish({"type": "accepted", "at": time.time_ns(), "ids": ids})
        return outcomes

    def _admit(self, raw: bytes) -> Outcome:
        if len(raw) > self.genesis.parameters.max_tx_bytes:
            return Outcome(AdmissionCode.TOO_LARGE, None, f"{len(raw)} bytes")
        try:
            transaction = decode_transaction(raw)
        except MalformedObject as error:
            return Outcome(AdmissionCode.MALFORMED, None, str(error))
        body, id = transaction.body, transaction.id
        public_key = self._senders.get(NodeId(body.sender))
        if public_key is None:
            return Outcome(AdmissionCode.UNKNOWN_SENDER, id, "not in the registry")
        if not SCHEME.verify(public_key, id, transaction.signature):
            return Outcome(AdmissionCode.BAD_SIGNATURE, id, "not the sender's signature")
        if body.valid_until <= self.engine.status().head_height:
            return Outcome(AdmissionCode.EXPIRED, id, "too late")
        if id in self.known:
            return Outcome(AdmissionCode.DUPLICATE, id, "known")
        if self.pool_full:
            return Outcome(AdmissionCode.POOL_FULL, id, "the pool is full")
        self.known.add(id)
        self.chain.pool[id] = raw
        return Outcome(AdmissionCode.ACCEPTED, id, "")

    def release(self, above: int | None = None) -> None:
        self.releases.append(above)

    def extend_lease(self, seconds: float) -> None:
        self.leases.append(seconds)

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            yield self._read(queue)
        finally:
            self._queues.discard(queue)

    async def _read(self, queue: asyncio.Queue[dict[str, Any] | None]) -> AsyncIterator[dict[str, Any]]:
        while (event := await queue.get()) is not None:
            yield event
        if queue not in self._queues:
            raise SubscriberDropped

    @property
    def subscribers(self) -> int:
        return len(self._queues)

    def publish(self, event: dict[str, Any]) -> None:
        """Give the event to all subscribers; those too far behind are dropped."""
        for queue in list(self._queues):
            if queue.qsize() < self.max_lag:
                queue.put_nowait(event)
            else:
                self._queues.discard(queue)
                queue.put_nowait(None)

    def end_events(self) -> None:
        """What a node does first when it stops."""
        for queue in self._queues:
            queue.put_nowait(None)

    def now(self) -> int:
        return time.time_ns()

    def status(self) -> dict[str, Any]:
        engine = self.engine.status()
        return {
            "name": self.name,
            "chain_id": self.genesis.chain_id().hex(),
            "run_id": self.genesis.run_id,
            "ready": self.ready,
            "peers": [
                {"name": name, "connected": self.ready, "rtt_ns": 90_000, "offset_ns": -5, "bound_ns": 45_000}
                for name in NAMES[1:]
            ],
            "head": {"height": engine.head_height, "id": engine.head.hex()},
            "justified": {"height": engine.justified_height, "id": engine.justified.hex()},
            "finalized": {"height": engine.finalized_height, "id": engine.finalized.hex()},
            "pool": {
                "transactions": len(self.chain.pool),
                "bytes": sum(map(len, self.chain.pool.values())),
                "system": 0,
            },
            "jobs": 0,
            "syncing": False,
            "observing": False,
            "evidence": 0,
            "uptime_s": 1.5,
            "rss_bytes": 50 << 20,
            "cpu_s": 0.5,
            "board": {"cpu_percent": 12.5, "temperature_c": 48.3, "throttled": 0, "throttled_now": False},
            "telemetry": {"points": 10, "dropped": 0},
            "accepted_total": len(self.known),
            "finalized_transactions_total": 0,
        }

    def metrics(self) -> dict[str, float]:
        return {"accepted_total": float(len(self.known)), 'peer_rtt_ns{peer="a"}': 1.0, 'peer_rtt_ns{peer="b"}': 2.0}

    # --- what tests do to the chain ---

    def make_block(self) -> BlockRecord:
        """Put the pool into an unfinalized block on the head."""
        status = self.engine.status()
        transactions, ids = tuple(self.chain.pool.values()), tuple(self.chain.pool)
        self.chain.pool.clear()
        key = signing_key(self.name)
        votes = (self._make_vote(status.head, status.head_height),) if status.head_height else ()
        body = HeaderBody(
            version=1,
            chain_id=self.genesis.chain_id(),
            height=status.head_height + 1,
            slot=status.head_height + 3,
            parent=status.head,
            dynasty=0,
            tx_root=merkle_root(ids),
            votes_root=merkle_root(votes),
            state_root=bytes(32),
            committee_root=self.genesis.committee().root,
            proposer=node_id(key.public_key),
            seed_proof=bytes(80),
            timestamp=time.time_ns(),
        )
        signed = encode_body(body)
        id = tagged_hash(HEADER_TAG, signed)
        record = BlockRecord(
            id=id,
            height=Height(body.height),
            parent=status.head,
            header=seal(signed, key.sign(id)),
            transactions=transactions,
            transaction_ids=ids,
            votes=votes,
            state=b"",
            own=False,
        )
        self.chain.branch.append(record)
        return record

    def justify(self) -> None:
        """All blocks of the branch are committed now."""
        self.chain.justified_height = self.engine.status().head_height

    def finalize(self) -> None:
        """All blocks of the branch are final now, in the engine and in the ledger."""
        self.store(self.finalize_engine())

    def finalize_engine(self) -> tuple[BlockRecord, ...]:
        """The engine calls the branch final; the ledger does not know yet."""
        records = tuple(self.chain.branch)
        self.chain.branch.clear()
        self.chain.finalized = (records[-1].height, records[-1].id)
        return records

    def store(self, records: tuple[BlockRecord, ...]) -> None:
        """The ledger catches up with the engine."""
        last = records[-1]
        certificate = tuple(self._make_vote(last.id, last.height, name) for name in NAMES[:3])
        final = FinalizedRecord(tuple(record.id for record in records), last.id, certificate)
        self.ledger.write([*records, final], durable=False)

    def _make_vote(self, target: Digest, epoch: int, name: str = "validator-1") -> bytes:
        key = signing_key(name)
        chain_id = self.genesis.chain_id()
        signed = encode_body(VoteBody(1, chain_id, 0, chain_id, 0, target, epoch, node_id(key.public_key)))
        return seal(signed, key.sign(tagged_hash(VOTE_TAG, signed)))
