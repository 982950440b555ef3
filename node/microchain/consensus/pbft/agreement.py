"""The three phases at the next height: accept the primary's block and prepare it, commit what is prepared, decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from microchain.consensus.interface import (
    BlockRecord,
    Broadcast,
    DiscardRecord,
    EvidenceRecord,
    FinalizedRecord,
    JobResult,
    Misbehaviour,
    Record,
    Send,
    Sign,
    TransactionTrace,
    VoteRecord,
    VoteTrace,
)
from microchain.consensus.messages import CompactBlock, FullBlock, Prepares, Votes
from microchain.consensus.objects import VERSION, VOTE_TAG, MalformedObject, decode_vote, encode_body, seal
from microchain.consensus.pbft.certificates import Signed
from microchain.consensus.pbft.core import WINDOW, Block, Promise, ReplicaCore
from microchain.consensus.pbft.log import Entry, Log
from microchain.consensus.pbft.proposals import Proposals
from microchain.consensus.pbft.statements import PrepareBody, commit_body, decode_prepare, encode, view_of
from microchain.consensus.types import Digest, Epoch, Height, NodeId
from microchain.crypto.hashing import tagged_hash

__all__ = ["Agreement", "announce"]

RECENT_BYTES = 1 << 20
RECENT_BLOCKS = 8


def announce(core: ReplicaCore, block: Block) -> CompactBlock | FullBlock:
    """Return the message that carries a block: with its first view's primary as the sender, the pre-prepare."""
    if core.parameters.relay == "full":
        return FullBlock(block.header, block.transactions, block.votes)
    return CompactBlock(block.header, block.ids, block.votes)


class Agreement:
    """Normal case operation. ``on_final`` is called after each final block."""

    def __init__(self, core: ReplicaCore, on_final: Callable[[Block], None]) -> None:
        self._core = core
        self._on_final = on_final
        self._signing: tuple[str, int, int] | None = None
        self.prepares = Log()
        self.commits = Log()
        self.proposals = Proposals(core, lambda block: self.advance())

    # --- others' statements ---

    def receive_prepares(self, peer: NodeId, raws: Sequence[bytes]) -> None:
        """Take prepares from a peer."""
        entries: list[Entry] = []
        signed: list[Signed] = []
        try:
            for raw in raws[: self._most]:
                statement = decode_prepare(raw)
                body = statement.body
                self._check_signer(body.chain_id, statement.replica)
                entries.append(
                    Entry(statement.replica, Height(body.height), body.view, Digest(body.block), statement.raw)
                )
                signed.append(Signed(statement.replica, statement.id, statement.signature))
        except MalformedObject as error:
            self._core.emit(Misbehaviour(peer, f"prepare: {error}"))
            return
        self._receive(peer, self.prepares, entries, signed, lambda raws: Prepares(raws))

    def receive_commits(self, peer: NodeId, raws: Sequence[bytes]) -> None:
        """Take commits from a peer."""
        entries: list[Entry] = []
        signed: list[Signed] = []
        try:
            for raw in raws[: self._most]:
                vote = decode_vote(raw)
                self._check_signer(vote.body.chain_id, vote.voter)
                entries.append(Entry(vote.voter, Height(vote.target_epoch), view_of(vote), vote.target, vote.raw))
                signed.append(Signed(vote.voter, vote.id, vote.signature))
        except MalformedObject as error:
            self._core.emit(Misbehaviour(peer, f"commit: {error}"))
            return
        self._receive(peer, self.commits, entries, signed, lambda raws: Votes(raws))

    @property
    def _most(self) -> int:
        return 4 * len(self._core.committee.members)

    def _check_signer(self, chain_id: bytes, signer: NodeId) -> None:
        if chain_id != self._core.chain_id or signer not in self._core.committee.by_id:
            raise MalformedObject("of another chain or by no member")

    def _receive(
        self,
        peer: NodeId,
        log: Log,
        entries: list[Entry],
        signed: list[Signed],
        message: Callable[[tuple[bytes, ...]], Prepares | Votes],
    ) -> None:
        core = self._core
        wanted = [
            (entry, item)
            for entry, item in zip(entries, signed, strict=True)
            if core.tip.height < entry.height <= core.tip.height + WINDOW and not log.has(entry)
        ]
        if not wanted:
            return

        def verified(valid: bool) -> None:
            if not valid:
                core.emit(Misbehaviour(peer, "sent a statement with a wrong signature"))
                return
            fresh = [entry for entry, _ in wanted if entry.height > core.tip.height and log.add(entry)]
            for entry, _ in wanted:
                other = log.get(entry.signer, entry.height, entry.view)
                if other is not None and other.block != entry.block:
                    core.record_evidence(EvidenceRecord("double-vote", entry.signer, other.raw, entry.raw))
            for entry in fresh:
                self._trace("received", entry)
            if fresh and not core.is_full_mesh():
                core.emit(Broadcast(message(tuple(entry.raw for entry in fresh))))
            if any(entry.height == core.next_height for entry in fresh):
                self.advance()

        core.verify([item for _, item in wanted], verified)

    def _trace(self, event: str, entry: Entry) -> None:
        self._core.emit(
            VoteTrace(
                event,  # type: ignore[arg-type]
                entry.signer,
                entry.block,
                Epoch(entry.height),
                Epoch(entry.height - 1),
            )
        )

    # --- the phases ---

    def advance(self) -> None:
        """Go on with the next height as far as what is here allows."""
        if self._decide():
            return
        core = self._core
        if not core.takes_part:
            return
        if core.accepted is None:
            block = self._find_acceptable()
            if block is not None:
                self._prepare(block)
        else:
            self._commit()

    def _find_acceptable(self) -> Block | None:
        """Return the block that this replica may prepare in this view: what the view began with, or the primary's."""
        core = self._core
        choice = core.choice
        if choice is not None and choice.height > core.next_height:
            return None
        if choice is not None and choice.height == core.next_height and choice.block is not None:
            if choice.block not in core.blocks:
                self.proposals.want(choice.block, [core.primary])
            return core.blocks.get(choice.block)
        fresh = (b for b in core.blocks.values() if b.view == core.view and b.proposer == core.primary)
        block = next(fresh, None)
        if block is None:
            named = self.prepares.get(core.primary, core.next_height, core.view)
            if named is not None:
                self.proposals.want(named.block, [core.primary])
        return block

    def propose(self, block: Block) -> None:
        """This node, the primary, has made a block: send it once it can never be forgotten."""
        self._core.blocks[block.id] = block
        self._prepare(block)

    def _prepare(self, block: Block) -> None:
        core = self._core
        view, height = core.view, core.next_height
        if self._signing == ("prepare", view, height):
            return
        self._signing = ("prepare", view, height)
        signed, id = encode(PrepareBody(VERSION, core.chain_id, view, height, block.id, core.identity))

        def done(results: tuple[JobResult, ...]) -> None:
            (signature,) = results
            assert isinstance(signature, bytes)
            self._signing = None
            if not self._is_at(view, height) or core.accepted is not None:
                return
            core.know(id, signature)
            old = core.current_promise
            core.promise = Promise(
                height,
                view,
                block.id,
                seal(signed, signature),
                old.prepared if old is not None else None,
                old.commit if old is not None else b"",
            )
            entry = Entry(core.identity, height, view, block.id, core.promise.prepare)
            core.trace("adopted", block)
            if block.ids:
                core.emit(TransactionTrace("included", block.ids, block.id, block.height))
            records: tuple[Record, ...] = (*self._unstored(block), core.promise_record())
            core.persist(records, durable=True, then=lambda: self._send_prepare(block, entry))

        core.work((Sign(id),), done)

    def _send_prepare(self, block: Block, entry: Entry) -> None:
        core = self._core
        if not self._is_at(entry.view, entry.height):
            return
        if (block.proposer == core.identity and block.view == entry.view) or not core.is_full_mesh():
            core.emit(Broadcast(announce(core, block)))
        self._trace("sent", entry)
        core.emit(Broadcast(Prepares((entry.raw,))))
        self.prepares.add(entry)
        self.advance()

    def _commit(self) -> None:
        """Commit once a quorum has prepared what this replica accepted."""
        core = self._core
        promise, view, height = core.current_promise, core.view, core.next_height
        assert promise is not None
        block = core.blocks.get(Digest(promise.block))
        if block is None or (promise.prepared is not None and promise.prepared[0] == view):
            return
        prepares = self.prepares.for_block(height, view, block.id)
        if not core.committee.is_supermajority(core.mask(e.signer for e in prepares)):
            return
        if self._signing == ("commit", view, height):
            return
        self._signing = ("commit", view, height)
        certificate = tuple(entry.raw for entry in prepares)
        body = commit_body(core.chain_id, view, height, block.parent, block.id, core.identity)
        signed = encode_body(body)
        id = tagged_hash(VOTE_TAG, signed)

        def done(results: tuple[JobResult, ...]) -> None:
            (signature,) = results
            assert isinstance(signature, bytes)
            self._signing = None
            if not self._is_at(view, height) or core.promise is not promise:
                return
            core.know(id, signature)
            raw = seal(signed, signature)
            core.promise = msgspec.structs.replace(promise, prepared=(view, block.id, certificate), commit=raw)
            entry = Entry(core.identity, height, view, block.id, raw)
            vote = VoteRecord(id, raw, True, Epoch(height - 1), block.id, Epoch(height))
            core.persist((vote, core.promise_record()), durable=True, then=lambda: self._send_commit(entry))

        core.work((Sign(id),), done)

    def _send_commit(self, entry: Entry) -> None:
        if self._is_at(entry.view, entry.height):
            self._trace("sent", entry)
            self._core.emit(Broadcast(Votes((entry.raw,))))
            self.commits.add(entry)
            self.advance()

    def _is_at(self, view: int, height: int) -> bool:
        core = self._core
        return core.takes_part and (core.view, core.next_height) == (view, height)

    def _unstored(self, block: Block) -> list[BlockRecord]:
        if block.persisted:
            return []
        block.persisted = True
        return [block.record()]

    # --- deciding ---

    def _decide(self) -> bool:
        """Make a block final that a quorum committed in one view; have it fetched if it is not here."""
        core = self._core
        for (_, id), entries in self.commits.at(core.next_height).items():
            if not core.committee.is_supermajority(core.mask(e.signer for e in entries)):
                continue
            block = core.blocks.get(id)
            if block is None:
                self.proposals.want(id, [e.signer for e in entries])
                continue
            core.trace("justified", block)
            if block.ids:
                core.emit(TransactionTrace("committed", block.ids, block.id, block.height))
            self.finalize([block], tuple(e.raw for e in entries))
            return True
        return False

    def finalize(self, blocks: Sequence[Block], certificate: tuple[bytes, ...]) -> None:
        """Move the tip up over ``blocks`` (consecutive), which ``certificate`` proves final."""
        core = self._core
        records: list[Record] = [record for block in blocks for record in self._unstored(block)]
        records.append(FinalizedRecord(tuple(b.id for b in blocks), blocks[-1].id, certificate))
        core.persist(tuple(records), durable=False)
        abandoned = [b for b in core.blocks.values() if b not in blocks]
        for block in blocks:
            self._settle(block)
        for block in abandoned:
            core.trace("abandoned", block)
        core.tip, core.tip_since, core.certificate = blocks[-1], core.now, certificate
        core.blocks.clear()
        core.view_changes = 0
        core.wake_proposer = True
        core.replay.expire(core.tip.height)
        self.prepares.prune(core.tip.height)
        self.commits.prune(core.tip.height)
        self.proposals.forget_wanted()
        self._on_final(core.tip)
        self.proposals.retry_early()
        self.advance()

    def _settle(self, block: Block) -> None:
        core = self._core
        core.trace("finalized", block)
        core.pool.remove(block.ids)
        for id, valid_until in zip(block.ids, block.expiries, strict=True):
            core.replay.add(id, valid_until)
        if block.ids:
            core.last_carrier = block.height
            core.emit(TransactionTrace("finalized", block.ids, block.id, block.height))
        core.recent[block.id] = block
        kept = sum(b.size for b in core.recent.values())
        while len(core.recent) > 1 and (kept > RECENT_BYTES or len(core.recent) > RECENT_BLOCKS):
            _, dropped = core.recent.popitem(last=False)
            kept -= dropped.size

    # --- again ---

    def begin_view(self) -> None:
        """A view has begun: drop the blocks that it can't need, take what came early, go on."""
        core = self._core
        needed = {core.choice.block if core.choice is not None else None}
        promise = core.current_promise
        if promise is not None:
            needed |= {Digest(promise.block), Digest(promise.prepared[1]) if promise.prepared is not None else None}
        dropped = [b for b in core.blocks.values() if b.id not in needed and b.view < core.view]
        for block in dropped:
            del core.blocks[block.id]
            core.trace("abandoned", block)
        stored = tuple(block.id for block in dropped if block.persisted)
        if stored:
            core.persist((DiscardRecord(stored),), durable=False)
        self.proposals.retry_early()
        self.advance()

    def restore(self) -> None:
        """Take up this replica's own statements after a restart."""
        core = self._core
        promise = core.current_promise
        if promise is None:
            return
        height = core.next_height
        self.prepares.add(Entry(core.identity, height, promise.view, Digest(promise.block), promise.prepare))
        if promise.prepared is not None:
            view, block, raws = promise.prepared
            for raw in raws:
                statement = decode_prepare(raw)
                core.know(statement.id, statement.signature)
                self.prepares.add(Entry(statement.replica, height, view, Digest(block), raw))
            if promise.commit:
                self.commits.add(Entry(core.identity, height, view, Digest(block), promise.commit))

    def resend(self, peer: NodeId) -> None:
        """Say again to a peer what this replica has said about the next height."""
        core = self._core
        promise = core.current_promise
        if promise is None or not core.takes_part:
            return
        if promise.view == core.view and self.prepares.get(core.identity, core.next_height, core.view) is not None:
            core.emit(Send(peer, Prepares((promise.prepare,))))
        if promise.prepared is not None and self.commits.get(core.identity, core.next_height, core.view) is not None:
            core.emit(Send(peer, Votes((promise.commit,))))
