"""Blocks that are not in the tree yet, and how much of them a peer may make this node keep."""

from __future__ import annotations

from microchain.consensus.objects import Header
from microchain.consensus.types import Digest, NodeId

__all__ = ["Pending", "PendingBlocks"]

MAX_FROM_PEER = 64
MAX_REQUESTED_FROM_PEER = 128
MIN_BYTES_FROM_PEER = 16 << 20
BYTES_PER_BLOCK = 1024
BYTES_PER_ID = 64


class Pending:
    """One peer's copy of a block. ``raws[i]`` is None while transaction i is missing; ``absent`` has their positions.

    ``body`` counts the bytes of the transactions that are here; ``suppliers`` says who sent those that did not come
    with the copy. ``spare`` is another peer's copy, for when this one turns out damaged. ``synced``: of a catch-up.
    ``proof`` is the hand-over in it that was found to be right.
    """

    __slots__ = (
        "absent",
        "asked_at",
        "attempts",
        "body",
        "header",
        "ids",
        "peer",
        "proof",
        "raws",
        "spare",
        "stage",
        "suppliers",
        "synced",
        "votes",
    )

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
        self.absent = {id: at for at, (id, raw) in enumerate(zip(ids, raws, strict=True)) if raw is None}
        self.suppliers: dict[int, NodeId] = {}
        self.proof: tuple[bytes, ...] | None = None
        self.spare: Pending | None = None
        self.body = sum(len(raw) for raw in raws if raw)
        self.stage = "signature"
        self.asked_at = 0
        self.attempts = 0

    @property
    def size(self) -> int:
        """About how many bytes it takes here."""
        return BYTES_PER_BLOCK + BYTES_PER_ID * len(self.ids) + sum(map(len, self.votes)) + self.body

    def missing(self) -> tuple[Digest, ...]:
        """The ids of the transactions that are still missing."""
        return tuple(self.absent)

    def fill(self, id: Digest, raw: bytes, supplier: NodeId | None = None) -> None:
        """Put a missing transaction in its place; ``supplier`` is who sent it, None if it was verified before."""
        at = self.absent.pop(id)
        self.raws[at] = raw
        self.body += len(raw)
        if supplier is not None:
            self.suppliers[at] = supplier

    def remove(self, at: int) -> NodeId:
        """Take a supplied transaction out again, since it is damaged; return who supplied it."""
        self.body -= len(self.raws[at] or b"")
        self.raws[at] = None
        self.absent[self.ids[at]] = at
        return self.suppliers.pop(at)


class PendingBlocks(dict[Digest, Pending]):
    """The pending blocks by id, bounded for each peer by number and bytes, its spare copies among them."""

    def __init__(self, max_block_bytes: int) -> None:
        super().__init__()
        self._max_bytes = max(MIN_BYTES_FROM_PEER, 4 * max_block_bytes)

    def has_room(self, copy: Pending, *, requested: bool) -> bool:
        """Whether the peer that sent ``copy`` may have one more here."""
        count, size = 0, copy.size
        for pending in self.values():
            for held in (pending, pending.spare):
                if held is not None and held.peer == copy.peer:
                    count, size = count + 1, size + held.size
        return size <= self._max_bytes and count < (MAX_REQUESTED_FROM_PEER if requested else MAX_FROM_PEER)
