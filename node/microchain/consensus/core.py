"""What the parts of the Microchain engine share: parameters, the tree, pool and votes, and the list of actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from microchain.consensus.branch import BranchState
from microchain.consensus.genesis import Committee, Genesis, Member
from microchain.consensus.handover import Boundary
from microchain.consensus.interface import (
    Action,
    BlockRecord,
    BlockTrace,
    EvidenceRecord,
    Job,
    JobResult,
    Persist,
    Record,
    Restored,
    SetTimer,
    Work,
)
from microchain.consensus.kept import decode_kept
from microchain.consensus.lottery import Candidate, Lottery
from microchain.consensus.objects import Transaction, Vote, decode_header
from microchain.consensus.pool import Pool
from microchain.consensus.replay import ReplayIndex
from microchain.consensus.state import (
    BlockContext,
    ChainState,
    apply_block,
    genesis_state,
    get_account,
    get_committee,
    is_dynasty_end,
    next_dynasty,
    senders,
)
from microchain.consensus.tree import Block, Tree, epoch_of, is_checkpoint
from microchain.consensus.types import Digest, Dynasty, Epoch, Height, Nanoseconds, NodeId, Slot
from microchain.consensus.votebook import VoteBook
from microchain.crypto.hashing import tagged_hash

__all__ = ["Core", "compute_seed", "seed_alpha"]

MAX_EVIDENCE = 16


def compute_seed(output: bytes) -> Digest:
    """Return a block's seed from the VRF output of its seed proof."""
    return tagged_hash("microchain/seed", output)


def seed_alpha(parent_seed: bytes, slot: Slot) -> bytes:
    """Return what a proposer proves: the parent's seed and the slot, nothing that it could choose."""
    return tagged_hash("microchain/seed-input", parent_seed, slot.to_bytes(8, "big"))


class Core:
    """Shared state. ``now`` and ``actions`` belong to the event being handled.

    ``dynasty``, ``committee``, ``beacon`` and ``me`` are those of the dynasty that all blocks above the tree's root
    belong to. Every first block above a ``boundary`` proves that final.
    ``wake_proposer`` is set by whoever changed something that decides whether it is time to propose.
    """

    def __init__(self, genesis: Genesis, identity: NodeId, restored: Restored | None) -> None:
        self.genesis = genesis
        self.parameters = genesis.parameters
        self.chain_id = genesis.chain_id()
        self.identity = identity
        self.dynasty = Dynasty(0)
        self.committee: Committee
        self.beacon: bytes
        self.me: Member | None
        self._boundary: Boundary | None = None
        self.now = Nanoseconds(0)
        self.actions: list[Action] = []
        self.connected: set[NodeId] = set()
        self.pool = Pool(self.parameters.max_pool_bytes)
        self.replay = ReplayIndex()
        self.tree = Tree(self._root(restored), self.parameters)
        self.head = self.tree.root
        self.certificate: tuple[bytes, ...] = restored.certificate if restored else ()
        self.evidence = 0
        self.on_evidence: Callable[[EvidenceRecord], None] = lambda record: None
        self._offences: Counter[NodeId] = Counter()
        self.wake_proposer = True
        self._token = 0
        self._works: dict[int, Callable[[tuple[JobResult, ...]], None]] = {}
        self._persists: dict[int, Callable[[], None]] = {}

    # --- the dynasty ---

    def begin_dynasty(self, last: Block) -> None:
        """``last`` is final and its dynasty's last block: take over committee and beacon of the next one, above it."""
        self._boundary = Boundary(last.id, last.height, Dynasty(last.chain.dynasty), get_committee(last.chain))
        last.chain = next_dynasty(last.chain)
        last.state = last.state.rooted(last.id, last.epoch)
        last.closes = None
        self._enter(last.chain)
        self.book.prune(last.epoch)
        last.lottery = self.lottery(last.state.seed, last.slot)

    @property
    def boundary(self) -> Boundary | None:
        """The last block of the dynasty before, while it is the tree's root; else None."""
        boundary = self._boundary
        return boundary if boundary is not None and boundary.id == self.tree.root.id else None

    def _enter(self, chain: ChainState) -> None:
        self.dynasty = Dynasty(chain.dynasty)
        self.committee = get_committee(chain)
        self.beacon = chain.beacon
        self.me = self.committee.by_id.get(self.identity)
        self.book = VoteBook(self.committee, self.dynasty)

    def signing_key(self, node: NodeId) -> bytes | None:
        """Return the public key of a registered node, revoked or not."""
        account = get_account(self.head.chain, node)
        return account.entry.signing_key if account is not None else None

    # --- actions ---

    def emit(self, action: Action) -> None:
        self.actions.append(action)

    def work(self, jobs: tuple[Job, ...], then: Callable[[tuple[JobResult, ...]], None]) -> None:
        """Have jobs done and go on with their results."""
        self._token += 1
        self._works[self._token] = then
        self.emit(Work(self._token, jobs))

    def persist(self, records: tuple[Record, ...], *, durable: bool, then: Callable[[], None] | None = None) -> None:
        """Have records stored, and go on when they are."""
        self._token += 1
        if then is not None:
            self._persists[self._token] = then
        self.emit(Persist(self._token, records, durable))

    def take_unstored(self, tip: Block) -> list[BlockRecord]:
        """Return what of the branch up to ``tip`` the ledger does not have; the caller has it stored."""
        if tip.id not in self.tree.blocks:
            return []
        blocks = [block for block in self.tree.path(tip) if not block.persisted]
        for block in blocks:
            block.persisted = True
        return [block.record() for block in blocks]

    def work_done(self, token: int, results: tuple[JobResult, ...]) -> None:
        self._works.pop(token)(results)

    def persisted(self, token: int) -> None:
        then = self._persists.pop(token, None)
        if then is not None:
            then()

    def set_timer(self, timer: str, at: int) -> None:
        self.emit(SetTimer(timer, Nanoseconds(at)))

    def record_evidence(self, evidence: EvidenceRecord) -> None:
        """Store evidence for good; a few for each offender, since it can make as much of it as it likes."""
        self._offences[evidence.offender] += 1
        if self._offences[evidence.offender] > MAX_EVIDENCE:
            return
        self.evidence += 1
        self.persist((evidence,), durable=True)
        self.on_evidence(evidence)

    def trace(self, event: str, block: Block, detail: str = "") -> None:
        """Record that a block passed a stage."""
        self.emit(
            BlockTrace(
                event,  # type: ignore[arg-type]
                block.id,
                block.height,
                block.slot,
                block.epoch,
                block.proposer,
                block.size,
                len(block.data_ids),
                detail,
            )
        )

    # --- facts ---

    def is_full_mesh(self) -> bool:
        """Whether this node is connected to every other member, so that nobody needs its relaying."""
        return len(self.connected & self.committee.by_id.keys()) >= len(self.committee.members) - (self.me is not None)

    def connected_mask(self) -> int:
        """The members that this node can reach, itself among them."""
        mask = 1 << self.me.index if self.me else 0
        for peer in self.connected:
            member = self.committee.by_id.get(peer)
            if member is not None:
                mask |= 1 << member.index
        return mask

    def checkpoint_epoch(self, height: int) -> Epoch | None:
        """The epoch whose checkpoint is at ``height``, or None between checkpoints."""
        return epoch_of(height, self.parameters) if is_checkpoint(height, self.parameters) else None

    # --- blocks ---

    def chain_after(
        self, parent: Block, proposer: NodeId, transactions: Sequence[Transaction], votes: Sequence[Vote]
    ) -> ChainState:
        """Return the chain's state after a child of ``parent``; ProtocolError if a transaction must not be there."""
        if parent.closes is not None:
            return parent.chain
        return apply_block(parent.chain, self.next_context(parent, proposer), transactions, votes)

    def next_context(self, parent: Block, proposer: NodeId) -> BlockContext:
        """Return what the chain's state needs to know of a child of ``parent``."""
        finalized = Height(parent.state.finalized_epoch * self.parameters.epoch_blocks)
        return BlockContext(Height(parent.height + 1), proposer, finalized)

    def make_block(
        self, *, header: bytes, id: Digest, parent: Block, candidate: Candidate, state: BranchState, chain: ChainState
    ) -> Block:
        """Return a block without its body; its lottery is drawn when somebody asks."""
        height = Height(parent.height + 1)
        closes = parent.closes or (id if is_dynasty_end(chain) else None)
        return Block(
            id=id,
            parent=parent.id,
            height=height,
            slot=candidate.slot,
            epoch=epoch_of(height, self.parameters),
            checkpoint=is_checkpoint(height, self.parameters),
            proposer=candidate.member.id,
            header=header,
            state=state,
            chain=chain,
            closes=closes,
            lottery=self.lottery(state.seed, candidate.slot),
            candidate=candidate,
        )

    @property
    def senders(self) -> Mapping[NodeId, bytes]:
        """The signing keys of all whose transactions count on the head."""
        return senders(self.head.chain)

    def lottery(self, seed: bytes, slot: Slot) -> Lottery:
        eager = self.parameters.proposal == "eager"
        return Lottery(self.committee, self.beacon, Digest(seed), slot, eager=eager)

    def _root(self, restored: Restored | None) -> Block:
        if restored is None or not restored.finalized:
            seed = tagged_hash("microchain/genesis-seed", self.chain_id)
            id, parent, height, slot = self.chain_id, self.chain_id, Height(0), Slot(0)
            proposer, raw, state = NodeId(bytes(32)), b"", BranchState(seed, self.chain_id, 0, 0, {})
            chain = genesis_state(self.genesis)
        else:
            header = decode_header(restored.finalized)
            id, parent, height, slot = header.id, header.parent, header.height, header.slot
            proposer, raw = header.proposer, header.raw
            state, chain = decode_kept(restored.state, restored.base)
        self._enter(chain)
        root = Block(
            id=id,
            parent=parent,
            height=height,
            slot=slot,
            epoch=epoch_of(height, self.parameters),
            checkpoint=is_checkpoint(height, self.parameters),
            proposer=proposer,
            header=raw,
            state=state,
            chain=chain,
            closes=None,
            lottery=self.lottery(state.seed, slot),
            candidate=None,
        )
        root.persisted = root.justified = True
        self.book.prune(Epoch(min(root.epoch, state.finalized_epoch)))
        if is_dynasty_end(chain):
            self.begin_dynasty(root)
        return root
