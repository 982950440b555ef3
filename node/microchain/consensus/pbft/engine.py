"""The PBFT engine: events in, actions out (docs/pbft.md)."""

from __future__ import annotations

from typing import Literal

from microchain.consensus.admission import Admission
from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import (
    Action,
    BlockRecord,
    EngineStatus,
    Event,
    MessageReceived,
    Misbehaviour,
    PeerConnected,
    PeerDisconnected,
    Persisted,
    Released,
    Restored,
    TimerFired,
    TransactionsSubmitted,
    WorkDone,
)
from microchain.consensus.messages import (
    BlocksMissing,
    CompactBlock,
    FinalizedBlocks,
    FullBlock,
    GetBlocks,
    GetFinalized,
    GetTransactions,
    Message,
    NewView,
    Prepares,
    ReplicaStatus,
    TransactionIds,
    Transactions,
    ViewChange,
    Votes,
)
from microchain.consensus.objects import decode_header, decode_transaction
from microchain.consensus.pbft.agreement import Agreement
from microchain.consensus.pbft.core import Block, ReplicaCore
from microchain.consensus.pbft.exchange import Exchange
from microchain.consensus.pbft.proposer import Proposer
from microchain.consensus.pbft.views import Views
from microchain.consensus.types import Digest, Nanoseconds, NodeId

__all__ = ["PbftEngine"]


class PbftEngine:
    """One replica's engine. ``identity`` may be no member (it follows); ``restored`` is None on a new ledger."""

    def __init__(self, genesis: Genesis, identity: NodeId, restored: Restored | None = None) -> None:
        self._core = core = ReplicaCore(genesis, identity, restored)
        self._agreement = Agreement(core, self._final)
        self._views = Views(core, self._agreement.begin_view)
        self._admission = Admission(core)
        self._proposer = Proposer(core, self._agreement)
        self._exchange = Exchange(core, self._agreement, self._views, self._admission, self._proposer)
        self._restored = restored

    # --- the interface ---

    def start(self, now: Nanoseconds) -> list[Action]:
        """Begin, or begin again from what the ledger kept."""
        core = self._core
        core.now = core.tip_since = now
        if self._restored is not None:
            self._restore(self._restored)
            self._restored = None
        self._exchange.start()
        return self._flush()

    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        """Process one event."""
        core = self._core
        core.now = max(core.now, now)
        match event:
            case MessageReceived(peer, message):
                self._message(peer, message)
            case WorkDone(token, results):
                core.work_done(token, results)
            case Persisted(token):
                core.persisted(token)
            case TransactionsSubmitted(request, transactions):
                self._admission.submit(request, transactions)
            case TimerFired(timer):
                core.wake_proposer = True
                self._timer(timer)
            case PeerConnected(peer):
                core.connected.add(peer)
                self._exchange.connected(peer)
            case PeerDisconnected(peer):
                core.connected.discard(peer)
                self._exchange.disconnected(peer)
            case Released(above):
                core.wake_proposer = True
                self._proposer.release(above)
        return self._flush()

    def status(self) -> EngineStatus:
        """Return a snapshot. The head is what is final; ``observing``: this node makes no promises for now."""
        core = self._core
        return EngineStatus(
            head=core.tip.id,
            head_height=core.tip.height,
            justified=core.tip.id,
            justified_height=core.tip.height,
            finalized=core.tip.id,
            finalized_height=core.tip.height,
            pool_transactions=len(core.pool.pending),
            pool_bytes=core.pool.pending_bytes,
            own_unfinalized=sum(block.own for block in core.blocks.values()),
            evidence=core.evidence,
            syncing=self._exchange.catch_up.active,
            observing=core.silent,
            member=core.me is not None,
            jobs=core.jobs,
        )

    def find_transaction(self, id: Digest) -> tuple[Literal["pooled", "included", "committed"], Digest | None] | None:
        """Where an unfinalized transaction is: in the accepted block it is included, once prepared committed."""
        core = self._core
        promise = core.current_promise
        block = core.blocks.get(Digest(promise.block)) if promise is not None else None
        if block is not None and promise is not None and id in block.ids:
            prepared = promise.prepared is not None and promise.prepared[1] == block.id
            return ("committed" if prepared else "included"), block.id
        return ("pooled", None) if id in core.pool.pending else None

    def find_block(self, id: Digest) -> BlockRecord | None:
        """An unfinalized block with its body."""
        block = self._core.blocks.get(id)
        return block.record() if block is not None else None

    # --- events ---

    def _message(self, peer: NodeId, message: Message) -> None:
        match message:
            case Prepares(prepares):
                self._agreement.receive_prepares(peer, prepares)
            case Votes(votes):
                self._agreement.receive_commits(peer, votes)
            case CompactBlock() | FullBlock():
                self._agreement.proposals.receive(peer, message)
            case Transactions(transactions):
                self._agreement.proposals.supply(peer, transactions)
                self._admission.receive(peer, transactions)
            case TransactionIds(ids):
                self._admission.announced(peer, ids)
            case GetTransactions(ids):
                self._admission.serve(peer, ids)
            case ReplicaStatus():
                self._exchange.received(peer, message)
            case ViewChange(raw):
                self._views.receive_change(peer, raw)
            case NewView(raw):
                self._views.receive_new_view(peer, raw)
            case GetBlocks(ids):
                self._exchange.serve_blocks(peer, ids)
            case GetFinalized():
                self._exchange.serve_finalized(peer, message)
            case FinalizedBlocks():
                self._exchange.catch_up.receive(peer, message)
            case BlocksMissing():
                pass  # The next retry asks somebody else.
            case _:
                self._core.emit(Misbehaviour(peer, f"sent a {type(message).__name__}, which PBFT does not know"))

    def _timer(self, timer: str) -> None:
        match timer:
            case "propose":
                self._proposer.timer_fired()
            case "view":
                self._views.timer_fired()
            case "status":
                self._exchange.tick()

    def _final(self, block: Block) -> None:
        self._views.restart()
        if self._core.takes_part and self._proposer.is_overlooked(block):
            self._views.change(self._core.view + 1)

    def _flush(self) -> list[Action]:
        core = self._core
        if core.wake_proposer:
            core.wake_proposer = False
            self._proposer.reconsider()
        self._views.watch(waiting=self._is_waiting())
        actions, core.actions = core.actions, []
        return actions

    def _is_waiting(self) -> bool:
        """Whether the primary owes this replica a block."""
        core = self._core
        if not core.takes_part or self._exchange.catch_up.active:
            return False
        return core.accepted is not None or self._proposer.has_work()

    # --- restart ---

    def _restore(self, restored: Restored) -> None:
        """Rebuild from this node's own records: what is final lately, the accepted block, its own promises."""
        core = self._core
        for id, valid_until in restored.recent:
            core.replay.add(id, valid_until)
        for record in restored.blocks:
            if record.height == core.next_height and record.parent == core.tip.id:
                header = decode_header(record.header)
                expiries = tuple(decode_transaction(raw).body.valid_until for raw in record.transactions)
                core.know(header.id, header.signature)
                core.blocks[record.id] = Block(
                    record.id,
                    record.height,
                    record.parent,
                    header.slot,
                    header.proposer,
                    record.header,
                    record.transactions,
                    record.transaction_ids,
                    expiries,
                    record.votes,
                    own=record.own,
                    persisted=True,
                )
        self._agreement.restore()
        self._views.restore()
