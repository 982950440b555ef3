"""Anti-entropy: replicas tell each other where they are, and say again what a peer lacks."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from microchain.consensus.admission import Admission
from microchain.consensus.interface import Broadcast, Send, ServeFinalized
from microchain.consensus.messages import BlocksMissing, FullBlock, GetFinalized, ReplicaStatus
from microchain.consensus.pbft.agreement import Agreement
from microchain.consensus.pbft.catchup import CatchUp
from microchain.consensus.pbft.core import MILLISECOND, ReplicaCore
from microchain.consensus.pbft.proposer import Proposer
from microchain.consensus.pbft.views import Views
from microchain.consensus.types import Digest, Height, NodeId

__all__ = ["Exchange"]

STATUS_INTERVAL = 1_000 * MILLISECOND
ANSWER_INTERVAL = STATUS_INTERVAL // 2
ANSWER_BYTES = 4 << 20
MAX_BLOCKS = 16


class Exchange:
    """Once a second while something is not final, and on each new connection: status, and what follows from it."""

    def __init__(
        self, core: ReplicaCore, agreement: Agreement, views: Views, admission: Admission, proposer: Proposer
    ) -> None:
        self._core = core
        self._agreement = agreement
        self._views = views
        self._admission = admission
        self._proposer = proposer
        self._last_sent: ReplicaStatus | None = None
        self._answered: dict[NodeId, int] = {}
        self._heard: dict[NodeId, ReplicaStatus] = {}
        """What each member said first, until this node knows whether it may have taken part before."""
        self.catch_up = CatchUp(core, agreement)

    def start(self) -> None:
        self._core.set_timer("status", self._core.now + STATUS_INTERVAL)
        self._settle_participation()

    def connected(self, peer: NodeId) -> None:
        self._core.emit(Send(peer, self._status()))

    def disconnected(self, peer: NodeId) -> None:
        self._answered.pop(peer, None)
        self.catch_up.disconnected(peer)

    def tick(self) -> None:
        """Say what changed or is not final, ask again for what did not come."""
        core = self._core
        core.set_timer("status", core.now + STATUS_INTERVAL)
        status = self._status()
        if status != self._last_sent or not self.is_quiet():
            self._last_sent = status
            core.emit(Broadcast(status))
            self._admission.announce_own()
        self._admission.forget_requests()
        self._agreement.proposals.tick()
        self.catch_up.tick()

    def is_quiet(self) -> bool:
        """Whether nothing is under way here."""
        core = self._core
        return core.journal.active and not core.pool.pending and core.current_promise is None and not core.blocks

    def _status(self) -> ReplicaStatus:
        core = self._core
        committed = core.promise.height if core.promise is not None and core.promise.commit else 0
        return ReplicaStatus(
            core.view, core.journal.active, core.tip.id, core.tip.height, max(committed, core.tip.height)
        )

    def received(self, peer: NodeId, status: ReplicaStatus) -> None:
        """Compare a peer's state with this replica's; answer twice a second at most."""
        core = self._core
        if core.journal.silent_below is None and peer in core.committee.by_id:
            self._heard.setdefault(peer, status)
            self._settle_participation()
        self.catch_up.heard(peer, Height(status.finalized_height))
        if core.now < self._answered.get(peer, 0):
            return
        self._answered[peer] = core.now + ANSWER_INTERVAL
        self._views.inform(peer, status.view, active=status.active)
        if status.finalized_height < core.tip.height:
            core.emit(Send(peer, self._status()))
        elif status.finalized_height == core.tip.height:
            self._agreement.resend(peer)

    def _settle_participation(self) -> None:
        """Find out whether this node may have taken part before, on a ledger that is lost.

        It hears so many that with itself they are a quorum. Whatever was final when the ledger was lost, one of them is
        honest and had committed it; whichever view a quorum wanted then, one of them is in it or above. If none has
        committed anything, nothing was final. Else this node may have promised something at most one above the
        greatest height and asked for a view at most one above the greatest: it waits until that is over.
        """
        core = self._core
        if core.journal.silent_below is not None or core.me is None:
            return
        if not core.committee.is_supermajority(core.mask([*self._heard, core.identity])):
            return
        height = max((max(s.committed, s.finalized_height) for s in self._heard.values()), default=0)
        view = max((s.view for s in self._heard.values()), default=0)
        self._heard.clear()
        below, before = (height + 1, view + 2) if height else (0, 0)
        core.journal = msgspec.structs.replace(core.journal, silent_below=below, silent_before=before)
        core.persist((core.view_record(),), durable=True)
        core.wake_proposer = True
        self._agreement.advance()

    # --- serving ---

    def serve_blocks(self, peer: NodeId, ids: Sequence[bytes]) -> None:
        """Send each block once, 4 MiB at most or one block; the peer asks again for what it lacks then."""
        core = self._core
        missing, size = [], 0
        for id in list(dict.fromkeys(ids))[:MAX_BLOCKS]:
            block = core.blocks.get(Digest(id)) or core.recent.get(Digest(id))
            if block is None:
                missing.append(id)
            elif not size or size + block.size <= ANSWER_BYTES:
                size += block.size
                core.emit(Send(peer, FullBlock(block.header, block.transactions, block.votes)))
        if missing:
            core.emit(Send(peer, BlocksMissing(tuple(missing))))

    def serve_finalized(self, peer: NodeId, request: GetFinalized) -> None:
        self._core.emit(ServeFinalized(peer, Height(request.from_height)))
