"""The unfinalized blocks, all validated, as a tree above the last finalized one; fork choice and holding."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from microchain.consensus.branch import BranchState
from microchain.consensus.genesis import Parameters
from microchain.consensus.interface import BlockRecord
from microchain.consensus.kept import encode_kept
from microchain.consensus.lottery import Candidate, Lottery
from microchain.consensus.objects import Transaction, Vote
from microchain.consensus.pool import PoolEntry
from microchain.consensus.state import ChainState
from microchain.consensus.types import Digest, Epoch, Height, Nanoseconds, NodeId, Slot

__all__ = ["MILLISECOND", "Block", "Tree", "epoch_of", "is_checkpoint"]

MILLISECOND = 1_000_000


def epoch_of(height: int, parameters: Parameters) -> Epoch:
    """The epoch that a height belongs to; genesis is epoch 0's checkpoint."""
    return Epoch(-(-height // parameters.epoch_blocks))


def is_checkpoint(height: int, parameters: Parameters) -> bool:
    """Whether a height is the last of its epoch."""
    return height % parameters.epoch_blocks == 0


class Block:
    """A validated block. ``release``: used no earlier; ``justified``: by votes known here, in blocks or not.

    ``chain`` is the chain's state after it. ``closes`` is the dynasty's last block, L, if this is L or a closing block
    above it. ``handover`` is the proof that L is final, in the first block of the next dynasty.
    ``system`` are those of its transactions that are not of kind ``data``.
    ``synced``: it came with a catch-up, so nobody waits for its relaying; ``restored``: from the ledger, used before.
    """

    __slots__ = (
        "adopted_at",
        "candidate",
        "chain",
        "checkpoint",
        "closes",
        "epoch",
        "expiries",
        "handover",
        "header",
        "height",
        "id",
        "id_set",
        "justified",
        "lottery",
        "own",
        "parent",
        "persisted",
        "proposer",
        "release",
        "restored",
        "size",
        "slot",
        "state",
        "synced",
        "system",
        "transaction_ids",
        "transactions",
        "vote_mask",
        "votes",
    )

    def __init__(
        self,
        *,
        id: Digest,
        parent: Digest,
        height: Height,
        slot: Slot,
        epoch: Epoch,
        checkpoint: bool,
        proposer: NodeId,
        header: bytes,
        state: BranchState,
        chain: ChainState,
        closes: Digest | None,
        lottery: Lottery,
        candidate: Candidate | None,
    ) -> None:
        self.id, self.parent, self.height, self.slot = id, parent, height, slot
        self.epoch, self.checkpoint, self.proposer, self.header = epoch, checkpoint, proposer, header
        self.state, self.lottery, self.candidate = state, lottery, candidate
        self.chain, self.closes = chain, closes
        self.handover: tuple[bytes, ...] = ()
        self.system: tuple[Transaction, ...] = ()
        self.transactions: tuple[bytes, ...] = ()
        self.transaction_ids: tuple[Digest, ...] = ()
        self.id_set: frozenset[Digest] = frozenset()
        self.expiries: tuple[int, ...] = ()
        self.votes: tuple[Vote, ...] = ()
        self.size = 0
        self.own = self.persisted = self.synced = self.restored = self.justified = False
        self.vote_mask = 0
        self.release = Nanoseconds(0)
        self.adopted_at: Nanoseconds | None = None

    def set_body(
        self,
        transactions: tuple[bytes, ...],
        ids: tuple[Digest, ...],
        expiries: tuple[int, ...],
        votes: tuple[Vote, ...],
        handover: tuple[bytes, ...] = (),
        system: tuple[Transaction, ...] = (),
    ) -> None:
        """Give the block its transactions (with ids and valid_until, in order) and votes, or its hand-over."""
        self.transactions, self.transaction_ids, self.expiries, self.votes = transactions, ids, expiries, votes
        self.handover, self.system = handover, system
        self.id_set = frozenset(ids)
        self.size = sum(map(len, transactions)) + sum(map(len, self.raw_votes))

    @property
    def data_ids(self) -> tuple[Digest, ...]:
        """The ids of the transactions that clients sent, without those of the protocol's own kinds."""
        if not self.system:
            return self.transaction_ids
        system = {transaction.id for transaction in self.system}
        return tuple(id for id in self.transaction_ids if id not in system)

    def pool_entries(self) -> Iterator[tuple[Digest, PoolEntry]]:
        """Yield what the pool keeps of the block's transactions."""
        system = {transaction.id: transaction for transaction in self.system}
        for id, raw, valid_until in zip(self.transaction_ids, self.transactions, self.expiries, strict=True):
            yield id, PoolEntry(raw, valid_until, False, system.get(id) if system else None)

    @property
    def raw_votes(self) -> tuple[bytes, ...]:
        """The votes as they travel; in a dynasty's first block, the hand-over."""
        return self.handover or tuple(vote.raw for vote in self.votes)

    @property
    def is_boundary(self) -> bool:
        """Whether this is L, above which only closing blocks of its dynasty stand (and it is not final)."""
        return self.closes == self.id

    def record(self) -> BlockRecord:
        """Return what the ledger keeps of this block."""
        state, base = encode_kept(self.state, self.chain)
        return BlockRecord(
            self.id,
            self.height,
            self.parent,
            self.header,
            self.transactions,
            self.transaction_ids,
            self.raw_votes,
            state,
            self.own,
            base,
        )

    def preference(self) -> tuple[int, Fraction, Digest]:
        """Where two branches part, the lower one of these is preferred."""
        if self.candidate is None:
            return (self.slot, Fraction(0), self.id)
        return (self.slot, Fraction(self.candidate.ticket, self.candidate.member.weight), self.id)


class Tree:
    """Validated blocks that descend from ``root``, the last finalized checkpoint (or genesis)."""

    def __init__(self, root: Block, parameters: Parameters) -> None:
        self.root = root
        self.blocks: dict[Digest, Block] = {root.id: root}
        self.children: dict[Digest, list[Block]] = {}
        self._parameters = parameters

    def insert(self, block: Block) -> None:
        """Add a block whose parent is here."""
        self.blocks[block.id] = block
        self.children.setdefault(block.parent, []).append(block)
        self._hold(block)

    def path(self, block: Block) -> list[Block]:
        """Return the blocks from just above the root up to ``block``, lowest first."""
        path = []
        while block is not self.root:
            path.append(block)
            block = self.blocks[block.parent]
        path.reverse()
        return path

    def ancestors(self, block: Block) -> Iterator[Block]:
        """Yield ``block`` and what is below it, down to the root."""
        while True:
            yield block
            if block is self.root:
                return
            block = self.blocks[block.parent]

    def slot_timeout(self, parent: Block) -> Nanoseconds:
        """Δ after ``parent``: doubled for every two epochs without finality beyond three, at most eightfold."""
        behind = parent.epoch - parent.state.finalized_epoch
        doublings = min(3, max(0, behind - 3) // 2)
        return Nanoseconds((self._parameters.slot_timeout_ms * MILLISECOND) << doublings)

    def _hold(self, block: Block) -> None:
        parent = self.blocks[block.parent]
        if block.restored:
            return
        base = parent.adopted_at or Nanoseconds(0) if parent is self.root else parent.release
        rank = block.candidate.rank if block.candidate else 0
        block.release = Nanoseconds(base + rank * self.slot_timeout(parent))

    def unhold(self, block: Block, now: Nanoseconds) -> None:
        """Two thirds of the weight voted for ``block``: it and its ancestors need no holding any more."""
        for ancestor in self.ancestors(block):
            ancestor.release = min(ancestor.release, now)

    def best_head(self, now: Nanoseconds) -> tuple[Block, Nanoseconds | None]:
        """Return the head by fork choice, and when a held block will be usable next (None: none is held).

        Of the usable blocks: the highest justified checkpoint on the branch, then the greatest height, then, where two
        branches part, the preferred child. A walk in order of preference that only a better branch displaces does it.
        """
        best, best_key = self.root, (self.root.epoch, self.root.height)
        next_release: Nanoseconds | None = None
        stack = [(self.root, self.root.epoch)]
        while stack:
            block, justified = stack.pop()
            if block.justified:
                justified = max(justified, block.epoch)
            if (justified, block.height) > best_key:
                best, best_key = block, (justified, block.height)
            children = self.children.get(block.id)
            if not children:
                continue
            if len(children) > 1:
                children = sorted(children, key=Block.preference, reverse=True)
            for child in children:
                if child.release <= now:
                    stack.append((child, justified))
                elif next_release is None or child.release < next_release:
                    next_release = child.release
        return best, next_release

    def prune(self, root: Block) -> tuple[list[Block], list[Block]]:
        """Make ``root`` the root; return (finalized blocks lowest first, abandoned blocks)."""
        finalized = self.path(root)
        kept = {root.id: root}
        stack = [root]
        while stack:
            for child in self.children.get(stack.pop().id, ()):
                kept[child.id] = child
                stack.append(child)
        final_ids = {block.id for block in finalized}
        abandoned = [
            b for b in self.blocks.values() if b.id not in kept and b.id not in final_ids and b is not self.root
        ]
        self.blocks = kept
        self.children = {id: children for id, children in self.children.items() if id in kept}
        self.root = root
        for block in sorted(kept.values(), key=lambda b: b.height):
            if block is not root and block.adopted_at is None and not block.justified:
                self._hold(block)
        return finalized, abandoned

    def drop_above_root(self) -> list[Block]:
        """Remove and return all blocks but the root."""
        dropped = [block for block in self.blocks.values() if block is not self.root]
        self.blocks, self.children = {self.root.id: self.root}, {}
        return dropped
