"""Blocks on their way to this replica: pre-prepares of the current view, and blocks that it asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from microchain.consensus.admission import Refused, check_transaction
from microchain.consensus.interface import (
    EvidenceRecord,
    JobResult,
    MerkleRoot,
    Misbehaviour,
    Send,
    VerifySignatures,
)
from microchain.consensus.messages import CompactBlock, FullBlock, GetBlocks, GetTransactions
from microchain.consensus.objects import Header, decode_header
from microchain.consensus.pbft.certificates import Signed
from microchain.consensus.pbft.core import MILLISECOND, WINDOW, Block, ReplicaCore
from microchain.consensus.pbft.validity import check_header, check_parent_commits, check_transactions
from microchain.consensus.pending import Pending
from microchain.consensus.types import Digest, Height, NodeId, ProtocolError

__all__ = ["Proposals"]

RETRY = 1_000 * MILLISECOND
MAX_WANTED = 8
MIN_EARLY_BYTES = 4 << 20


class _Wanted(Struct):
    """A block that this replica lacks: who should have it, since when, how often it was asked for."""

    sources: list[NodeId]
    since: int
    asked: int = 0


class Proposals:
    """Takes blocks at the next height; ``on_valid`` gets each that is valid.

    A primary's block for a later height or view waits.
    Honest replicas only pass on blocks that they have checked, so who sends an invalid one is at fault.
    """

    def __init__(self, core: ReplicaCore, on_valid: Callable[[Block], None]) -> None:
        self._core = core
        self._on_valid = on_valid
        self._pending: dict[Digest, Pending] = {}
        self._wanted: dict[Digest, _Wanted] = {}
        self._proposed: dict[NodeId, Header] = {}
        """The first block of each proposer at the next height, to recognize a second in the same view."""
        self._early: dict[NodeId, dict[Height, CompactBlock | FullBlock]] = {}
        """Of each primary, its blocks for heights or views that this replica has not reached."""

    # --- arrival ---

    def receive(self, peer: NodeId, message: CompactBlock | FullBlock) -> None:
        """Take a block from a peer."""
        core = self._core
        try:
            header = decode_header(message.header)
            check_header(core, header)
            ids, raws = self._contents(message)
            if len(message.votes) > len(core.committee.members):
                raise ProtocolError("more commits than members")
            if sum(len(raw) for raw in raws if raw) > core.parameters.max_block_bytes:
                raise ProtocolError(f"the transactions have more than {core.parameters.max_block_bytes} bytes")
        except ProtocolError as error:
            core.emit(Misbehaviour(peer, f"block: {error}"))
            return
        if header.id in core.blocks or header.height < core.next_height:
            return
        if header.id in self._wanted and header.height == core.next_height:
            self._begin(Pending(header, peer, ids, raws, message.votes, synced=False))
        elif header.height == core.next_height and header.slot == core.view and core.journal.active:
            if not any(p.peer == peer and p.header.id != header.id for p in self._pending.values()):
                self._begin(Pending(header, peer, ids, raws, message.votes, synced=False))
        elif peer == header.proposer and header.slot >= core.view and header.height <= core.tip.height + WINDOW:
            self._keep(peer, header.height, message)

    def _contents(self, message: CompactBlock | FullBlock) -> tuple[tuple[Digest, ...], list[bytes | None]]:
        core = self._core
        if isinstance(message, FullBlock):
            try:
                return tuple(check_transaction(core, raw).id for raw in message.transactions), list(
                    message.transactions
                )
            except Refused as refused:
                raise ProtocolError(f"a bad transaction: {refused}") from None
        ids = tuple(Digest(id) for id in message.transaction_ids)
        entries = [core.pool.get(id) for id in ids]
        return ids, [entry.raw if entry is not None else None for entry in entries]

    def _keep(self, peer: NodeId, height: Height, message: CompactBlock | FullBlock) -> None:
        """Keep a block that comes early; of each primary no more than a few blocks' bytes."""
        kept = self._early.setdefault(peer, {})
        kept[height] = message
        limit = max(MIN_EARLY_BYTES, 2 * self._core.parameters.max_block_bytes)
        while len(kept) > 1 and sum(map(_size, kept.values())) > limit:
            del kept[max(kept)]

    def retry_early(self) -> None:
        """View or height have changed: forget what is over, take what came early."""
        core = self._core
        self._pending = {
            id: p
            for id, p in self._pending.items()
            if p.header.height == core.next_height and (p.header.slot >= core.view or id in self._wanted)
        }
        self._proposed = {id: h for id, h in self._proposed.items() if h.height == core.next_height}
        for peer, kept in list(self._early.items()):
            for height in [h for h in kept if h < core.next_height]:
                del kept[height]
            message = kept.pop(core.next_height, None)
            if message is not None:
                self.receive(peer, message)
            if not kept:
                self._early.pop(peer, None)

    def _begin(self, pending: Pending) -> None:
        known = self._pending.get(pending.header.id)
        if known is not None and (known.stage != "incomplete" or pending.absent):
            return
        self._pending[pending.header.id] = pending
        header = pending.header

        def verified(valid: bool) -> None:
            if self._pending.get(header.id) is not pending:
                return
            if not valid:
                self._fault(pending, "a wrong signature")
            elif self._note(header) or header.id in self._wanted:
                pending.stage = "incomplete"
                self._advance(pending)
            else:
                self._pending.pop(header.id)

        self._core.verify((Signed(header.proposer, header.id, header.signature),), verified)

    def _note(self, header: Header) -> bool:
        """Whether this is its proposer's first block at this height in its view; a second is evidence."""
        if header.height != self._core.next_height:
            return False
        first = self._proposed.get(header.proposer)
        if first is None or first.slot < header.slot:
            self._proposed[header.proposer] = header
            self._core.trace("received", _outline(header))
            return True
        if first.slot == header.slot and first.id != header.id:
            self._core.record_evidence(EvidenceRecord("double-proposal", header.proposer, first.raw, header.raw))
        return first.id == header.id

    # --- completion ---

    def supply(self, peer: NodeId, transactions: Sequence[bytes]) -> None:
        """Fill fetched transactions into the blocks that miss them."""
        for pending in [p for p in self._pending.values() if p.stage == "incomplete" and p.absent]:
            filled = False
            for raw in transactions:
                try:
                    id = check_transaction(self._core, raw).id
                except Refused:
                    continue
                if id in pending.absent:
                    pending.fill(id, raw, peer)
                    filled = True
            if filled:
                self._advance(pending)

    def _advance(self, pending: Pending) -> None:
        """Check a block whose transactions are all here; else have them fetched."""
        core, header = self._core, pending.header
        for id in pending.missing():
            entry = core.pool.get(id)
            if entry is not None:
                pending.fill(id, entry.raw)
        if pending.absent:
            self._fetch(pending)
            return
        raws = tuple(raw for raw in pending.raws if raw is not None)
        try:
            if header.parent != core.tip.id:
                raise ProtocolError("its parent is not the block that is final below it")
            commits = check_parent_commits(core, header.parent, header.height, pending.votes)
            expiries, unverified = check_transactions(core, header.height, pending.ids, raws)
        except ProtocolError as error:
            self._fault(pending, str(error))
            return
        pending.stage = "verifying"

        def done(results: tuple[JobResult, ...]) -> None:
            if self._pending.get(header.id) is not pending or header.height != core.next_height:
                return
            tx_root, votes_root, verdicts = results
            assert isinstance(verdicts, tuple)
            if (tx_root, votes_root) != (header.body.tx_root, header.body.votes_root):
                self._fault(pending, "a root does not match its body")
            elif not all(verdicts):
                self._wrong_signatures(pending, [at for at, ok in zip(unverified, verdicts, strict=True) if not ok])
            else:
                block = Block(
                    header.id,
                    header.height,
                    header.parent,
                    header.slot,
                    header.proposer,
                    header.raw,
                    raws,
                    pending.ids,
                    expiries,
                    pending.votes,
                )
                core.verify(commits, lambda valid: self._finish(pending, block, valid))

        core.work(
            (
                MerkleRoot(pending.ids),
                MerkleRoot(pending.votes),
                VerifySignatures(tuple(unverified.values())),
            ),
            done,
        )

    def _finish(self, pending: Pending, block: Block, valid: bool) -> None:
        core = self._core
        if self._pending.get(block.id) is not pending or block.height != core.next_height:
            return
        if not valid:
            self._fault(pending, "a commit with a wrong signature")
            return
        del self._pending[block.id]
        self._wanted.pop(block.id, None)
        core.blocks[block.id] = block
        core.trace("verified", block)
        self._on_valid(block)

    def _wrong_signatures(self, pending: Pending, places: Sequence[int]) -> None:
        """Whoever supplied a damaged transaction is to blame for it, and it is fetched again."""
        if any(at not in pending.suppliers for at in places):
            self._fault(pending, "a transaction with a wrong signature")
            return
        for supplier in {pending.remove(at) for at in places}:
            self._core.emit(Misbehaviour(supplier, "supplied a transaction with a wrong signature"))
        pending.stage = "incomplete"
        self._advance(pending)

    def _fault(self, pending: Pending, reason: str) -> None:
        self._pending.pop(pending.header.id, None)
        self._core.trace("rejected", _outline(pending.header), reason)
        self._core.emit(Misbehaviour(pending.peer, f"invalid block: {reason}"))

    # --- fetching ---

    def want(self, id: Digest, sources: Iterable[NodeId]) -> None:
        """A block is needed that is not here: ask those who should have it, unless it comes by itself in a second."""
        wanted = self._wanted.get(id)
        fresh = [source for source in sources if source != self._core.identity]
        if wanted is not None:
            wanted.sources += [source for source in fresh if source not in wanted.sources]
        elif len(self._wanted) < MAX_WANTED:
            self._wanted[id] = _Wanted(fresh, self._core.now)

    def forget_wanted(self) -> None:
        """The height has changed: nothing that was wanted is needed any more."""
        self._wanted.clear()

    def tick(self) -> None:
        """Ask for what did not come within a second; somebody else each time."""
        core = self._core
        for id, wanted in self._wanted.items():
            sources = [s for s in wanted.sources if s in core.connected] or sorted(core.connected)
            if core.now >= wanted.since + RETRY and sources and id not in core.blocks:
                core.emit(Send(sources[wanted.asked % len(sources)], GetBlocks((id,))))
                wanted.asked += 1
        for pending in list(self._pending.values()):
            if pending.stage == "incomplete":
                self._advance(pending)

    def _fetch(self, pending: Pending) -> None:
        core = self._core
        if core.now < pending.asked_at:
            return
        pending.asked_at = core.now + RETRY
        pending.attempts += 1
        if pending.attempts == 1:
            core.emit(Send(pending.peer, GetTransactions(pending.missing())))
        else:
            self.want(pending.header.id, [pending.peer, pending.header.proposer])


def _outline(header: Header) -> Block:
    """What is known of a block whose body is not here."""
    return Block(header.id, header.height, header.parent, header.slot, header.proposer, header.raw, (), (), (), ())


def _size(message: CompactBlock | FullBlock) -> int:
    body = message.transactions if isinstance(message, FullBlock) else message.transaction_ids
    return 1024 + sum(map(len, body)) + sum(map(len, message.votes))
