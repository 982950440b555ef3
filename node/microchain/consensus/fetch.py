"""Fetching what is not final and missing here: headers first, then bodies (protocol, section 5, anti-entropy)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from microchain.consensus.core import Core
from microchain.consensus.intake import Intake
from microchain.consensus.interface import Misbehaviour, Send
from microchain.consensus.messages import GetBlocks, GetHeaders, GetTransactions, Status
from microchain.consensus.objects import MalformedObject, decode_header
from microchain.consensus.pending import Pending
from microchain.consensus.tree import MILLISECOND
from microchain.consensus.types import Digest, NodeId

__all__ = ["MAX_BLOCKS_AT_ONCE", "MAX_HEADERS", "Fetch"]

RETRY = 1_000 * MILLISECOND
LIFETIME = 10_000 * MILLISECOND
MAX_HEADERS = 64
MAX_BLOCKS_AT_ONCE = 16
MAX_ASKED_OF_PEER = 16


class _Ask(Struct):
    """Headers asked of a peer; ``again`` and ``until``: when to ask somebody again, and when to forget it."""

    peer: NodeId
    again: int
    until: int
    answered: bool = False


class Fetch:
    """Asks for branches and bodies. Peers answer only what was asked, so none can make this node fetch at will."""

    def __init__(self, core: Core, intake: Intake, statuses: Mapping[NodeId, Status]) -> None:
        self._core = core
        self._intake = intake
        self._statuses = statuses
        self._asked: dict[Digest, _Ask] = {}

    def want(self, peer: NodeId, tip: Digest) -> None:
        """Fetch the branch that ends in ``tip``, headers first, unless it is known or asked for already."""
        core = self._core
        ask = self._asked.get(tip)
        if tip in core.tree.blocks or tip in self._intake.pending or (ask is not None and core.now < ask.again):
            return
        if sum(other.peer == peer for other in self._asked.values()) < MAX_ASKED_OF_PEER:
            self._ask(peer, tip, core.tree.root.id)

    def _ask(self, peer: NodeId, tip: Digest, known: Digest) -> None:
        now = self._core.now
        self._asked[tip] = _Ask(peer, now + RETRY, now + LIFETIME)
        self._core.emit(Send(peer, GetHeaders(tip, known)))

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
        pending.asked_at = core.now + RETRY
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

    def retry(self) -> None:
        """Ask again for what did not come."""
        self._asked = {tip: ask for tip, ask in self._asked.items() if ask.until > self._core.now}
        self._intake.forget_requests()
        for pending in list(self._intake.pending.values()):
            self._intake.advance(pending)

    def headers(self, peer: NodeId, raws: Sequence[bytes]) -> None:
        """Ask for the bodies of the headers that are unknown, or for the headers after these."""
        core = self._core
        try:
            headers = [decode_header(raw) for raw in raws]
        except MalformedObject as error:
            core.emit(Misbehaviour(peer, f"header: {error}"))
            return
        ids = [header.id for header in headers]
        tip = self._answered(peer, ids)
        if tip is None:
            return
        wanted = [
            header.id
            for header in headers
            if header.height > core.tree.root.height
            and header.dynasty >= core.dynasty
            and header.id not in core.tree.blocks
            and header.id not in self._intake.pending
        ]
        self._intake.request(wanted)
        for start in range(0, len(wanted), MAX_BLOCKS_AT_ONCE):
            core.emit(Send(peer, GetBlocks(tuple(wanted[start : start + MAX_BLOCKS_AT_ONCE]))))
        if not wanted and len(ids) == MAX_HEADERS and tip not in ids and ids[-1] in core.tree.blocks:
            self._ask(peer, tip, ids[-1])

    def _answered(self, peer: NodeId, ids: Sequence[Digest]) -> Digest | None:
        """Return the tip that these headers were asked for: one that they reach, else the oldest still open."""
        open_ = [tip for tip, ask in self._asked.items() if ask.peer == peer and not ask.answered]
        tip = next((tip for tip in open_ if tip in ids), open_[0] if open_ else None)
        if tip is not None:
            self._asked[tip].answered = True
        return tip
