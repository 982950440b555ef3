"""Votes, justification and finality; the head follows from them (protocol, section 5; Casper FFG)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from microchain.consensus.core import Core
from microchain.consensus.handover import Boundary, check_handover, decode_handover, is_handover
from microchain.consensus.interface import (
    Broadcast,
    DiscardRecord,
    FinalizedRecord,
    JobResult,
    Misbehaviour,
    Record,
    TransactionTrace,
    VerifySignatures,
    VoteTrace,
)
from microchain.consensus.messages import Votes
from microchain.consensus.objects import MalformedObject, Vote, decode_vote
from microchain.consensus.tree import Block
from microchain.consensus.types import Digest, Epoch, Height, NodeId, ProtocolError

__all__ = ["Finality"]

RECENT_BYTES = 1 << 20
RECENT_BLOCKS = 8
EXPIRE_EVERY = 64
MAX_VOTES = 4096


class Finality:
    """Counts votes, justifies and finalizes checkpoints, and keeps the head up to date.

    ``on_head`` is called after the head changed, ``on_missing`` with a checkpoint that more than a third of the weight
    voted for and that is unknown here, ``on_dynasty`` when a dynasty's last block is final and the next one begins.
    """

    def __init__(
        self,
        core: Core,
        on_head: Callable[[], None],
        on_missing: Callable[[Digest], None],
        on_dynasty: Callable[[], None],
    ) -> None:
        self._core = core
        self._on_dynasty = on_dynasty
        self._on_head = on_head
        self._on_missing = on_missing
        self.recent: OrderedDict[Digest, Block] = OrderedDict()
        self.justified = core.tree.root
        self.last_carrier = Height(0)

    # --- votes ---

    def receive(self, peer: NodeId, raws: Sequence[bytes]) -> None:
        """Verify and count the votes that are news, or take a hand-over."""
        core = self._core
        if is_handover(raws):
            self._receive_handover(peer, tuple(raws))
            return
        votes = []
        for raw in raws[:MAX_VOTES]:
            try:
                vote = decode_vote(raw)
            except MalformedObject as error:
                core.emit(Misbehaviour(peer, f"vote: {error}"))
                return
            if vote.body.chain_id != core.chain_id or not vote.body.dynasty:
                core.emit(Misbehaviour(peer, "sent a vote of another chain, or of no dynasty"))
                return
            if vote.source_epoch >= vote.target_epoch:
                core.emit(Misbehaviour(peer, "sent a vote whose source is not below its target"))
                return
            if vote.body.dynasty != core.dynasty:
                continue  # From a node that is ahead or behind.
            if vote.voter not in core.committee.by_id:
                core.emit(Misbehaviour(peer, "sent a vote by no member"))
                return
            if not core.book.knows(vote):
                votes.append(vote)
        if not votes:
            return
        doubt = any(vote.voter == core.identity for vote in votes)
        core.doubts += doubt

        def done(results: tuple[JobResult, ...]) -> None:
            (verdicts,) = results
            assert isinstance(verdicts, tuple)
            core.doubts -= doubt
            if not all(verdicts):
                core.emit(Misbehaviour(peer, "sent a vote with a wrong signature"))
            good = [vote for vote, valid in zip(votes, verdicts, strict=True) if valid]
            fresh = [vote for vote in good if self.accept(vote)]
            if fresh and not core.is_full_mesh():
                core.emit(Broadcast(Votes(tuple(vote.raw for vote in fresh))))

        items = tuple((core.committee.by_id[v.voter].signing_key, bytes(v.id), v.signature) for v in votes)
        core.work((VerifySignatures(items),), done)

    def _receive_handover(self, peer: NodeId, raws: tuple[bytes, ...]) -> None:
        """Take the proof that this dynasty's last block is final, if that block is here."""
        core = self._core
        try:
            handover = decode_handover(raws)
            last = core.tree.blocks.get(handover.boundary)
            if last is None or not last.is_boundary:
                return
            boundary = Boundary(last.id, last.height, core.dynasty, core.committee)
            items = check_handover(handover, boundary, core.chain_id, core.parameters)
        except ProtocolError as error:
            core.emit(Misbehaviour(peer, f"hand-over: {error}"))
            return

        def done(results: tuple[JobResult, ...]) -> None:
            (verdicts,) = results
            assert isinstance(verdicts, tuple)
            if all(verdicts):
                self.hand_over(last, raws)
            else:
                core.emit(Misbehaviour(peer, "sent a hand-over with a wrong signature"))

        core.work((VerifySignatures(items),), done)

    def hand_over(self, last: Block, certificate: tuple[bytes, ...]) -> None:
        """Take a verified proof that the dynasty's last block is final: the next dynasty begins."""
        if last.is_boundary and last.id in self._core.tree.blocks:
            self._finalize(last, certificate)
            self.update_head()

    def accept(self, vote: Vote, *, contained: bool = False) -> bool:
        """Take a verified vote, from a peer, a block or this node; return whether it was news."""
        core = self._core
        if vote.body.dynasty != core.dynasty:
            return False
        if vote.voter == core.identity:
            core.on_own_vote(vote)
        fresh, evidence = core.book.add(vote, contained=contained)
        if evidence is not None:
            core.record_evidence(evidence)
        if not fresh:
            return False
        if vote.voter != core.identity:
            core.emit(VoteTrace("received", vote.voter, vote.target, vote.target_epoch, vote.source_epoch))
        if vote.target in core.tree.blocks:
            self._count(vote)
        elif vote.target_epoch > core.tree.root.epoch:
            mask = 0
            for other in core.book.for_target(vote.target).values():
                mask |= 1 << core.committee.by_id[other.voter].index
            if 3 * core.committee.weight_of(mask) > core.committee.total:
                self._on_missing(vote.target)
        return True

    def _count(self, vote: Vote) -> None:
        core = self._core
        block = core.tree.blocks[vote.target]
        entry = block.state.open.get(block.id)
        if block is core.tree.root or entry is None:
            return
        body = vote.body
        if (body.source, body.source_epoch, body.target_epoch) != (entry.source, entry.source_epoch, entry.epoch):
            return
        block.vote_mask |= 1 << core.committee.by_id[vote.voter].index
        if not block.justified and core.committee.is_supermajority(block.vote_mask):
            self._justify(block)

    # --- justification and finality ---

    def block_validated(self, block: Block) -> None:
        """Count the votes in a new block of the tree and those that waited for it."""
        for vote in block.votes:
            self.accept(vote, contained=True)
        for vote in list(self._core.book.for_target(block.id).values()):
            if self._core.tree.blocks.get(block.id) is block and vote.body.dynasty == self._core.dynasty:
                self._count(vote)
        self.update_head()

    def _justify(self, block: Block) -> None:
        core = self._core
        block.justified = True
        core.wake_proposer = True
        core.tree.unhold(block, core.now)
        core.trace("justified", block)
        for ancestor in core.tree.ancestors(block):
            if ancestor is core.tree.root or (ancestor.justified and ancestor is not block):
                break
            if ancestor.data_ids:
                core.emit(TransactionTrace("committed", ancestor.data_ids, block.id, block.height))
        if block.epoch > self.justified.epoch:
            self.justified = block
        later = [b for b in core.tree.blocks.values() if b.justified and b.epoch == block.epoch + 1]
        for target in (block, *later):
            if target.id in core.tree.blocks:
                self._try_finalize(target)
        self.update_head()

    def _try_finalize(self, target: Block) -> None:
        """Finalize the source of a justified checkpoint if the link, and what lies between, suffices."""
        core = self._core
        entry = target.state.open.get(target.id)
        source = core.tree.blocks.get(Digest(entry.source)) if entry is not None else None
        if source is None or source is core.tree.root:
            return
        links = [target]
        if target.epoch == source.epoch + 2:
            middle = next(b for b in core.tree.ancestors(target) if b.checkpoint and b.epoch == source.epoch + 1)
            if not middle.justified:
                return
            links.append(middle)
        elif target.epoch != source.epoch + 1:
            return
        certificate = []
        for link in links:
            wanted = link.state.open[link.id].source
            votes = core.book.for_target(link.id).values()
            certificate += [vote.raw for vote in votes if vote.body.source == wanted]
        if source.closes is None:
            self._finalize(source, tuple(certificate))
            return
        headers = []
        for block in core.tree.ancestors(target):
            if block is source:
                break
            headers.append(block.header)
        self._finalize(core.tree.blocks[source.closes], (*reversed(headers), *certificate))

    def _finalize(self, checkpoint: Block, certificate: tuple[bytes, ...]) -> None:
        core = self._core
        if checkpoint.adopted_at is None:
            checkpoint.adopted_at = core.now
        finalized, abandoned = core.tree.prune(checkpoint)
        core.certificate = certificate
        closed = core.tree.drop_above_root() if checkpoint.is_boundary else []
        abandoned += closed
        records: list[Record] = [block.record() for block in finalized if not block.persisted]
        records.append(FinalizedRecord(tuple(b.id for b in finalized), checkpoint.id, certificate))
        discarded = tuple(block.id for block in abandoned if block.persisted)
        if discarded:
            records.append(DiscardRecord(discarded))
        core.persist(tuple(records), durable=False)
        if checkpoint.is_boundary:
            self._change_dynasty(checkpoint)
        for block in finalized:
            block.persisted = True
            self._settle(block)
        for block in abandoned:
            core.trace("abandoned", block)
            self._return_transactions(block)
        if self.justified.id not in core.tree.blocks:
            self.justified = checkpoint
        core.replay.expire(checkpoint.height)
        if checkpoint.height % EXPIRE_EVERY == 0 or len(finalized) > 1:
            expired = core.pool.expire(checkpoint.height)
            if expired:
                core.emit(TransactionTrace("expired", tuple(expired)))

    def _change_dynasty(self, last: Block) -> None:
        """Everything above ``last`` starts anew: its release, its votes, its proposals."""
        core = self._core
        core.begin_dynasty(last)
        last.adopted_at = core.now
        self.justified = last
        core.wake_proposer = True
        self._on_dynasty()

    def _settle(self, block: Block) -> None:
        core = self._core
        core.trace("finalized", block)
        core.pool.remove(block.transaction_ids)
        for id, valid_until in zip(block.transaction_ids, block.expiries, strict=True):
            core.replay.add(id, valid_until)
        if block.data_ids:
            core.emit(TransactionTrace("finalized", block.data_ids, block.id, block.height))
        self.recent[block.id] = block
        kept = sum(b.size for b in self.recent.values())
        while len(self.recent) > 1 and (kept > RECENT_BYTES or len(self.recent) > RECENT_BLOCKS):
            _, dropped = self.recent.popitem(last=False)
            kept -= dropped.size

    def _return_transactions(self, block: Block) -> None:
        core = self._core
        for id, entry in block.pool_entries():
            if core.pool.has_room(len(entry.raw)) and not core.replay.contains(id, entry.valid_until):
                core.pool.add(id, entry)

    # --- the head ---

    def update_head(self) -> None:
        """Choose the head again and move transactions between pool and branch accordingly."""
        core = self._core
        best, next_release = core.tree.best_head(core.now)
        if next_release is not None:
            core.set_timer("release", next_release)
        old = core.head
        if best is old:
            return
        core.head = best
        core.wake_proposer = True
        # A final L may become the head before it was adopted: its transactions are settled already.
        extends = best.parent == old.id and best is not core.tree.root
        branch = [best] if extends else core.tree.path(best)
        if not extends:
            on_branch = {id for block in branch for id in block.id_set}
            for id in [id for id in core.pool.included if id not in on_branch]:
                core.pool.restore(id)
        for block in branch:
            self._adopt(block)
        core.book.prune(Epoch(min(core.tree.root.epoch, best.state.finalized_epoch)))
        self._on_head()

    def _adopt(self, block: Block) -> None:
        core = self._core
        for id, entry in block.pool_entries():
            core.pool.include(id, entry)
        if block.adopted_at is not None:
            return
        block.adopted_at = core.now
        core.trace("adopted", block)
        if block.data_ids:
            self.last_carrier = max(self.last_carrier, block.height)
            core.emit(TransactionTrace("included", block.data_ids, block.id, block.height))
