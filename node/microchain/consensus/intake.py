"""Blocks on their way into the tree: decoded, completed, recomputed in every part (protocol, section 4, validity)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from microchain.consensus.admission import Refused, check_transaction
from microchain.consensus.core import EMPTY_STATE_ROOT, FIRST_DYNASTY, Core, compute_seed, seed_alpha
from microchain.consensus.interface import (
    BlockTrace,
    EvidenceRecord,
    JobResult,
    MerkleRoot,
    Misbehaviour,
    VerifyProof,
    VerifySignatures,
)
from microchain.consensus.lottery import Candidate
from microchain.consensus.objects import Header, Vote, decode_header, decode_vote
from microchain.consensus.tree import Block, epoch_of
from microchain.consensus.types import Digest, Height, NodeId, ProtocolError

__all__ = ["Intake", "Pending"]

MAX_PENDING_FROM_PEER = 64
MAX_REJECTED = 1024
MAX_AHEAD = 1 << 20


class Pending:
    """A block that is not in the tree yet. ``raws[i]`` is None while transaction i is missing."""

    __slots__ = ("asked_at", "attempts", "header", "ids", "peer", "raws", "stage", "synced", "votes")

    def __init__(
        self,
        header: Header,
        peer: NodeId,
        ids: tuple[Digest, ...],
        raws: list[bytes | None],
        votes: tuple[bytes, ...],
        *,
        synced: bool,
    ) -> None:
        self.header, self.peer, self.ids, self.raws, self.votes, self.synced = header, peer, ids, raws, votes, synced
        self.stage = "signature"
        self.asked_at = 0
        self.attempts = 0

    def missing(self) -> tuple[Digest, ...]:
        """The ids of the transactions that are still missing."""
        return tuple(id for id, raw in zip(self.ids, self.raws, strict=True) if raw is None)


class Intake:
    """Takes blocks in any order. Missing parents or transactions make a block incomplete, never invalid.

    A fault of the header condemns the block; a fault of the body only the peer that sent it, since a body can be
    damaged on the way under an honest header, unless the proposer itself sent it.
    ``on_valid`` gets each block that is in the tree now; ``on_incomplete`` each that needs a parent or transactions.
    """

    def __init__(self, core: Core, on_valid: Callable[[Block], None], on_incomplete: Callable[[Pending], None]) -> None:
        self._core = core
        self._on_valid = on_valid
        self._on_incomplete = on_incomplete
        self.pending: dict[Digest, Pending] = {}
        self.requested: set[Digest] = set()
        self._from_peer: dict[NodeId, int] = {}
        self._proposals: dict[tuple[Digest, NodeId], list[Header]] = {}
        self._rejected: OrderedDict[Digest, None] = OrderedDict()

    # --- arrival ---

    def compact(self, peer: NodeId, header: bytes, ids: Sequence[bytes], votes: tuple[bytes, ...]) -> None:
        """Take a block by its transaction ids; what the pool has is filled in."""
        digests = tuple(Digest(id) for id in ids)
        raws: list[bytes | None] = []
        for id in digests:
            entry = self._core.pool.get(id)
            raws.append(entry.raw if entry is not None else None)
        self._receive(peer, header, digests, raws, votes, synced=False)

    def full(
        self, peer: NodeId, header: bytes, transactions: Sequence[bytes], votes: tuple[bytes, ...], *, synced: bool
    ) -> None:
        """Take a whole block. ``synced``: finalized elsewhere, so it is not held."""
        try:
            ids = tuple(check_transaction(self._core, raw).id for raw in transactions)
        except Refused as refused:
            self._core.emit(Misbehaviour(peer, f"block with a bad transaction: {refused}"))
            return
        self._receive(peer, header, ids, list(transactions), votes, synced=synced)

    def _receive(
        self,
        peer: NodeId,
        raw_header: bytes,
        ids: tuple[Digest, ...],
        raws: list[bytes | None],
        votes: tuple[bytes, ...],
        *,
        synced: bool,
    ) -> None:
        core = self._core
        try:
            header = decode_header(raw_header)
            self._check_header(header)
        except ProtocolError as error:
            core.emit(Misbehaviour(peer, f"block header: {error}"))
            return
        if header.id in core.tree.blocks or header.id in self._rejected or header.height <= core.tree.root.height:
            return
        known = self.pending.get(header.id)
        if known is not None:
            self._complete(known, peer, ids, raws, votes)
            return
        if self._is_surplus(peer, header, synced=synced):
            return
        pending = Pending(header, peer, ids, raws, votes, synced=synced)
        self.pending[header.id] = pending
        self._from_peer[peer] = self._from_peer.get(peer, 0) + 1
        self._trace("received", pending)
        key = core.committee.by_id[header.proposer].signing_key

        def done(results: tuple[JobResult, ...]) -> None:
            if self.pending.get(header.id) is not pending:
                return
            if results != ((True,),):
                self._drop(pending)
                core.emit(Misbehaviour(pending.peer, "block header with a wrong signature"))
                return
            pending.stage = "incomplete"
            self._note_proposal(header)
            self.advance(pending)

        core.work((VerifySignatures(((key, header.id, header.signature),)),), done)

    def _check_header(self, header: Header) -> None:
        core, body = self._core, header.body
        if body.chain_id != core.chain_id:
            raise ProtocolError("of another chain")
        if body.dynasty != FIRST_DYNASTY or body.committee_root != core.committee.root:
            raise ProtocolError("of another dynasty or committee")
        if header.proposer not in core.committee.by_id:
            raise ProtocolError("the proposer is no member")
        if body.state_root != EMPTY_STATE_ROOT:
            raise ProtocolError("wrong state root")
        if header.height > core.tree.root.height + MAX_AHEAD:
            raise ProtocolError(f"height {header.height} is absurd")

    def _is_surplus(self, peer: NodeId, header: Header, *, synced: bool) -> bool:
        """Bounds: two blocks for each (parent, proposer), 64 pending for each peer; what was asked for is exempt."""
        if header.id in self.requested or synced:
            return False
        if self._from_peer.get(peer, 0) >= MAX_PENDING_FROM_PEER:
            return True
        return len(self._proposals.get((header.parent, header.proposer), ())) >= 2

    def _note_proposal(self, header: Header) -> None:
        proposals = self._proposals.setdefault((header.parent, header.proposer), [])
        for other in proposals:
            if other.id == header.id:
                return
            if other.slot == header.slot:
                self._core.record_evidence(EvidenceRecord("double-proposal", header.proposer, other.raw, header.raw))
        if len(proposals) < 2:
            proposals.append(header)

    def note_own(self, block: Block) -> None:
        """Remember this node's own proposal like any other."""
        self._note_proposal(decode_header(block.header))

    def _complete(
        self,
        pending: Pending,
        peer: NodeId,
        ids: tuple[Digest, ...],
        raws: list[bytes | None],
        votes: tuple[bytes, ...],
    ) -> None:
        """Another copy of a block that is still incomplete: take a whole body in place of an incomplete one."""
        if pending.stage == "incomplete" and None not in raws and pending.missing():
            pending.ids, pending.raws, pending.votes = ids, raws, votes
            pending.peer = peer
            self.advance(pending)

    def supply(self, transactions: Sequence[bytes]) -> list[bytes]:
        """Fill fetched transactions into the blocks that miss them; return those that no block asked for."""
        waiting = [p for p in self.pending.values() if p.stage == "incomplete" and None in p.raws]
        if not waiting:
            return list(transactions)
        unused = []
        arrived: dict[Digest, bytes] = {}
        wanted = {id for pending in waiting for id in pending.missing()}
        for raw in transactions:
            try:
                id = check_transaction(self._core, raw).id
            except Refused:
                id = None
            if id in wanted and id is not None:
                arrived[id] = raw
            else:
                unused.append(raw)
        for pending in waiting if arrived else ():
            pending.raws = [
                raw if raw is not None else arrived.get(id) for id, raw in zip(pending.ids, pending.raws, strict=True)
            ]
            self.advance(pending)
        return unused

    # --- completion and validation ---

    def advance(self, pending: Pending) -> None:
        """Validate a block if its parent and transactions are here; else have them fetched."""
        core = self._core
        if pending.stage != "incomplete" or self.pending.get(pending.header.id) is not pending:
            return
        parent = core.tree.blocks.get(pending.header.parent)
        if parent is None:
            if pending.header.parent not in self.pending:
                self._on_incomplete(pending)
            return
        if None in pending.raws:
            for position, id in enumerate(pending.ids):
                if pending.raws[position] is None:
                    entry = core.pool.get(id)
                    pending.raws[position] = entry.raw if entry is not None else None
            if None in pending.raws:
                self._on_incomplete(pending)
                return
        try:
            candidate = self._check_place(pending.header, parent)
        except ProtocolError as error:
            self._reject(pending, str(error))
            return
        try:
            votes = self._check_votes(pending, parent)
            expiries, items = self._check_transactions(pending, parent)
        except ProtocolError as error:
            self._fault(pending, str(error))
            return
        items += self._unknown_votes(votes)
        self._validate(pending, parent, candidate, votes, expiries, items)

    def _check_place(self, header: Header, parent: Block) -> Candidate:
        if header.height != parent.height + 1:
            raise ProtocolError(f"height {header.height} after a parent of height {parent.height}")
        candidate = parent.lottery.winner(header.proposer, header.slot)
        if candidate is None:
            raise ProtocolError(f"slot {header.slot} is not its proposer's first winning slot")
        return candidate

    def _check_votes(self, pending: Pending, parent: Block) -> tuple[Vote, ...]:
        votes = tuple(decode_vote(raw) for raw in pending.votes)
        parent.state.check_votes(votes, self._core.committee, self._core.chain_id)
        if any(vote.body.dynasty != FIRST_DYNASTY for vote in votes):
            raise ProtocolError("a contained vote is of another dynasty")
        return votes

    def _unknown_votes(self, votes: Sequence[Vote]) -> list[tuple[bytes, bytes, bytes]]:
        core = self._core
        return [
            (core.committee.by_id[vote.voter].signing_key, vote.id, vote.signature)
            for vote in votes
            if not core.book.knows(vote)
        ]

    def _check_transactions(
        self, pending: Pending, parent: Block
    ) -> tuple[tuple[int, ...], list[tuple[bytes, bytes, bytes]]]:
        """Return each transaction's valid_until, and what of signatures is still to be checked."""
        core = self._core
        height, limit = pending.header.height, core.parameters.max_block_bytes
        if sum(len(raw) for raw in pending.raws if raw) > limit:
            raise ProtocolError(f"the transactions have more than {limit} bytes")
        if len(set(pending.ids)) != len(pending.ids):
            raise ProtocolError("a transaction is in the block twice")
        expiries: list[int] = []
        items: list[tuple[bytes, bytes, bytes]] = []
        for id, raw in zip(pending.ids, pending.raws, strict=True):
            assert raw is not None
            entry = core.pool.get(id)
            if entry is not None and (entry.raw is raw or entry.raw == raw):
                valid_until = entry.valid_until
            else:
                transaction = self._decode(raw)
                valid_until = transaction[0]
                items.append(transaction[1])
            if not height <= valid_until <= height + core.parameters.max_validity:
                raise ProtocolError(f"a transaction valid until {valid_until} in a block of height {height}")
            expiries.append(valid_until)
        self._check_repeats(pending.ids, expiries, parent)
        return tuple(expiries), items

    def _decode(self, raw: bytes) -> tuple[int, tuple[bytes, bytes, bytes]]:
        try:
            transaction = check_transaction(self._core, raw)
        except Refused as refused:
            raise ProtocolError(str(refused)) from None
        key = self._core.senders[NodeId(transaction.body.sender)]
        return transaction.body.valid_until, (key, transaction.id, transaction.signature)

    def _check_repeats(self, ids: Sequence[Digest], expiries: Sequence[int], parent: Block) -> None:
        core = self._core
        branch = [block.id_set for block in core.tree.ancestors(parent) if block is not core.tree.root and block.id_set]
        for id, valid_until in zip(ids, expiries, strict=True):
            if core.replay.contains(id, valid_until) or any(id in earlier for earlier in branch):
                raise ProtocolError("a transaction is in the chain already")

    def _validate(
        self,
        pending: Pending,
        parent: Block,
        candidate: Candidate,
        votes: tuple[Vote, ...],
        expiries: tuple[int, ...],
        items: list[tuple[bytes, bytes, bytes]],
    ) -> None:
        core, header = self._core, pending.header
        pending.stage = "verifying"

        def done(results: tuple[JobResult, ...]) -> None:
            if self.pending.get(header.id) is not pending:
                return
            output, tx_root, votes_root, verdicts = results
            assert isinstance(verdicts, tuple)
            if output is None:
                self._reject(pending, "wrong seed proof")
            elif tx_root != header.body.tx_root or votes_root != header.body.votes_root or not all(verdicts):
                self._fault(pending, "a root or a signature in its body is wrong")
            elif header.parent in core.tree.blocks:
                assert isinstance(output, bytes)
                self._insert(pending, parent, candidate, votes, expiries, compute_seed(output))
            else:
                self._drop(pending)

        jobs = (
            VerifyProof(candidate.member.vrf_key, seed_alpha(parent.state.seed, header.slot), header.body.seed_proof),
            MerkleRoot(pending.ids),
            MerkleRoot(pending.votes),
            VerifySignatures(tuple(items)),
        )
        core.work(jobs, done)

    def _insert(
        self,
        pending: Pending,
        parent: Block,
        candidate: Candidate,
        votes: tuple[Vote, ...],
        expiries: tuple[int, ...],
        seed: Digest,
    ) -> None:
        core, header = self._core, pending.header
        epoch = core.checkpoint_epoch(header.height)
        state = parent.state.extend(header.id, epoch, seed, votes, core.committee)
        block = core.make_block(header=header.raw, id=header.id, parent=parent, candidate=candidate, state=state)
        raws = tuple(raw for raw in pending.raws if raw is not None)
        block.set_body(raws, pending.ids, expiries, votes)
        block.synced = pending.synced
        self._drop(pending)
        core.tree.insert(block)
        core.trace("verified", block)
        self._on_valid(block)
        self.parent_arrived(header.id)

    def parent_arrived(self, id: Digest) -> None:
        """Go on with the blocks that waited for this parent."""
        for child in [p for p in self.pending.values() if p.header.parent == id]:
            self.advance(child)

    # --- leaving ---

    def _reject(self, pending: Pending, reason: str) -> None:
        """The header is wrong, and so is every block on top of it."""
        self._rejected[pending.header.id] = None
        while len(self._rejected) > MAX_REJECTED:
            self._rejected.popitem(last=False)
        self._trace("rejected", pending, reason)
        self._drop(pending)
        self._core.emit(Misbehaviour(pending.peer, f"invalid block: {reason}"))

    def _fault(self, pending: Pending, reason: str) -> None:
        """The body is wrong: condemn the block only if its proposer sent it, else fetch it from somebody else."""
        if pending.peer == pending.header.proposer:
            self._reject(pending, reason)
            return
        self._trace("rejected", pending, reason)
        self._drop(pending)
        self._core.emit(Misbehaviour(pending.peer, f"block with a bad body: {reason}"))

    def _drop(self, pending: Pending) -> None:
        self.pending.pop(pending.header.id, None)
        self.requested.discard(pending.header.id)
        left = self._from_peer.get(pending.peer, 0) - 1
        if left > 0:
            self._from_peer[pending.peer] = left
        else:
            self._from_peer.pop(pending.peer, None)

    def forget_below(self, height: Height) -> None:
        """Drop what can't be in the tree any more."""
        for pending in [p for p in self.pending.values() if p.header.height <= height]:
            self._drop(pending)
        if len(self._proposals) > 4 * MAX_PENDING_FROM_PEER:
            self._proposals = {key: hs for key, hs in self._proposals.items() if hs[0].height > height}

    def _trace(self, event: str, pending: Pending, detail: str = "") -> None:
        header = pending.header
        size = sum(len(raw) for raw in pending.raws if raw)
        epoch = epoch_of(header.height, self._core.parameters)
        self._core.emit(
            BlockTrace(
                event,  # type: ignore[arg-type]
                header.id,
                header.height,
                header.slot,
                epoch,
                header.proposer,
                size,
                len(pending.ids),
                detail,
            )
        )
