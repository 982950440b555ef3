"""What the parts of the PBFT engine share: the tip of the chain, the view, what this replica promised, the log."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from microchain.consensus.context import Context
from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import (
    BlockRecord,
    BlockTrace,
    JobResult,
    JournalRecord,
    Restored,
    VerifySignatures,
)
from microchain.consensus.objects import decode_header
from microchain.consensus.pbft.certificates import Choice, Signed, primary_of
from microchain.consensus.types import Digest, Epoch, Height, Nanoseconds, NodeId, Slot, TransactionKind

__all__ = ["MILLISECOND", "WINDOW", "Block", "Promise", "ReplicaCore", "ViewJournal"]

MILLISECOND = 1_000_000
WINDOW = 16
"""The high watermark: messages for heights up to so far above the last final block are kept."""
KNOWN_SIGNATURES = 8192


class Block(Struct, eq=False):
    """A valid block above the tip, or a final one. ``view``: in which it was first proposed (its header's slot)."""

    id: Digest
    height: Height
    parent: Digest
    view: int
    proposer: NodeId
    header: bytes
    transactions: tuple[bytes, ...]
    ids: tuple[Digest, ...]
    expiries: tuple[int, ...]
    votes: tuple[bytes, ...]
    own: bool = False
    persisted: bool = False

    @property
    def size(self) -> int:
        return sum(map(len, self.transactions)) + sum(map(len, self.votes))

    def record(self) -> BlockRecord:
        """Return what the ledger keeps of this block."""
        return BlockRecord(
            self.id, self.height, self.parent, self.header, self.transactions, self.ids, self.votes, b"", self.own
        )


class Promise(Struct, array_like=True, frozen=True):
    """What this replica said about ``height``: its newest prepare (in ``view``, for ``block``), and what is prepared.

    ``prepared`` is (view, block, prepares of a quorum), ``commit`` its own commit for that, empty before it made one.
    """

    height: int
    view: int
    block: bytes
    prepare: bytes
    prepared: tuple[int, bytes, tuple[bytes, ...]] | None = None
    commit: bytes = b""


class ViewJournal(Struct, array_like=True, frozen=True):
    """Where this replica is: in ``view``, or (not ``active``) on the way to it with its own ``view_change``.

    ``new_view`` proves that the view has begun (view 0 needs no proof). It takes part only once ``silent_below`` is
    final and from view ``silent_before`` on, because it may have done so before on a ledger that is lost; None: not
    yet known.
    """

    view: int = 0
    active: bool = True
    view_change: bytes = b""
    new_view: bytes = b""
    silent_below: int | None = None
    silent_before: int = 0


class ReplicaCore(Context):
    """The PBFT engine's shared state. The next height to decide is always ``tip.height + 1``.

    There are no dynasties: what the chain's state would need (deals, reveals, claims, evidence, registry changes) is
    refused, and evidence stays in the ledger.
    """

    kinds = frozenset({TransactionKind.DATA})

    def __init__(self, genesis: Genesis, identity: NodeId, restored: Restored | None) -> None:
        super().__init__(genesis, identity)
        self.committee = genesis.committee()
        self.me = self.committee.by_id.get(identity)
        self._senders = {entry.node_id: entry.signing_key for entry in genesis.registry}
        self.tip = self._root(restored)
        self.tip_since = Nanoseconds(0)
        self.certificate: tuple[bytes, ...] = restored.certificate if restored else ()
        journal = restored.journal if restored else {}
        self.journal = msgspec.msgpack.decode(journal["view"], type=ViewJournal) if "view" in journal else ViewJournal()
        self.promise = msgspec.msgpack.decode(journal["promise"], type=Promise) if "promise" in journal else None
        self.choice: Choice | None = None
        """What the view began with."""
        self.blocks: dict[Digest, Block] = {}
        """Valid blocks at the next height."""
        self.recent: OrderedDict[Digest, Block] = OrderedDict()
        """Some that are final, for those that are just behind."""
        self.last_carrier = Height(0)
        self.view_changes = 0
        """View changes since the last final block: each doubles the timeout."""
        self._known: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()

    # --- facts ---

    @property
    def head_height(self) -> Height:
        return self.tip.height

    @property
    def senders(self) -> Mapping[NodeId, bytes]:
        return self._senders

    @property
    def next_height(self) -> Height:
        return Height(self.tip.height + 1)

    @property
    def view(self) -> int:
        return self.journal.view

    @property
    def primary(self) -> NodeId:
        """The primary of the current view."""
        return primary_of(self.committee, self.view)

    @property
    def silent(self) -> bool:
        """Whether this node makes no promises: it is no member, or may have made others that it does not know."""
        return self.is_silent_in(self.view)

    def is_silent_in(self, view: int) -> bool:
        """As `silent`, in another view."""
        journal = self.journal
        below = journal.silent_below
        return self.me is None or below is None or self.tip.height < below or view < journal.silent_before

    @property
    def takes_part(self) -> bool:
        """Whether this replica prepares and commits in the current view."""
        return self.journal.active and not self.silent

    @property
    def current_promise(self) -> Promise | None:
        """What this replica said about the next height."""
        return self.promise if self.promise is not None and self.promise.height == self.next_height else None

    @property
    def accepted(self) -> Digest | None:
        """The block that this replica prepared at the next height in the current view."""
        promise = self.current_promise
        return Digest(promise.block) if promise is not None and promise.view == self.view else None

    def mask(self, members: Iterable[NodeId]) -> int:
        """The bits of those who are members."""
        by_id = self.committee.by_id
        return sum({1 << by_id[id].index for id in members if id in by_id})

    # --- the journal ---

    def view_record(self) -> JournalRecord:
        return JournalRecord("view", msgspec.msgpack.encode(self.journal))

    def promise_record(self) -> JournalRecord:
        return JournalRecord("promise", msgspec.msgpack.encode(self.promise))

    # --- signatures ---

    def verify(self, items: Iterable[Signed], then: Callable[[bool], None]) -> None:
        """Have signatures checked, those that were not before, and go on with whether all are right."""
        fresh = [item for item in items if (item.id, item.signature) not in self._known]
        if not fresh:
            then(True)
            return

        def done(results: tuple[JobResult, ...]) -> None:
            (verdicts,) = results
            assert isinstance(verdicts, tuple)
            for item, valid in zip(fresh, verdicts, strict=True):
                if valid:
                    self.know(item.id, item.signature)
            then(all(verdicts))

        keys = self.committee.by_id
        self.work((VerifySignatures(tuple((keys[i.signer].signing_key, i.id, i.signature) for i in fresh)),), done)

    def know(self, id: Digest, signature: bytes) -> None:
        """Remember a right signature (this node's own too)."""
        self._known[id, signature] = None
        while len(self._known) > KNOWN_SIGNATURES:
            self._known.popitem(last=False)

    # --- traces ---

    def trace(
        self,
        event: Literal[
            "proposed", "received", "verified", "adopted", "justified", "finalized", "rejected", "abandoned"
        ],
        block: Block,
        detail: str = "",
    ) -> None:
        """Record that a block passed a stage; its slot is the view that it was proposed in, its epoch the height."""
        self.emit(
            BlockTrace(
                event,
                block.id,
                block.height,
                Slot(block.view),
                Epoch(block.height),
                block.proposer,
                block.size,
                len(block.ids),
                detail,
            )
        )

    def _root(self, restored: Restored | None) -> Block:
        if restored is None or not restored.finalized:
            return Block(
                self.chain_id, Height(0), self.chain_id, 0, NodeId(bytes(32)), b"", (), (), (), (), persisted=True
            )
        header = decode_header(restored.finalized)
        return Block(
            header.id,
            header.height,
            header.parent,
            header.slot,
            header.proposer,
            header.raw,
            (),
            (),
            (),
            (),
            persisted=True,
        )
