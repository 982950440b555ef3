"""What peers tell each other beyond blocks and votes: their status, and answers to who lacks something."""

from __future__ import annotations

from collections.abc import Sequence

from microchain.consensus.admission import Admission
from microchain.consensus.catchup import CatchUp
from microchain.consensus.core import Core
from microchain.consensus.fetch import MAX_BLOCKS_AT_ONCE, MAX_HEADERS, Fetch
from microchain.consensus.finality import Finality
from microchain.consensus.intake import Intake
from microchain.consensus.interface import Broadcast, Send, ServeFinalized
from microchain.consensus.messages import (
    BlocksMissing,
    FullBlock,
    GetFinalized,
    GetHeaders,
    Headers,
    Status,
    Votes,
)
from microchain.consensus.tree import MILLISECOND
from microchain.consensus.types import Digest, Height, NodeId
from microchain.consensus.voter import Voter

__all__ = ["Exchange"]

STATUS_INTERVAL = 1_000 * MILLISECOND
VOTES_INTERVAL = STATUS_INTERVAL // 2
ANSWER_BYTES = 4 << 20
MAX_VOTES = 4096


class Exchange:
    """Anti-entropy: peers compare head, justified and finalized, and who lacks something fetches it."""

    def __init__(self, core: Core, finality: Finality, intake: Intake, admission: Admission, voter: Voter) -> None:
        self._core = core
        self._finality = finality
        self._intake = intake
        self._admission = admission
        self._voter = voter
        self._statuses: dict[NodeId, Status] = {}
        self._last_sent: Status | None = None
        self._votes_sent: dict[NodeId, int] = {}
        self.fetch = Fetch(core, intake, self._statuses)
        self.catch_up = CatchUp(core, finality, intake, voter, self._statuses)

    # --- status ---

    def start(self) -> None:
        self._core.set_timer("status", self._core.now + STATUS_INTERVAL)

    def connected(self, peer: NodeId) -> None:
        self._show_own_vote(peer)
        self._core.emit(Send(peer, self._status()))
        self._admission.announce_own(peer)

    def disconnected(self, peer: NodeId) -> None:
        self._statuses.pop(peer, None)
        self._votes_sent.pop(peer, None)
        self.catch_up.disconnected(peer)

    def tick(self) -> None:
        """Once a second: say what changed or is not final, ask again for what did not come."""
        core = self._core
        core.set_timer("status", core.now + STATUS_INTERVAL)
        status = self._status()
        if status != self._last_sent or not self._is_quiet():
            self._last_sent = status
            core.emit(Broadcast(status))
            self._admission.announce_own()
        self._admission.forget_requests()
        self.catch_up.tick()
        self.fetch.retry()
        if not self.catch_up.is_silencing:
            self._voter.consider()

    def received(self, peer: NodeId, status: Status) -> None:
        """Compare a peer's state with this node's."""
        core = self._core
        if peer not in self._statuses and not status.vote:
            self._show_own_vote(peer)
        self._statuses[peer] = status
        if status.vote:
            self._finality.receive(peer, (status.vote,))
        root = core.tree.root
        mine = (root.height, self._finality.justified.height)
        theirs = (status.finalized_height, status.justified_height)
        if theirs > mine:
            core.emit(Send(peer, self._status()))
        elif theirs < mine:
            self._send_votes(peer, status)
        self.catch_up.heard(peer, status)
        if status.head_height > root.height and not self.catch_up.is_ahead(peer):
            self.fetch.want(peer, Digest(status.head))

    def _show_own_vote(self, peer: NodeId) -> None:
        """Show a member its newest vote, before it trusts a journal that may be lost."""
        vote = self._core.book.newest_of(peer)
        if vote is not None:
            self._core.emit(Send(peer, Votes((vote.raw,))))

    def _status(self) -> Status:
        core, root, justified = self._core, self._core.tree.root, self._finality.justified
        return Status(
            core.head.id,
            core.head.height,
            justified.id,
            justified.height,
            root.id,
            root.height,
            self._voter.last_vote,
        )

    def _is_quiet(self) -> bool:
        core = self._core
        unfinished = any(b.data_ids for b in core.tree.ancestors(core.head) if b is not core.tree.root)
        return not unfinished and not core.pool.pending and not self._intake.pending

    def _send_votes(self, peer: NodeId, status: Status) -> None:
        """Give a peer the votes that it lacks for what is justified or final here, twice a second at most."""
        core = self._core
        if core.now < self._votes_sent.get(peer, 0):
            return
        self._votes_sent[peer] = core.now + VOTES_INTERVAL
        if core.boundary is not None and status.finalized_height < core.boundary.height:
            core.emit(Send(peer, Votes(core.certificate)))
            return
        raws = dict.fromkeys(core.certificate if core.boundary is None else ())
        for target, votes in core.book.targets().items():
            block = core.tree.blocks.get(target)
            if block is not None and block.height > status.finalized_height:
                raws.update(dict.fromkeys(vote.raw for vote in votes.values()))
        if raws:
            core.emit(Send(peer, Votes(tuple(raws)[-MAX_VOTES:])))

    # --- serving ---

    def serve_headers(self, peer: NodeId, request: GetHeaders) -> None:
        tree = self._core.tree
        tip = tree.blocks.get(Digest(request.tip))
        if tip is None:
            self._core.emit(Send(peer, BlocksMissing((request.tip,))))
            return
        path = tree.path(tip)
        above = next((i for i, block in enumerate(path) if block.id == request.finalized), -1)
        self._core.emit(Send(peer, Headers(tuple(b.header for b in path[above + 1 : above + 1 + MAX_HEADERS]))))

    def serve_blocks(self, peer: NodeId, ids: Sequence[bytes]) -> None:
        """Send each block once, 4 MiB at most or one block; the peer asks again for what it lacks then."""
        core = self._core
        missing, size = [], 0
        for id in list(dict.fromkeys(ids))[:MAX_BLOCKS_AT_ONCE]:
            block = core.tree.blocks.get(Digest(id)) or self._finality.recent.get(Digest(id))
            if block is None or not block.header:
                missing.append(id)
            elif not size or size + block.size <= ANSWER_BYTES:
                size += block.size
                core.emit(Send(peer, FullBlock(block.header, block.transactions, block.raw_votes)))
        if missing:
            core.emit(Send(peer, BlocksMissing(tuple(missing))))

    def serve_finalized(self, peer: NodeId, request: GetFinalized) -> None:
        self._core.emit(ServeFinalized(peer, Height(request.from_height)))
