"""Blocks on their way into the tree: decoded, completed, recomputed in every part (protocol, section 4, validity)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from microchain.consensus.admission import Refused, check_form
from microchain.consensus.core import Core, compute_seed, seed_alpha
from microchain.consensus.handover import Boundary, check_handover, decode_handover
from microchain.consensus.interface import (
    BlockTrace,
    EvidenceRecord,
    JobResult,
    MerkleRoot,
    Misbehaviour,
    PerformChecks,
    VerifyProof,
    VerifySignatures,
)
from microchain.consensus.lottery import Candidate
from microchain.consensus.objects import Header, Transaction, Vote, decode_header
from microchain.consensus.pending import Pending, PendingBlocks
from microchain.consensus.state import ChainState, Checks, compute_checks, state_root
from microchain.consensus.tree import MILLISECOND, Block, epoch_of
from microchain.consensus.types import Digest, Height, NodeId, ProtocolError
from microchain.consensus.validity import (
    Untimely,
    check_header,
    check_place,
    check_size,
    check_transactions,
    check_votes,
)

__all__ = ["Intake"]

MAX_REJECTED = 1024
MAX_HELD = 1024
MAX_KEPT_PROPOSALS = 256
REQUEST_LIFETIME = 5_000 * MILLISECOND


class Intake:
    """Takes blocks in any order. Missing parents or transactions make a block incomplete, never invalid.

    A fault of the header condemns the block and all above it; a fault of the body only the copy and its sender: a body
    can be damaged on the way under an honest header, and a proposer can send another one to each peer.
    ``on_valid`` gets each block that is in the tree now; ``on_incomplete`` each that needs a parent or transactions;
    ``on_handover`` a dynasty's last block and the proof, found in a successor's first block, that it is final.
    """

    def __init__(
        self,
        core: Core,
        on_valid: Callable[[Block], None],
        on_incomplete: Callable[[Pending], None],
        on_handover: Callable[[Block, tuple[bytes, ...]], None],
    ) -> None:
        self._core = core
        self._on_handover = on_handover
        self._on_valid = on_valid
        self._on_incomplete = on_incomplete
        self.pending = PendingBlocks(core.parameters.max_block_bytes)
        self._requested: dict[Digest, int] = {}
        self._proposals: dict[tuple[Digest, NodeId, int], list[Header]] = {}
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
        """Take a whole block. ``synced``: part of a catch-up."""
        try:
            ids = tuple(check_form(self._core, raw).id for raw in transactions)
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
            check_header(core, header)
            check_size(core, ids, raws, votes)
        except Untimely:
            return
        except ProtocolError as error:
            core.emit(Misbehaviour(peer, f"block: {error}"))
            return
        if header.id in core.tree.blocks or header.id in self._rejected or header.height <= core.tree.root.height:
            return
        copy = Pending(header, peer, ids, raws, votes, synced=synced)
        known = self.pending.get(header.id)
        if known is not None:
            self._another_copy(known, copy)
        elif not self._is_surplus(copy):
            self._trace("received", copy)
            self._begin(copy)

    def _another_copy(self, known: Pending, copy: Pending) -> None:
        """A whole body takes the place of an incomplete one; else keep one spare, the proposer's own if it comes."""
        if not (copy.synced or self.pending.has_room(copy, requested=True)):
            return
        if known.stage == "incomplete" and known.absent and not copy.absent:
            copy.spare, known.spare = (known if known.peer != copy.peer else known.spare), None
            self._begin(copy)
        elif copy.peer != known.peer and (known.spare is None or copy.peer == copy.header.proposer):
            known.spare = copy

    def _begin(self, pending: Pending) -> None:
        """Check the header's signature, which is no part of the id: each copy has its own."""
        core, header = self._core, pending.header
        self.pending[header.id] = pending
        pending.stage = "signature"
        key = core.signing_key(header.proposer) or b""

        def done(results: tuple[JobResult, ...]) -> None:
            if self.pending.get(header.id) is not pending:
                return
            if results != ((True,),):
                self._discard(pending, "block header with a wrong signature")
            elif header.parent in self._rejected:
                self._reject(pending, "its parent is invalid")
            else:
                pending.stage = "incomplete"
                self._note_proposal(header)
                self.advance(pending)

        core.work((VerifySignatures(((key, header.id, header.signature),)),), done)

    def request(self, ids: Sequence[Digest]) -> None:
        """Blocks that this node asks for are no surplus when they come within five seconds."""
        until = self._core.now + REQUEST_LIFETIME
        self._requested.update(dict.fromkeys(ids, until))

    def forget_requests(self) -> None:
        """Drop the requests whose time is over."""
        self._requested = {id: until for id, until in self._requested.items() if until > self._core.now}

    def _is_surplus(self, copy: Pending) -> bool:
        """Two blocks for each (parent, proposer), and as much as a peer may have here; a catch-up is bounded apart."""
        header = copy.header
        if copy.synced:
            return False
        requested = header.id in self._requested
        if not self.pending.has_room(copy, requested=requested):
            return True
        noted = self._proposals.get((header.parent, header.proposer, header.dynasty), ())
        return not requested and len(noted) >= 2 and all(other.id != header.id for other in noted)

    def _note_proposal(self, header: Header) -> None:
        proposals = self._proposals.setdefault((header.parent, header.proposer, header.dynasty), [])
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

    def supply(self, peer: NodeId, transactions: Sequence[bytes]) -> list[bytes]:
        """Fill fetched transactions into the blocks that miss them; return those that no block asked for."""
        waiting = [p for p in self.pending.values() if p.stage == "incomplete" and p.absent]
        if not waiting:
            return list(transactions)
        unused = []
        filled: dict[Digest, Pending] = {}
        for raw in transactions:
            try:
                id = check_form(self._core, raw).id
            except Refused:
                unused.append(raw)
                continue
            takers = [pending for pending in waiting if id in pending.absent]
            for pending in takers:
                pending.fill(id, raw, peer)
                filled[pending.header.id] = pending
            if not takers:
                unused.append(raw)
        for pending in filled.values():
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
        for id in pending.missing():
            entry = core.pool.get(id)
            if entry is not None:
                pending.fill(id, entry.raw)
        if pending.suppliers and pending.body > core.parameters.max_block_bytes:
            for at in list(
                pending.suppliers
            ):  # With signatures of another length; the sender of the block can't help it.
                pending.remove(at)
        if pending.absent:
            self._go_on_incomplete(pending)
            return
        if not self._is_handed_over(pending, parent):
            return
        try:
            candidate = check_place(core, pending.header, parent)
        except ProtocolError as error:
            self._reject(pending, str(error))
            return
        if self._holds_enough_of(pending.header.proposer):
            self._drop(pending)
            return
        try:
            votes = check_votes(core, pending, parent)
            expiries, unverified, system = check_transactions(core, pending, parent)
            checks = compute_checks(parent.chain, system)
            chain = core.chain_after(parent, pending.header.proposer, system, votes)
        except ProtocolError as error:
            self._fault(pending, str(error))
            return
        self._validate(pending, parent, candidate, votes, expiries, unverified, system, checks, chain)

    def _is_handed_over(self, pending: Pending, parent: Block) -> bool:
        """Whether the block, if it is a dynasty's first one, is known to prove that the parent, L, is final.

        Else that is checked, and the block goes on when it is. A proof that holds counts, whatever else the block is.
        """
        core, header, boundary = self._core, pending.header, self._core.boundary
        if parent.is_boundary and header.dynasty == core.dynasty + 1:
            boundary = Boundary(parent.id, parent.height, core.dynasty, core.committee)
        elif boundary is None or parent is not core.tree.root or pending.votes in (core.certificate, pending.proof):
            return True
        try:
            handover = decode_handover(pending.votes)
            items = check_handover(handover, boundary, core.chain_id, core.parameters)
        except ProtocolError as error:
            self._fault(pending, str(error))
            return False
        pending.stage = "handover"

        def done(results: tuple[JobResult, ...]) -> None:
            (verdicts,) = results
            assert isinstance(verdicts, tuple)
            if self.pending.get(header.id) is not pending:
                return
            if not all(verdicts):
                self._fault(pending, "a hand-over with a wrong signature")
                return
            pending.stage, pending.proof = "incomplete", pending.votes
            last = core.tree.blocks.get(header.parent)
            if last is not None and last.is_boundary:
                self._on_handover(last, pending.votes)
            self.advance(pending)

        core.work((VerifySignatures(items),), done)
        return False

    def _holds_enough_of(self, proposer: NodeId) -> bool:
        """Whether the tree is full of a proposer's held blocks: a private chain is valid and may be of any length."""
        blocks, now = self._core.tree.blocks, self._core.now
        if len(blocks) <= MAX_HELD:
            return False
        return sum(block.proposer == proposer and block.release > now for block in blocks.values()) >= MAX_HELD

    def _go_on_incomplete(self, pending: Pending) -> None:
        """Take the spare copy if that is whole; else have what is missing fetched."""
        spare = pending.spare
        if spare is None or spare.absent:
            self._on_incomplete(pending)
            return
        pending.spare, spare.spare = None, pending
        self._begin(spare)

    def _unknown_votes(self, votes: Sequence[Vote]) -> list[tuple[bytes, bytes, bytes]]:
        core = self._core
        return [
            (core.committee.by_id[vote.voter].signing_key, vote.id, vote.signature)
            for vote in votes
            if not core.book.knows(vote)
        ]

    def _validate(
        self,
        pending: Pending,
        parent: Block,
        candidate: Candidate,
        votes: tuple[Vote, ...],
        expiries: tuple[int, ...],
        unverified: dict[int, tuple[bytes, bytes, bytes]],
        system: tuple[Transaction, ...],
        checks: Checks,
        chain: ChainState,
    ) -> None:
        core, header = self._core, pending.header
        pending.stage = "verifying"

        def done(results: tuple[JobResult, ...]) -> None:
            if self.pending.get(header.id) is not pending:
                return
            output, tx_root, votes_root, verdicts, *checked = results
            assert isinstance(verdicts, tuple)
            tx_root = parent.closes or tx_root
            if output is None:
                self._reject(pending, "wrong seed proof")
            elif tx_root != header.body.tx_root or votes_root != header.body.votes_root:
                self._fault(pending, "a root does not match its body")
            elif not all(checked):
                self._reject(pending, "a transaction of the protocol's own kinds proves nothing")
            elif state_root(chain) != header.body.state_root:
                self._reject(pending, "wrong state root")
            elif not all(verdicts):
                self._wrong_signatures(pending, [at for at, valid in zip(places, verdicts, strict=True) if not valid])
            elif core.tree.blocks.get(header.parent) is parent and header.dynasty == core.dynasty:
                assert isinstance(output, bytes)
                self._insert(pending, parent, candidate, votes, expiries, system, chain, compute_seed(output))
            else:
                self._drop(pending)

        votes_to_check = self._unknown_votes(votes)
        places: list[int | None] = [*unverified, *(None for _ in votes_to_check)]
        jobs = (
            VerifyProof(candidate.member.vrf_key, seed_alpha(parent.state.seed, header.slot), header.body.seed_proof),
            MerkleRoot(pending.ids),
            MerkleRoot(pending.votes),
            VerifySignatures((*unverified.values(), *votes_to_check)),
            *((PerformChecks(checks),) if checks else ()),
        )
        core.work(jobs, done)

    def _insert(
        self,
        pending: Pending,
        parent: Block,
        candidate: Candidate,
        votes: tuple[Vote, ...],
        expiries: tuple[int, ...],
        system: tuple[Transaction, ...],
        chain: ChainState,
        seed: Digest,
    ) -> None:
        core, header = self._core, pending.header
        epoch = core.checkpoint_epoch(header.height)
        state = parent.state.extend(header.id, epoch, seed, votes, core.committee)
        block = core.make_block(
            header=header.raw, id=header.id, parent=parent, candidate=candidate, state=state, chain=chain
        )
        raws = tuple(raw for raw in pending.raws if raw is not None)
        block.set_body(raws, pending.ids, expiries, votes, pending.votes if not votes else (), system)
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

    def _wrong_signatures(self, pending: Pending, places: Sequence[int | None]) -> None:
        """Whoever supplied a damaged transaction is to blame for it, and it is fetched again."""
        if any(at is None or at not in pending.suppliers for at in places):
            self._fault(pending, "a signature in its body is wrong")
            return
        for supplier in {pending.remove(at) for at in places if at is not None}:
            self._core.emit(Misbehaviour(supplier, "supplied a transaction with a wrong signature"))
        pending.stage = "incomplete"
        self.advance(pending)

    def _reject(self, pending: Pending, reason: str) -> None:
        """The header is wrong, and so is every block on top of it."""
        condemned = [pending]
        for block in condemned:
            self._rejected[block.header.id] = None
            self._trace("rejected", block, reason)
            self._drop(block)
            self._core.emit(Misbehaviour(block.peer, f"invalid block: {reason}"))
            above = [p for p in self.pending.values() if p.header.parent == block.header.id]
            condemned += [p for p in above if p.stage != "signature"]
        while len(self._rejected) > MAX_REJECTED:
            self._rejected.popitem(last=False)

    def _fault(self, pending: Pending, reason: str) -> None:
        """The body is wrong: another copy may be right."""
        self._trace("rejected", pending, reason)
        self._discard(pending, f"block with a bad body: {reason}")

    def _discard(self, pending: Pending, reason: str) -> None:
        """Drop a damaged copy and go on with the spare, if there is one."""
        self._drop(pending)
        self._core.emit(Misbehaviour(pending.peer, reason))
        if pending.spare is not None:
            self._begin(pending.spare)

    def _drop(self, pending: Pending) -> None:
        self.pending.pop(pending.header.id, None)

    def end_sync(self) -> None:
        """What a catch-up left behind has no parent here and never gets one."""
        for pending in [p for p in self.pending.values() if p.synced]:
            self._drop(pending)

    def forget_below(self, height: Height) -> None:
        """Drop what can't be in the tree any more."""
        dynasty = self._core.dynasty
        for pending in [p for p in self.pending.values() if p.header.height <= height or p.header.dynasty < dynasty]:
            self._drop(pending)
        if len(self._proposals) > MAX_KEPT_PROPOSALS:
            blocks = self._core.tree.blocks
            self._proposals = {
                key: headers
                for key, headers in self._proposals.items()
                if key[0] in blocks or any(header.id in self.pending for header in headers)
            }

    def _trace(self, event: str, pending: Pending, detail: str = "") -> None:
        header = pending.header
        epoch = epoch_of(header.height, self._core.parameters)
        self._core.emit(
            BlockTrace(
                event,  # type: ignore[arg-type]
                header.id,
                header.height,
                header.slot,
                epoch,
                header.proposer,
                pending.body,
                len(pending.ids),
                detail,
            )
        )
