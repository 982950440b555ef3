"""When there is something to propose, and how the primary builds a block of it."""

from __future__ import annotations

from microchain.consensus.interface import JobResult, MerkleRoot, Sign, TransactionTrace
from microchain.consensus.objects import HEADER_TAG, encode_body, seal
from microchain.consensus.pbft.agreement import Agreement
from microchain.consensus.pbft.core import MILLISECOND, Block, ReplicaCore
from microchain.consensus.pbft.validity import build_header
from microchain.consensus.types import Digest, Height
from microchain.crypto.hashing import tagged_hash

__all__ = ["Proposer"]


class Proposer:
    """Decides at every event whether it is time to propose; the backups' timers ask it whether they wait."""

    def __init__(self, core: ReplicaCore, agreement: Agreement) -> None:
        self._core = core
        self._agreement = agreement
        self._busy = False
        self._timer: int | None = None
        self._released_above: Height | None = None
        self._watched: Digest | None = None
        self._passed_over = 0

    def release(self, above: Height | None) -> None:
        """Allow pooled transactions into one block above a height."""
        height = self._core.tip.height if above is None else above
        if self._core.last_carrier <= height:
            self._released_above = height

    def timer_fired(self) -> None:
        self._timer = None

    def has_work(self) -> bool:
        """Whether pooled transactions are worth a block now."""
        core = self._core
        if self._released_above is not None and core.last_carrier > self._released_above:
            self._released_above = None
        if not core.pool.pending:
            return False
        if core.parameters.propose == "release":
            if self._released_above is None:
                return False
        elif core.pool.pending_bytes < core.parameters.propose_at_bytes:
            return False
        if next(core.pool.select(core.next_height, core.parameters.max_block_bytes), None) is not None:
            return True
        expired = core.pool.expire(core.tip.height)
        if expired:
            core.emit(TransactionTrace("expired", tuple(expired)))
        return False

    # --- fairness ---

    def is_overlooked(self, block: Block) -> bool:
        """After a final block: whether the primary passes over the oldest transaction here.

        It proposes the oldest first and its pool is bounded, so that many full blocks may come before, but no more.
        """
        core = self._core
        oldest = next(iter(core.pool.pending), None)
        if oldest is None or oldest != self._watched:
            self._watched, self._passed_over = oldest, 0
        elif block.ids:
            self._passed_over += 1
        if self._passed_over <= core.parameters.max_pool_bytes // core.parameters.max_block_bytes + 2:
            return False
        self._passed_over = 0
        return True

    # --- building ---

    def reconsider(self) -> None:
        """Propose if this node is the primary and it is time; else have a timer set for when it may be."""
        core = self._core
        free = core.choice is None or core.choice.height < core.next_height or core.choice.block is None
        if core.choice is not None and core.choice.height > core.next_height:
            free = False
        if self._busy or core.primary != core.identity or not core.takes_part or not free or core.accepted is not None:
            return
        if not self.has_work():
            return
        due = core.tip_since + core.parameters.block_interval_ms * MILLISECOND
        if due <= core.now:
            self._propose()
        elif due != self._timer:
            self._timer = due
            core.set_timer("propose", due)

    def _propose(self) -> None:
        core = self._core
        self._busy = True
        tip, view = core.tip, core.view
        content = list(core.pool.select(core.next_height, core.parameters.max_block_bytes))
        votes = core.certificate if tip.height else ()
        block = Block(
            Digest(b""),
            core.next_height,
            tip.id,
            view,
            core.identity,
            b"",
            tuple(entry.raw for _, entry in content),
            tuple(id for id, _ in content),
            tuple(entry.valid_until for _, entry in content),
            votes,
            own=True,
        )

        def is_current() -> bool:
            return core.tip is tip and core.view == view and core.takes_part and core.accepted is None

        def rooted(results: tuple[JobResult, ...]) -> None:
            tx_root, votes_root = results
            assert isinstance(tx_root, bytes) and isinstance(votes_root, bytes)
            self._busy = is_current()
            core.wake_proposer = True
            if self._busy:
                signed = encode_body(build_header(core, tx_root, votes_root))
                block.id = tagged_hash(HEADER_TAG, signed)
                core.trace("proposed", block)
                core.work((Sign(block.id),), lambda results: sign(signed, results))

        def sign(signed: bytes, results: tuple[JobResult, ...]) -> None:
            (signature,) = results
            assert isinstance(signature, bytes)
            self._busy = False
            core.wake_proposer = True
            if is_current():
                block.header = seal(signed, signature)
                core.know(block.id, signature)
                self._agreement.propose(block)

        core.work((MerkleRoot(block.ids), MerkleRoot(votes)), rooted)
