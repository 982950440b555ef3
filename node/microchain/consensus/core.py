"""What the parts of the Microchain engine share beyond any engine's context: the tree and the votes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from microchain.consensus.branch import BranchState
from microchain.consensus.context import Context
from microchain.consensus.genesis import Genesis
from microchain.consensus.handover import Boundary
from microchain.consensus.interface import BlockRecord, BlockTrace, Restored
from microchain.consensus.kept import decode_kept
from microchain.consensus.lottery import Candidate, Lottery
from microchain.consensus.objects import Transaction, Vote, decode_header
from microchain.consensus.state import (
    BlockContext,
    ChainState,
    Checks,
    apply_block,
    compute_checks,
    genesis_state,
    get_account,
    get_committee,
    is_dynasty_end,
    next_dynasty,
    select_transactions,
    senders,
)
from microchain.consensus.tree import Block, Tree, epoch_of, is_checkpoint
from microchain.consensus.types import Digest, Dynasty, Epoch, Height, NodeId, Slot, TransactionKind
from microchain.consensus.votebook import VoteBook
from microchain.crypto.hashing import tagged_hash

__all__ = ["Core", "compute_seed", "seed_alpha"]


def compute_seed(output: bytes) -> Digest:
    """Return a block's seed from the VRF output of its seed proof."""
    return tagged_hash("microchain/seed", output)


def seed_alpha(parent_seed: bytes, slot: Slot) -> bytes:
    """Return what a proposer proves: the parent's seed and the slot, nothing that it could choose."""
    return tagged_hash("microchain/seed-input", parent_seed, slot.to_bytes(8, "big"))


class Core(Context):
    """The Microchain engine's shared state.

    ``dynasty``, ``committee``, ``beacon`` and ``me`` are those of the dynasty that all blocks above the tree's root
    belong to. Every first block above a ``boundary`` proves that final.
    """

    kinds = frozenset(TransactionKind)

    def __init__(self, genesis: Genesis, identity: NodeId, restored: Restored | None) -> None:
        super().__init__(genesis, identity)
        self.dynasty = Dynasty(0)
        self.beacon: bytes
        self._boundary: Boundary | None = None
        self.doubts = 0
        """Votes in this node's name that wait to be verified while it does not know whether it voted."""
        self.on_own_vote: Callable[[Vote], None] = lambda vote: None
        self.tree = Tree(self._root(restored), self.parameters)
        self.head = self.tree.root
        self.certificate: tuple[bytes, ...] = restored.certificate if restored else ()

    @property
    def head_height(self) -> Height:
        return self.head.height

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

    # --- the ledger ---

    def take_unstored(self, tip: Block) -> list[BlockRecord]:
        """Return what of the branch up to ``tip`` the ledger does not have; the caller has it stored."""
        if tip.id not in self.tree.blocks:
            return []
        blocks = [block for block in self.tree.path(tip) if not block.persisted]
        for block in blocks:
            block.persisted = True
        return [block.record() for block in blocks]

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

    # --- transactions, on the head ---

    @property
    def senders(self) -> Mapping[NodeId, bytes]:
        return senders(self.head.chain)

    def list_checks(self, transaction: Transaction) -> Checks:
        return compute_checks(self.head.chain, (transaction,))

    def may_include(self, transaction: Transaction) -> bool:
        if self.head.closes is not None:
            return False
        context = self.next_context(self.head, self.identity)
        return bool(select_transactions(self.head.chain, context, (transaction,)))

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
