"""The Microchain engine: events in, actions out (protocol, sections 2 to 5, with a fixed committee)."""

from __future__ import annotations

from typing import Literal

from microchain.consensus.admission import Admission
from microchain.consensus.core import Core
from microchain.consensus.duties import Duties
from microchain.consensus.exchange import Exchange
from microchain.consensus.finality import Finality
from microchain.consensus.genesis import Genesis
from microchain.consensus.handover import is_handover
from microchain.consensus.intake import Intake
from microchain.consensus.interface import (
    Action,
    BlockRecord,
    Broadcast,
    EngineStatus,
    Event,
    MessageReceived,
    PeerConnected,
    PeerDisconnected,
    Persisted,
    Released,
    Restored,
    TimerFired,
    TransactionsSubmitted,
    WorkDone,
)
from microchain.consensus.kept import decode_kept
from microchain.consensus.messages import (
    BlocksMissing,
    CompactBlock,
    FinalizedBlocks,
    FullBlock,
    GetBlocks,
    GetFinalized,
    GetHeaders,
    GetTransactions,
    Headers,
    Message,
    Status,
    TransactionIds,
    Transactions,
    Votes,
)
from microchain.consensus.objects import decode_header, decode_transaction, decode_vote
from microchain.consensus.proposer import Proposer, announce
from microchain.consensus.tree import Block
from microchain.consensus.types import Digest, Nanoseconds, NodeId, TransactionKind
from microchain.consensus.voter import Voter

__all__ = ["MicrochainEngine"]


class MicrochainEngine:
    """One node's engine. ``identity`` may be no member (an observer); ``restored`` is None on a new ledger."""

    def __init__(self, genesis: Genesis, identity: NodeId, restored: Restored | None = None) -> None:
        self._core = core = Core(genesis, identity, restored)
        self._finality = Finality(core, self._head_changed, self._checkpoint_missing, self._dynasty_changed)
        self._admission = Admission(core)
        self._intake = Intake(
            core,
            self._block_valid,
            lambda pending: self._exchange.fetch.incomplete(pending),
            self._finality.hand_over,
        )
        self._voter = Voter(core, self._finality, restored)
        self._exchange = Exchange(core, self._finality, self._intake, self._admission, self._voter)
        self._proposer = Proposer(core, self._finality, self._own_block)
        self._duties = Duties(core, self._admission)
        core.on_evidence = self._duties.accuse
        core.on_refuted = self._duties.refuted
        self._restored = restored

    # --- the interface ---

    def start(self, now: Nanoseconds) -> list[Action]:
        """Begin, or begin again from what the ledger kept."""
        core = self._core
        core.now = now
        core.tree.root.adopted_at = now
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
                core.wake_proposer = True
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
        """Return a snapshot."""
        core, root, justified = self._core, self._core.tree.root, self._finality.justified
        return EngineStatus(
            head=core.head.id,
            head_height=core.head.height,
            justified=justified.id,
            justified_height=justified.height,
            finalized=root.id,
            finalized_height=root.height,
            pool_transactions=len(core.pool.pending),
            pool_bytes=core.pool.pending_bytes,
            own_unfinalized=sum(block.own for block in core.tree.blocks.values()),
            evidence=core.evidence,
            syncing=self._exchange.catch_up.active,
            observing=self._voter.observing,
            dynasty=core.dynasty,
            dynasty_end=core.head.chain.windows.end,
            member=core.me is not None,
            pool_system=len(core.pool.system),
            jobs=core.jobs,
        )

    def find_transaction(self, id: Digest) -> tuple[Literal["pooled", "included", "committed"], Digest | None] | None:
        """Where an unfinalized transaction is."""
        core = self._core
        if id in core.pool.pending:
            return "pooled", None
        if id not in core.pool.included:
            return None
        committed = False
        for block in core.tree.ancestors(core.head):
            committed = committed or (block.justified and block is not core.tree.root)
            if id in block.id_set:
                return ("committed" if committed else "included"), block.id
        return None

    def find_block(self, id: Digest) -> BlockRecord | None:
        """An unfinalized block with its body."""
        block = self._core.tree.blocks.get(id)
        return block.record() if block is not None and block is not self._core.tree.root else None

    # --- events ---

    def _message(self, peer: NodeId, message: Message) -> None:
        match message:
            case Votes(votes):
                self._finality.receive(peer, votes)
            case CompactBlock(header, ids, votes):
                self._intake.compact(peer, header, ids, votes)
            case FullBlock(header, transactions, votes):
                self._intake.full(peer, header, transactions, votes, synced=False)
            case Transactions(transactions):
                self._admission.receive(peer, self._intake.supply(peer, transactions))
            case TransactionIds(ids):
                self._admission.announced(peer, ids)
            case GetTransactions(ids):
                self._admission.serve(peer, ids)
            case Status():
                self._exchange.received(peer, message)
            case GetHeaders():
                self._exchange.serve_headers(peer, message)
            case Headers(headers):
                self._exchange.fetch.headers(peer, headers)
            case GetBlocks(ids):
                self._exchange.serve_blocks(peer, ids)
            case GetFinalized():
                self._exchange.serve_finalized(peer, message)
            case FinalizedBlocks():
                self._exchange.catch_up.finalized(peer, message)
            case BlocksMissing():
                pass  # The next retry asks somebody else.

    def _timer(self, timer: str) -> None:
        match timer:
            case "propose":
                self._proposer.timer_fired()
            case "release":
                self._finality.update_head()
            case "status":
                self._exchange.tick()
                self._duties.forget_stale()
                self._consider_duties()

    def _flush(self) -> list[Action]:
        core = self._core
        silent = self._voter.observing or core.me is None
        if core.wake_proposer and not silent and not self._exchange.catch_up.is_silencing:
            core.wake_proposer = False
            self._proposer.reconsider()
        actions, core.actions = core.actions, []
        return actions

    # --- what the parts tell each other ---

    def _block_valid(self, block: Block) -> None:
        core = self._core
        self._finality.block_validated(block)
        if not block.synced and not core.is_full_mesh():
            core.emit(Broadcast(announce(core, block)))
        self._exchange.catch_up.validated(block)

    def _own_block(self, block: Block) -> None:
        self._intake.note_own(block)
        self._core.tree.insert(block)
        self._core.trace("verified", block)
        self._finality.block_validated(block)
        self._intake.parent_arrived(block.id)

    def _head_changed(self) -> None:
        root = self._core.tree.root
        self._intake.forget_below(root.height)
        self._proposer.forget_below()
        if not self._exchange.catch_up.is_silencing:
            self._voter.consider()
        self._consider_duties()

    def _consider_duties(self) -> None:
        # A member whose journal is lost may still do its part here: a duty's transaction is always the same.
        if not self._exchange.catch_up.active:
            self._duties.consider()

    def _dynasty_changed(self) -> None:
        self._proposer.begin_dynasty()
        self._voter.begin_dynasty()
        self._duties.begin_dynasty()
        self._core.pool.remove(list(self._core.pool.system))
        self._intake.forget_below(self._core.tree.root.height)

    def _checkpoint_missing(self, target: Digest) -> None:
        self._exchange.fetch.want_from_anybody(target)

    # --- restart ---

    def _restore(self, restored: Restored) -> None:
        """Rebuild the tree, the votes and this node's own promises from its own records."""
        core = self._core
        for record in restored.evidence:
            self._duties.accuse(record)
        for id, valid_until in restored.recent:
            core.replay.add(id, valid_until)
        for block in restored.blocks:
            if block.parent in core.tree.blocks:
                self._restore_block(block)
        for vote in (*restored.votes, *restored.own_votes):
            self._finality.accept(decode_vote(vote.raw))
        if not is_handover(restored.certificate):
            for raw in restored.certificate:
                self._finality.accept(decode_vote(raw))
        self._finality.update_head()

    def _restore_block(self, record: BlockRecord) -> None:
        core = self._core
        header = decode_header(record.header)
        parent = core.tree.blocks[record.parent]
        candidate = parent.lottery.winner(header.proposer, header.slot)
        if candidate is None or header.dynasty != core.dynasty:
            return
        state, chain = decode_kept(record.state, record.base)
        block = core.make_block(
            header=record.header, id=record.id, parent=parent, candidate=candidate, state=state, chain=chain
        )
        transactions = [decode_transaction(raw) for raw in record.transactions]
        expiries = tuple(transaction.body.valid_until for transaction in transactions)
        system = tuple(t for t in transactions if t.body.kind != TransactionKind.DATA)
        handover = record.votes if is_handover(record.votes) else ()
        votes = tuple(decode_vote(raw) for raw in record.votes) if not handover else ()
        block.set_body(record.transactions, record.transaction_ids, expiries, votes, handover, system)
        block.own, block.persisted, block.restored = record.own, True, True
        if record.own:
            self._proposer.proposed_on.add(record.parent)
        self._intake.note_own(block)
        core.tree.insert(block)
        self._finality.block_validated(block)
