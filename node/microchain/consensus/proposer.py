"""When this node proposes a block, and how it builds one (protocol, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from microchain.consensus.core import Core, compute_seed, seed_alpha
from microchain.consensus.finality import Finality
from microchain.consensus.interface import Broadcast, DiscardRecord, JobResult, MerkleRoot, PerformChecks, Prove, Sign
from microchain.consensus.lottery import Candidate
from microchain.consensus.messages import MAX_IDS, CompactBlock, FullBlock
from microchain.consensus.objects import HEADER_TAG, VERSION, HeaderBody, Transaction, Vote, encode_body, seal
from microchain.consensus.pool import PoolEntry
from microchain.consensus.state import Checks, compute_checks, select_transactions, state_root
from microchain.consensus.tree import MILLISECOND, Block
from microchain.consensus.types import Digest, Height, Nanoseconds, TransactionKind
from microchain.crypto.hashing import tagged_hash

__all__ = ["Proposer", "announce"]

SECOND = 1_000 * MILLISECOND
DISCONNECTED_WAIT = 30 * SECOND
STALL_WAIT = SECOND // 4
MAX_STALL_WAIT = 4 * SECOND

Content = list[tuple[Digest, PoolEntry]]


def announce(core: Core, block: Block) -> CompactBlock | FullBlock:
    """Return the message that relays a block."""
    if core.parameters.relay == "full":
        return FullBlock(block.header, block.transactions, block.raw_votes)
    return CompactBlock(block.header, block.transaction_ids, block.raw_votes)


class Proposer:
    """Decides at every event whether it is this node's turn on the head; one proposal for each parent and dynasty."""

    def __init__(self, core: Core, finality: Finality, on_proposed: Callable[[Block], None]) -> None:
        self._core = core
        self._finality = finality
        self._on_proposed = on_proposed
        self.proposed_on: set[Digest] = set()
        """The parents in the tree that this node proposed on, in this dynasty."""
        self._busy = False
        self._timer: Nanoseconds | None = None
        self._work_since: Nanoseconds | None = None
        self._released_above: Height | None = None
        self._disconnected_since: Nanoseconds | None = None

    def release(self, above: Height | None) -> None:
        """Allow pooled transactions into one block above a height."""
        height = self._core.head.height if above is None else above
        if self._finality.last_carrier <= height:
            self._released_above = height

    def reconsider(self) -> None:
        """Propose if it is time; else have a timer set for when it may be."""
        core = self._core
        parent = core.head
        since = self._something_since()
        if self._busy or parent.id in self.proposed_on or self._is_extended(parent):
            return
        assert parent.adopted_at is not None
        if since is not None:
            base = max(parent.adopted_at, since)
        elif parent.height:
            base = Nanoseconds(parent.adopted_at + core.parameters.idle_interval_ms * MILLISECOND)
        else:
            return
        turn = self._turn(parent, Nanoseconds(base + core.parameters.block_interval_ms * MILLISECOND))
        if isinstance(turn, Candidate):
            self._propose(parent, turn)
        elif turn is not None and turn != self._timer:
            self._timer = turn
            core.set_timer("propose", turn)

    def timer_fired(self) -> None:
        self._timer = None

    def _turn(self, parent: Block, base: Nanoseconds) -> Candidate | Nanoseconds | None:
        """Return this node's candidacy if its time has come, else when to look again."""
        core = self._core
        timeout = core.tree.slot_timeout(parent)
        behind = parent.epoch - parent.state.finalized_epoch
        for position in range(len(core.committee.members)):
            candidate = parent.lottery.candidate(position)
            if candidate is None:
                return None
            due = base + candidate.rank * timeout
            if candidate.rank == 0 and behind > core.parameters.stall_epochs:
                due += min(MAX_STALL_WAIT, STALL_WAIT << min(8, behind - core.parameters.stall_epochs))
            if candidate.member.id == core.identity:
                at = Nanoseconds(max(due, self._not_before(parent, timeout)))
                return candidate if at <= core.now else at
            if due > core.now:
                return Nanoseconds(due)
        return None

    def _not_before(self, parent: Block, timeout: Nanoseconds) -> int:
        """Wait for the parent's justification at most Δ/2, and for lost links at most 30 s."""
        core = self._core
        assert parent.adopted_at is not None
        not_before = 0
        if parent.checkpoint and not parent.justified:
            not_before = parent.adopted_at + timeout // 2
        if core.committee.is_supermajority(core.connected_mask()):
            self._disconnected_since = None
        else:
            if self._disconnected_since is None:
                self._disconnected_since = core.now
            not_before = max(not_before, self._disconnected_since + DISCONNECTED_WAIT)
        return not_before

    def _is_extended(self, parent: Block) -> bool:
        """Whether somebody's usable block makes another one on this parent needless; eager winners don't ask.

        A block that is still held does not count, or the last candidate could silence all others by being early.
        """
        core = self._core
        if all(child.release > core.now for child in core.tree.children.get(parent.id, ())):
            return False
        if core.parameters.proposal == "ranked":
            return True
        mine = parent.lottery.of_member(core.identity, len(core.committee.members))
        return mine is None or mine.rank > 0

    def _something_since(self) -> Nanoseconds | None:
        """Since when there has been something to propose, without a break."""
        core = self._core
        if self._released_above is not None and self._finality.last_carrier > self._released_above:
            self._released_above = None
        unfinished = core.head.closes or any(
            b.data_ids for b in core.tree.ancestors(core.head) if b is not core.tree.root
        )
        if unfinished or self._may_carry(waiting=True):
            if self._work_since is None:
                self._work_since = core.now
        else:
            self._work_since = None
        return self._work_since

    def _may_carry(self, *, waiting: bool) -> bool:
        """Whether pooled transactions may be proposed; ``waiting``: whether they are worth a block of their own."""
        core = self._core
        if not core.pool.pending:
            return False
        if core.parameters.propose == "release":
            return self._released_above is not None
        return not waiting or core.pool.pending_bytes >= core.parameters.propose_at_bytes

    # --- building ---

    def _propose(self, parent: Block, candidate: Candidate) -> None:
        core = self._core
        self._busy = True
        height = Height(parent.height + 1)
        content: Content = []
        carries = parent.closes is None and self._may_carry(waiting=False)
        # A released block holds what the operator measures and nothing else.
        is_measured = carries and core.parameters.propose == "release"
        system, room, checks = (
            ((), core.parameters.max_block_bytes, Checks()) if is_measured else self._select_system(parent)
        )
        if carries:
            content = list(core.pool.select(height, room, MAX_IDS - len(system)))
        content = [*((transaction.id, core.pool.system[transaction.id]) for transaction in system), *content]
        votes = self._new_votes(parent)
        handover = core.certificate if core.boundary is not None and parent is core.tree.root else ()
        dynasty = core.dynasty
        jobs = (
            Prove(seed_alpha(parent.state.seed, candidate.slot)),
            MerkleRoot(tuple(id for id, _ in content)),
            MerkleRoot(handover or tuple(vote.raw for vote in votes)),
            PerformChecks(checks),
        )

        def done(results: tuple[JobResult, ...]) -> None:
            if core.head is not parent or core.dynasty != dynasty or self._is_extended(parent):
                self._busy = False
                core.wake_proposer = True
                return
            if not results[-1]:
                # Taken for good on another branch, or in another dynasty.
                core.pool.remove([transaction.id for transaction in system])
                self._busy = False
                core.wake_proposer = True
                return
            self._sign(parent, *self._build(parent, candidate, content, system, votes, handover, results))

        core.work(jobs, done)

    def _select_system(self, parent: Block) -> tuple[tuple[Transaction, ...], int, Checks]:
        """Return the protocol's own transactions for a child of ``parent``, the bytes left, what must be checked."""
        core = self._core
        room = core.parameters.max_block_bytes
        if parent.closes is not None or not core.pool.system:
            return (), room, Checks()
        waiting = [e.system for e in core.pool.system.values() if e.system and e.valid_until > parent.height]
        # Evidence can wait; of it there may be much, and a dynasty's windows end.
        waiting.sort(key=lambda transaction: transaction.body.kind == TransactionKind.EVIDENCE)
        selected = []
        for transaction in select_transactions(parent.chain, core.next_context(parent, core.identity), waiting):
            if len(transaction.raw) <= room:
                room -= len(transaction.raw)
                selected.append(transaction)
        return tuple(selected), room, compute_checks(parent.chain, selected)

    def _new_votes(self, parent: Block) -> list[Vote]:
        """All known votes that a child of ``parent`` may contain."""
        core = self._core
        votes = []
        for target, entry in parent.state.open.items():
            for vote in core.book.for_target(Digest(target)).values():
                known = entry.mask >> core.committee.by_id[vote.voter].index & 1
                body = vote.body
                matches = (body.source, body.source_epoch, body.target_epoch) == (
                    entry.source,
                    entry.source_epoch,
                    entry.epoch,
                )
                if matches and not known:
                    votes.append(vote)
        return votes

    def _build(
        self,
        parent: Block,
        candidate: Candidate,
        content: Content,
        system: tuple[Transaction, ...],
        votes: list[Vote],
        handover: tuple[bytes, ...],
        results: Sequence[JobResult],
    ) -> tuple[Block, bytes]:
        """Return the block, without its header's signature, and the header's signed bytes."""
        core = self._core
        proven, tx_root, votes_root, _ = results
        assert isinstance(proven, tuple) and isinstance(tx_root, bytes) and isinstance(votes_root, bytes)
        proof, output = proven
        assert isinstance(proof, bytes) and isinstance(output, bytes)
        chain = core.chain_after(parent, core.identity, system, votes)
        body = HeaderBody(
            VERSION,
            core.chain_id,
            parent.height + 1,
            candidate.slot,
            parent.id,
            core.dynasty,
            parent.closes or tx_root,
            votes_root,
            state_root(chain),
            core.committee.root,
            core.identity,
            proof,
            core.now,
        )
        signed = encode_body(body)
        id = tagged_hash(HEADER_TAG, signed)
        epoch = core.checkpoint_epoch(parent.height + 1)
        state = parent.state.extend(id, epoch, compute_seed(output), votes, core.committee)
        block = core.make_block(header=b"", id=id, parent=parent, candidate=candidate, state=state, chain=chain)
        block.set_body(
            tuple(entry.raw for _, entry in content),
            tuple(tx_id for tx_id, _ in content),
            tuple(entry.valid_until for _, entry in content),
            tuple(votes),
            handover,
            system,
        )
        block.own = block.persisted = True
        return block, signed

    def _sign(self, parent: Block, block: Block, signed: bytes) -> None:
        core = self._core
        core.trace("proposed", block)
        self.proposed_on.add(parent.id)
        dynasty = core.dynasty

        def done(results: tuple[JobResult, ...]) -> None:
            (signature,) = results
            assert isinstance(signature, bytes)
            block.header = seal(signed, signature)
            # With its ancestors: a proposal that a restart can't place would be forgotten, and made a second time.
            core.persist((*core.take_unstored(parent), block.record()), durable=True, then=stored)

        def stored() -> None:
            self._busy = False
            core.wake_proposer = True
            if core.dynasty == dynasty:
                core.emit(Broadcast(announce(core, block)))
            if block.parent in core.tree.blocks and core.dynasty == dynasty:
                self._on_proposed(block)
            else:
                core.persist((DiscardRecord((block.id,)),), durable=False)

        core.work((Sign(block.id),), done)

    def forget_below(self) -> None:
        """Parents that are not in the tree any more can't be extended."""
        self.proposed_on &= self._core.tree.blocks.keys()

    def begin_dynasty(self) -> None:
        """On the parent of a dynasty's first block this node may have proposed a closing block before."""
        self.proposed_on.clear()
