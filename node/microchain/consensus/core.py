"""What the parts of the Microchain engine share beyond any engine's context: the tree and the votes."""

from __future__ import annotations

from microchain.consensus.branch import BranchState, decode_branch
from microchain.consensus.context import Context
from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import BlockRecord, BlockTrace, Restored
from microchain.consensus.lottery import Candidate, Lottery
from microchain.consensus.objects import decode_header
from microchain.consensus.tree import Block, Tree, epoch_of, is_checkpoint
from microchain.consensus.types import Digest, Dynasty, Epoch, Height, NodeId, Slot
from microchain.consensus.votebook import VoteBook
from microchain.crypto.hashing import tagged_hash

__all__ = ["FIRST_DYNASTY", "Core", "compute_seed", "seed_alpha"]

FIRST_DYNASTY = Dynasty(1)
EMPTY_STATE_ROOT = tagged_hash("microchain/state")
"""Until credits and registry changes live on the chain, the state is empty and its root a constant."""


def compute_seed(output: bytes) -> Digest:
    """Return a block's seed from the VRF output of its seed proof."""
    return tagged_hash("microchain/seed", output)


def seed_alpha(parent_seed: bytes, slot: Slot) -> bytes:
    """Return what a proposer proves: the parent's seed and the slot, nothing that it could choose."""
    return tagged_hash("microchain/seed-input", parent_seed, slot.to_bytes(8, "big"))


class Core(Context):
    """The Microchain engine's shared state."""

    def __init__(self, genesis: Genesis, identity: NodeId, restored: Restored | None) -> None:
        super().__init__(genesis, identity)
        self.beacon = tagged_hash("microchain/beacon", self.chain_id, FIRST_DYNASTY.to_bytes(8, "big"))
        self.book = VoteBook(self.committee)
        self.tree = Tree(self._root(restored), self.parameters)
        self.head = self.tree.root
        self.certificate: tuple[bytes, ...] = restored.certificate if restored else ()

    @property
    def head_height(self) -> Height:
        return self.head.height

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
                len(block.transactions),
                detail,
            )
        )

    # --- facts ---

    def checkpoint_epoch(self, height: int) -> Epoch | None:
        """The epoch whose checkpoint is at ``height``, or None between checkpoints."""
        return epoch_of(height, self.parameters) if is_checkpoint(height, self.parameters) else None

    # --- blocks ---

    def make_block(
        self, *, header: bytes, id: Digest, parent: Block, candidate: Candidate, state: BranchState
    ) -> Block:
        """Return a block without its body; its lottery is drawn when somebody asks."""
        height = Height(parent.height + 1)
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
            lottery=self.lottery(state.seed, candidate.slot),
            candidate=candidate,
        )

    def lottery(self, seed: bytes, slot: Slot) -> Lottery:
        eager = self.parameters.proposal == "eager"
        return Lottery(self.committee, self.beacon, Digest(seed), slot, eager=eager)

    def _root(self, restored: Restored | None) -> Block:
        if restored is None or not restored.finalized:
            seed = tagged_hash("microchain/genesis-seed", self.chain_id)
            id, parent, height, slot = self.chain_id, self.chain_id, Height(0), Slot(0)
            proposer, raw, state = NodeId(bytes(32)), b"", BranchState(seed, self.chain_id, 0, 0, {})
        else:
            header = decode_header(restored.finalized)
            id, parent, height, slot = header.id, header.parent, header.height, header.slot
            proposer, raw, state = header.proposer, header.raw, decode_branch(restored.state)
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
            lottery=self.lottery(state.seed, slot),
            candidate=None,
        )
        root.persisted = root.justified = True
        return root
