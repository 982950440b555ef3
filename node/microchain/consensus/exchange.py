"""What peers tell each other beyond blocks and votes: status, fetches, and catching up (protocol, sections 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from microchain.consensus.admission import Admission
from microchain.consensus.core import Core
from microchain.consensus.finality import Finality
from microchain.consensus.intake import Intake, Pending
from microchain.consensus.interface import Broadcast, Misbehaviour, Send, ServeFinalized
from microchain.consensus.messages import (
    BlocksMissing,
    FinalizedBlocks,
    FullBlock,
    GetBlocks,
    GetFinalized,
    GetHeaders,
    GetTransactions,
    Headers,
    Status,
    Votes,
)
from microchain.consensus.objects import MalformedObject, decode_header
from microchain.consensus.tree import MILLISECOND, Block
from microchain.consensus.types import Digest, Height, Nanoseconds, NodeId
from microchain.consensus.voter import Voter

__all__ = ["Exchange"]

SECOND = 1_000 * MILLISECOND
STATUS_INTERVAL = SECOND
FETCH_RETRY = SECOND
SYNC_TIMEOUT = 5 * SECOND
SYNC_BACKOFF = 10 * SECOND
MAX_HEADERS = 64
MAX_BLOCKS_AT_ONCE = 16


class _Sync(Struct):
    """One catch-up in progress: what was asked of whom, and the last block of its answer."""

    peer: NodeId
    from_height: Height
    deadline: Nanoseconds
    expected: Digest | None = None


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
        self._headers_asked: dict[Digest, Nanoseconds] = {}
        self._sync: _Sync | None = None
        self._slow: dict[NodeId, Nanoseconds] = {}

    @property
    def syncing(self) -> bool:
        """Whether this node is fetching finalized blocks that it lacks; it neither votes nor proposes meanwhile."""
        return self._sync is not None

    # --- status ---

    def start(self) -> None:
        self._core.set_timer("status", self._core.now + STATUS_INTERVAL)

    def connected(self, peer: NodeId) -> None:
        self._core.emit(Send(peer, self._status()))

    def disconnected(self, peer: NodeId) -> None:
        self._statuses.pop(peer, None)
        if self._sync is not None and self._sync.peer == peer:
            self._sync = None

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
        self._retry()

    def received(self, peer: NodeId, status: Status) -> None:
        """Compare a peer's state with this node's."""
        core = self._core
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
        if status.finalized_height > root.height and Digest(status.finalized) not in core.tree.blocks:
            self._start_sync(peer)
        elif status.head_height > root.height:
            self.want(peer, Digest(status.head))

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
        unfinished = any(b.transaction_ids for b in core.tree.ancestors(core.head) if b is not core.tree.root)
        return not unfinished and not core.pool.pending and not self._intake.pending

    def _send_votes(self, peer: NodeId, status: Status) -> None:
        """Give a peer the votes that it lacks for what is justified or final here."""
        core = self._core
        raws = dict.fromkeys(core.certificate)
        for target, votes in core.book.targets().items():
            block = core.tree.blocks.get(target)
            if block is not None and block.height > status.finalized_height:
                raws.update(dict.fromkeys(vote.raw for vote in votes.values()))
        if raws:
            core.emit(Send(peer, Votes(tuple(raws)[-4096:])))

    # --- fetching ---

    def want(self, peer: NodeId, tip: Digest) -> None:
        """Fetch the branch that ends in ``tip``, headers first, unless it is known or asked for already."""
        core = self._core
        if tip in core.tree.blocks or tip in self._intake.pending or core.now < self._headers_asked.get(tip, 0):
            return
        self._headers_asked[tip] = Nanoseconds(core.now + FETCH_RETRY)
        core.emit(Send(peer, GetHeaders(tip, core.tree.root.id)))

    def want_from_anybody(self, tip: Digest) -> None:
        """Fetch a branch that votes name but no peer sent."""
        for peer, status in self._statuses.items():
            if status.head == tip or status.justified == tip:
                self.want(peer, tip)
                return
        for peer in sorted(self._core.connected):
            self.want(peer, tip)
            return

    def incomplete(self, pending: Pending) -> None:
        """A block lacks its parent or transactions: ask who sent it, once a second at most."""
        core = self._core
        if core.now < pending.asked_at:
            return
        pending.asked_at = core.now + FETCH_RETRY
        pending.attempts += 1
        peer = self._source(pending)
        if pending.header.parent not in core.tree.blocks:
            self.want(peer, pending.header.parent)
        elif pending.attempts == 1:
            core.emit(Send(peer, GetTransactions(pending.missing())))
        else:
            core.emit(Send(peer, GetBlocks((pending.header.id,))))

    def _source(self, pending: Pending) -> NodeId:
        """Who sent the block; after a failed attempt, everybody in turn."""
        peers = sorted(self._core.connected)
        if (pending.attempts <= 1 and pending.peer in self._core.connected) or not peers:
            return pending.peer
        return peers[pending.attempts % len(peers)]

    def _retry(self) -> None:
        core = self._core
        self._headers_asked = {tip: at for tip, at in self._headers_asked.items() if at > core.now}
        self._slow = {peer: at for peer, at in self._slow.items() if at > core.now}
        if self._sync is not None and core.now >= self._sync.deadline:
            self._slow[self._sync.peer] = Nanoseconds(core.now + SYNC_BACKOFF)
            self._sync = None
            self._resume()
        for pending in list(self._intake.pending.values()):
            self._intake.advance(pending)
        self._intake.requested &= self._intake.pending.keys()

    def headers(self, peer: NodeId, raws: Sequence[bytes]) -> None:
        """Ask for the bodies of the headers that are unknown."""
        core = self._core
        wanted = []
        for raw in raws:
            try:
                header = decode_header(raw)
            except MalformedObject as error:
                core.emit(Misbehaviour(peer, f"header: {error}"))
                return
            known = header.id in core.tree.blocks or header.id in self._intake.pending
            if not known and header.height > core.tree.root.height:
                wanted.append(header.id)
        self._intake.requested.update(wanted)
        for start in range(0, len(wanted), MAX_BLOCKS_AT_ONCE):
            core.emit(Send(peer, GetBlocks(tuple(wanted[start : start + MAX_BLOCKS_AT_ONCE]))))

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
        core = self._core
        missing = []
        for id in ids[:MAX_BLOCKS_AT_ONCE]:
            block = core.tree.blocks.get(Digest(id)) or self._finality.recent.get(Digest(id))
            if block is None or not block.header:
                missing.append(id)
            else:
                votes = tuple(vote.raw for vote in block.votes)
                core.emit(Send(peer, FullBlock(block.header, block.transactions, votes)))
        if missing:
            core.emit(Send(peer, BlocksMissing(tuple(missing))))

    def serve_finalized(self, peer: NodeId, request: GetFinalized) -> None:
        self._core.emit(ServeFinalized(peer, Height(request.from_height)))

    # --- catching up ---

    def _start_sync(self, peer: NodeId) -> None:
        if self._sync is None and peer not in self._slow:
            self._ask(peer, Height(self._core.tree.root.height + 1))

    def _ask(self, peer: NodeId, from_height: Height) -> None:
        core = self._core
        self._sync = _Sync(peer, from_height, Nanoseconds(core.now + SYNC_TIMEOUT))
        core.emit(Send(peer, GetFinalized(from_height)))

    def finalized(self, peer: NodeId, message: FinalizedBlocks) -> None:
        """Take the answer to GetFinalized: blocks as any others, but not held; then the certificate's votes."""
        sync = self._sync
        if sync is None or sync.peer != peer or sync.expected is not None:
            return
        if not message.blocks:
            self._end_sync()
            return
        try:
            sync.expected = decode_header(message.blocks[-1].header).id
        except MalformedObject as error:
            self._core.emit(Misbehaviour(peer, f"header: {error}"))
            return
        sync.deadline = Nanoseconds(self._core.now + SYNC_TIMEOUT)
        for block in message.blocks:
            self._intake.full(peer, block.header, block.transactions, block.votes, synced=True)
        if message.certificate:
            self._finality.receive(peer, message.certificate)
        if sync.expected in self._core.tree.blocks or sync.expected == self._core.tree.root.id:
            self._next_batch(sync, self._core.tree.blocks[sync.expected])

    def validated(self, block: Block) -> None:
        """A block is in the tree: the catch-up may go on."""
        if self._sync is not None and self._sync.expected == block.id:
            self._next_batch(self._sync, block)

    def _next_batch(self, sync: _Sync, last: Block) -> None:
        status = self._statuses.get(sync.peer)
        if status is not None and status.finalized_height > last.height:
            self._ask(sync.peer, Height(last.height + 1))
        else:
            self._end_sync()

    def _end_sync(self) -> None:
        self._sync = None
        self._resume()

    def _resume(self) -> None:
        """After a catch-up: go on with another peer that is further, or take part again."""
        core = self._core
        core.wake_proposer = True
        for peer, status in self._statuses.items():
            ahead = status.finalized_height > core.tree.root.height
            if ahead and Digest(status.finalized) not in core.tree.blocks and peer not in self._slow:
                self._start_sync(peer)
                return
        self._voter.consider()
