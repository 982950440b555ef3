"""What the votes inside the blocks of one branch prove, block by block (protocol, section 5).

The state after a block is a function of the block and its parent's state alone, so all nodes agree on it: on the one
source that every voter for a checkpoint has, and on how long the branch has been without finality.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from microchain.consensus.genesis import Committee
from microchain.consensus.objects import Vote
from microchain.consensus.types import Digest, Dynasty, Epoch, ProtocolError

__all__ = ["VOTE_WINDOW", "BranchState", "OpenCheckpoint"]

VOTE_WINDOW = 64
"""Epochs: votes for checkpoints further back than this are neither included nor buffered."""


class OpenCheckpoint(Struct, frozen=True, array_like=True):
    """A checkpoint of the branch that the branch's own votes do not show as final yet; ``mask``: who voted for it."""

    epoch: int
    source: bytes
    source_epoch: int
    mask: int


class BranchState(Struct, frozen=True, array_like=True):
    """The state after a block: its seed, and what the votes contained up to and including it justify and finalize."""

    seed: bytes
    justified: bytes
    justified_epoch: int
    finalized_epoch: int
    open: dict[bytes, OpenCheckpoint]

    def rooted(self, root: Digest, epoch: Epoch) -> BranchState:
        """Return the state with which a dynasty begins above its predecessor's last block, final and of that epoch."""
        return BranchState(self.seed, root, epoch, epoch, {})

    def check_votes(self, votes: Sequence[Vote], committee: Committee, chain_id: Digest, dynasty: Dynasty) -> None:
        """Raise ProtocolError unless a child block may contain exactly these votes."""
        seen: set[tuple[bytes, bytes]] = set()
        for vote in votes:
            body = vote.body
            member = committee.by_id.get(vote.voter)
            entry = self.open.get(body.target)
            if member is None or (body.chain_id, body.dynasty) != (chain_id, dynasty) or entry is None:
                raise ProtocolError("a contained vote is not by a member for an open checkpoint of this branch")
            if (body.source, body.source_epoch, body.target_epoch) != (entry.source, entry.source_epoch, entry.epoch):
                raise ProtocolError("a contained vote's source or epochs do not match its target")
            if entry.mask >> member.index & 1 or (body.target, body.voter) in seen:
                raise ProtocolError("a contained vote is in the branch already")
            seen.add((body.target, body.voter))

    def extend(
        self, block: Digest, checkpoint: Epoch | None, seed: Digest, votes: Sequence[Vote], committee: Committee
    ) -> BranchState:
        """Return the state after a child ``block`` that contains ``votes`` (checked before).

        ``checkpoint`` is the block's epoch if it is a checkpoint, else None.
        """
        open_ = dict(self.open)
        for vote in votes:
            entry = open_[vote.body.target]
            mask = entry.mask | 1 << committee.by_id[vote.voter].index
            open_[vote.body.target] = OpenCheckpoint(entry.epoch, entry.source, entry.source_epoch, mask)
        justified, justified_epoch, finalized_epoch = self.justified, self.justified_epoch, self.finalized_epoch
        if votes:
            proven = {e.epoch: (id, e) for id, e in open_.items() if committee.is_supermajority(e.mask)}
            for epoch, (id, entry) in proven.items():
                if epoch > justified_epoch:
                    justified, justified_epoch = id, epoch
                distance = epoch - entry.source_epoch
                if distance == 1 or (distance == 2 and epoch - 1 in proven):
                    finalized_epoch = max(finalized_epoch, entry.source_epoch)
        if checkpoint is not None:
            open_[block] = OpenCheckpoint(checkpoint, justified, justified_epoch, 0)
            oldest = max(finalized_epoch, checkpoint - VOTE_WINDOW)
            open_ = {id: entry for id, entry in open_.items() if entry.epoch > oldest}
        return BranchState(seed, justified, justified_epoch, finalized_epoch, open_)
