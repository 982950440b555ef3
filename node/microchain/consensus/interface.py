"""The interface of every consensus engine: ``handle(event, now) -> actions``, deterministic and pure.

The runtime (or the simulator) turns the world into events and carries out the actions, in order. Heavy cryptography is
an action too (`Work`): its results come back as an event, so the engine never waits and never computes for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Literal, Protocol

from msgspec import Struct

from microchain.consensus.messages import Message
from microchain.consensus.state.checks import Checks
from microchain.consensus.types import Digest, Epoch, Height, Nanoseconds, NodeId, Slot
from microchain.crypto.pvss import Deal, Reveal, Statement

__all__ = [
    "Action",
    "AdmissionCode",
    "BlockRecord",
    "BlockTrace",
    "Broadcast",
    "CancelTimer",
    "DiscardRecord",
    "Engine",
    "EngineStatus",
    "Event",
    "EvidenceRecord",
    "FinalizedRecord",
    "Job",
    "JobResult",
    "JournalRecord",
    "MakeDeal",
    "MakeReveal",
    "MerkleRoot",
    "MessageReceived",
    "Misbehaviour",
    "Outcome",
    "PeerConnected",
    "PeerDisconnected",
    "PerformChecks",
    "Persist",
    "Persisted",
    "Prove",
    "Record",
    "Released",
    "Reply",
    "Restored",
    "Send",
    "ServeFinalized",
    "SetTimer",
    "Sign",
    "TimerFired",
    "TransactionTrace",
    "TransactionsSubmitted",
    "VerifyProof",
    "VerifySignatures",
    "VoteRecord",
    "VoteTrace",
    "Work",
    "WorkDone",
]


class _Value(Struct, frozen=True):
    pass


# --- jobs: heavy cryptography, done outside the engine ---


class VerifySignatures(_Value, frozen=True):
    """Check (public key, message, signature) triples. Result: tuple[bool, ...] in the same order."""

    items: tuple[tuple[bytes, bytes, bytes], ...]


class VerifyProof(_Value, frozen=True):
    """Check a VRF proof. Result: the VRF output, or None if the proof is wrong."""

    public_key: bytes
    alpha: bytes
    proof: bytes


class MerkleRoot(_Value, frozen=True):
    """Compute the RFC 9162 root of the leaves. Result: Digest."""

    leaves: tuple[bytes, ...]


class Prove(_Value, frozen=True):
    """Prove with this node's VRF key. Result: (proof, output)."""

    alpha: bytes


class Sign(_Value, frozen=True):
    """Sign with this node's signing key. Result: the signature."""

    message: bytes


class PerformChecks(_Value, frozen=True):
    """Check what system transactions claim. Result: bool."""

    checks: Checks


class MakeDeal(_Value, frozen=True):
    """Deal a secret with this node's PVSS key. Result: Deal."""

    statement: Statement


class MakeReveal(_Value, frozen=True):
    """Decrypt a share with this node's PVSS key. Result: Reveal."""

    context: bytes
    encrypted: bytes


Job = VerifySignatures | VerifyProof | MerkleRoot | Prove | Sign | PerformChecks | MakeDeal | MakeReveal
JobResult = tuple[bool, ...] | tuple[bytes, bytes] | bytes | bool | Deal | Reveal | None


# --- records: what the ledger stores ---


class BlockRecord(_Value, frozen=True):
    """A block with its body. ``own`` marks this node's own proposal, kept byte for byte for re-sending.

    ``state`` and ``base`` are the engine's own state after the block, opaque to the ledger, which gives them back in
    `Restored`; ``base`` is the same for many blocks. ``votes`` of a dynasty's first block are its hand-over.
    """

    id: Digest
    height: Height
    parent: Digest
    header: bytes
    transactions: tuple[bytes, ...]
    transaction_ids: tuple[Digest, ...]
    votes: tuple[bytes, ...]
    state: bytes
    own: bool
    base: bytes = b""


class VoteRecord(_Value, frozen=True):
    """A vote. ``own`` marks the journal entry of this node's own vote."""

    id: Digest
    raw: bytes
    own: bool
    source_epoch: Epoch
    target: Digest
    target_epoch: Epoch


class FinalizedRecord(_Value, frozen=True):
    """Blocks (oldest first, stored before or in the same batch) that are final now, and the votes that prove it.

    Where ``checkpoint`` is a dynasty's last block, ``certificate`` is the hand-over: closing headers, then votes.
    """

    blocks: tuple[Digest, ...]
    checkpoint: Digest
    certificate: tuple[bytes, ...]


class DiscardRecord(_Value, frozen=True):
    """Blocks of abandoned branches: a later checkpoint is final on another branch."""

    blocks: tuple[Digest, ...]


class EvidenceRecord(_Value, frozen=True):
    """Two signed objects that prove an offence, and the rule they break.

    Of a false reveal: the transaction, and the encoded SharingView that it is false against.
    """

    rule: Literal["double-proposal", "double-vote", "surround-vote", "false-reveal"]
    offender: NodeId
    first: bytes
    second: bytes


class JournalRecord(_Value, frozen=True):
    """What the engine has promised, in a form of its own, opaque to the ledger: replaces what was under ``key``."""

    key: str
    value: bytes


Record = BlockRecord | VoteRecord | FinalizedRecord | DiscardRecord | EvidenceRecord | JournalRecord


class Restored(_Value, frozen=True):
    """What a node finds in its ledger when it starts. All raw objects are this node's own records, already verified.

    ``finalized`` is the last finalized block's header envelope, ``state`` and ``base`` those of its BlockRecord (empty:
    genesis).
    ``recent`` lists (id, valid_until) of each finalized transaction whose valid_until ≥ finalized height. ``blocks``
    are the unfinalized by height, ``votes`` all stored votes whose target is not below the finalized checkpoint,
    ``own_votes`` the newest own vote (or none), ``certificate`` what finalized ``finalized``,
    ``journal`` the newest JournalRecord's value of each key, ``evidence`` what was found against others.
    """

    finalized: bytes
    state: bytes
    certificate: tuple[bytes, ...]
    recent: Sequence[tuple[Digest, int]]
    blocks: tuple[BlockRecord, ...]
    votes: tuple[VoteRecord, ...]
    own_votes: tuple[VoteRecord, ...]
    base: bytes = b""
    journal: dict[str, bytes] = {}
    evidence: tuple[EvidenceRecord, ...] = ()


# --- events ---


class MessageReceived(_Value, frozen=True):
    peer: NodeId
    message: Message


class PeerConnected(_Value, frozen=True):
    peer: NodeId


class PeerDisconnected(_Value, frozen=True):
    peer: NodeId


class TimerFired(_Value, frozen=True):
    timer: str


class TransactionsSubmitted(_Value, frozen=True):
    """A client's transactions; the engine answers each request with exactly one Reply."""

    request: int
    transactions: tuple[bytes, ...]


class WorkDone(_Value, frozen=True):
    token: int
    results: tuple[JobResult, ...]


class Persisted(_Value, frozen=True):
    """The records of Persist ``token`` are stored (durably, if that was asked)."""

    token: int


class Released(_Value, frozen=True):
    """The operator lets the node propose what is pooled once (parameter ``propose: release``).

    It is void once a block above height ``above`` carries transactions (None: above the head of now), so that a late
    release cannot leak into the next round.
    """

    above: Height | None = None


Event = (
    MessageReceived
    | PeerConnected
    | PeerDisconnected
    | TimerFired
    | TransactionsSubmitted
    | WorkDone
    | Persisted
    | Released
)


# --- actions ---


class Send(_Value, frozen=True):
    peer: NodeId
    message: Message


class Broadcast(_Value, frozen=True):
    """Send to every connected peer."""

    message: Message


class SetTimer(_Value, frozen=True):
    """Fire TimerFired(timer) at ``at`` (engine clock); setting it again moves it."""

    timer: str
    at: Nanoseconds


class CancelTimer(_Value, frozen=True):
    timer: str


class Work(_Value, frozen=True):
    """Do the jobs, in any thread; answer with WorkDone(token, results). Works may finish in any order."""

    token: int
    jobs: tuple[Job, ...]


class Persist(_Value, frozen=True):
    """Store the records in one transaction, after all earlier ones; answer with Persisted(token)."""

    token: int
    records: tuple[Record, ...]
    durable: bool


class AdmissionCode(Enum):
    """What became of a submitted transaction; the value is the HTTP status of a single submission."""

    ACCEPTED = 202
    DUPLICATE = 409
    MALFORMED = 400
    UNKNOWN_SENDER = 403
    BAD_SIGNATURE = 401
    EXPIRED = 410
    TOO_LARGE = 413
    POOL_FULL = 429


class Outcome(_Value, frozen=True):
    """One transaction's outcome; ``id`` is None if it could not be decoded."""

    code: AdmissionCode
    id: Digest | None
    detail: str


class Reply(_Value, frozen=True):
    """The answer to TransactionsSubmitted ``request``, one outcome for each transaction, in order."""

    request: int
    outcomes: tuple[Outcome, ...]


class ServeFinalized(_Value, frozen=True):
    """Read finalized blocks from the ledger and send them to the peer: 1 MiB at most, or one block."""

    peer: NodeId
    from_height: Height


class Misbehaviour(_Value, frozen=True):
    """A peer broke the protocol; the network layer decides what follows."""

    peer: NodeId
    reason: str


class TransactionTrace(_Value, frozen=True):
    """Transactions passed a stage. ``local``: this node was the entry node."""

    event: Literal["accepted", "included", "committed", "finalized", "expired", "rejected"]
    ids: tuple[Digest, ...]
    block: Digest | None = None
    height: Height | None = None
    local: bool = False


class BlockTrace(_Value, frozen=True):
    """A block passed a stage on this node. ``size`` is the body's bytes."""

    event: Literal["proposed", "received", "verified", "adopted", "justified", "finalized", "rejected", "abandoned"]
    id: Digest
    height: Height
    slot: Slot
    epoch: Epoch
    proposer: NodeId
    size: int
    transactions: int
    detail: str = ""


class VoteTrace(_Value, frozen=True):
    """A vote was sent by this node, or counted when it came from another."""

    event: Literal["sent", "received"]
    voter: NodeId
    target: Digest
    target_epoch: Epoch
    source_epoch: Epoch


Action = (
    Send
    | Broadcast
    | SetTimer
    | CancelTimer
    | Work
    | Persist
    | Reply
    | ServeFinalized
    | Misbehaviour
    | TransactionTrace
    | BlockTrace
    | VoteTrace
)


# --- the engine ---


class EngineStatus(_Value, frozen=True):
    """A snapshot for the operator.

    ``syncing`` while the node fetches finalized blocks that it lacks; ``observing`` if it takes no part, because it may
    have done so before on a ledger that is lost. ``pool_system`` counts pooled transactions of the protocol's own
    kinds, ``jobs`` the calculations under way. ``dynasty`` is the dynasty in which the next block is, ``dynasty_end``
    its last height as the head has it (later if RandShare takes longer), ``member`` whether this node is in its
    committee.
    """

    head: Digest
    head_height: Height
    justified: Digest
    justified_height: Height
    finalized: Digest
    finalized_height: Height
    pool_transactions: int
    pool_bytes: int
    own_unfinalized: int
    evidence: int
    syncing: bool
    observing: bool = False
    dynasty: int = 1
    dynasty_end: int = 0
    member: bool = True
    pool_system: int = 0
    jobs: int = 0


class Engine(Protocol):
    """A deterministic state machine. ``now`` never decreases; a call returns the actions in the order to do them."""

    def start(self, now: Nanoseconds) -> list[Action]:
        """Begin (or begin again after a restart)."""
        ...

    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        """Process one event."""
        ...

    def status(self) -> EngineStatus:
        """Return a snapshot."""
        ...

    def find_transaction(self, id: Digest) -> tuple[Literal["pooled", "included", "committed"], Digest | None] | None:
        """Where an unfinalized transaction is on the head's branch (with its block), or None (ask the ledger)."""
        ...

    def find_block(self, id: Digest) -> BlockRecord | None:
        """An unfinalized block with its body, if this node has it."""
        ...
