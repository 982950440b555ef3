"""Catching up with finalized blocks that this node lacks (protocol, section 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from microchain.consensus.core import Core
from microchain.consensus.finality import Finality
from microchain.consensus.intake import Intake
from microchain.consensus.interface import Misbehaviour, Send
from microchain.consensus.messages import FinalizedBlocks, GetFinalized, Status
from microchain.consensus.objects import Header, MalformedObject, decode_header, decode_vote
from microchain.consensus.tree import MILLISECOND, Block, epoch_of
from microchain.consensus.types import Digest, Height, NodeId
from microchain.consensus.voter import Voter

__all__ = ["CatchUp"]

SECOND = 1_000 * MILLISECOND
ANSWER_TIMEOUT = 5 * SECOND
PATIENCE = 30 * SECOND
BACKOFF = SECOND
MAX_DOUBLINGS = 6


class _Sync(Struct):
    """One catch-up in progress: what was asked of whom, and the last block of its answer.

    ``final`` is the finalized height when it last rose; if it does not rise until ``patience`` is over, the peer has
    only kept this node busy.
    """

    peer: NodeId
    from_height: Height
    deadline: int
    final: Height
    patience: int
    expected: Digest | None = None


class CatchUp:
    """Fetches finalized blocks from one peer at a time; a peer that does not deliver is not believed for a while."""

    def __init__(
        self, core: Core, finality: Finality, intake: Intake, voter: Voter, statuses: Mapping[NodeId, Status]
    ) -> None:
        self._core = core
        self._finality = finality
        self._intake = intake
        self._voter = voter
        self._statuses = statuses
        self._sync: _Sync | None = None
        self._distrusted: dict[NodeId, int] = {}
        self._failures: dict[NodeId, int] = {}
        self._at_first: dict[NodeId, Status] = {}

    @property
    def active(self) -> bool:
        """Whether this node is fetching finalized blocks that it lacks."""
        return self._sync is not None

    @property
    def is_silencing(self) -> bool:
        """Whether this node neither votes nor proposes for now.

        While it catches up, that takes claims by more than a third of the weight, so that liars alone silence nobody.
        """
        if self._voter.is_new and self._may_have_voted():
            return True
        return self._sync is not None and self._is_credible([peer for peer in self._statuses if self.is_ahead(peer)])

    def heard(self, peer: NodeId, status: Status) -> None:
        """Remember what a member had when this node, new, first heard of it."""
        if self._voter.is_new and peer in self._core.committee.by_id:
            self._at_first.setdefault(peer, status)
            if not self._may_have_voted():
                self._voter.begin()
        if self.is_ahead(peer):
            self.start(peer)

    def _may_have_voted(self) -> bool:
        """Whether the chain may be older than this node's new journal: it is, or too few have said that it is not."""
        older = [peer for peer, status in self._at_first.items() if status.finalized_height]
        heard = self._mask([*self._at_first, self._core.identity])
        return self._is_credible(older) or not self._core.committee.is_supermajority(heard)

    def _has_caught_up(self, *, before_closing: bool = False) -> bool:
        """Whether this node has what was final with more than two thirds of the weight, itself among them, at first.

        Who claims more than there is can't keep it from that; who shows it a part of the chain proves nothing. With
        ``before_closing`` only those count that had not voted for a closing block of this dynasty then.
        """
        final = self._core.tree.root.height
        behind = [
            peer
            for peer, status in self._at_first.items()
            if status.finalized_height <= final and not (before_closing and self._has_closed(status))
        ]
        return self._core.committee.is_supermajority(self._mask([*behind, self._core.identity]))

    def _has_closed(self, status: Status) -> bool:
        """Whether a member's last vote is above the end of this dynasty (that may still move up), or of a later one."""
        core = self._core
        if not status.vote:
            return False
        try:
            vote = decode_vote(status.vote)
        except MalformedObject:
            return True
        end = epoch_of(core.tree.root.chain.windows.end, core.parameters)
        return (vote.body.dynasty, vote.target_epoch) > (core.dynasty, end)

    def _is_credible(self, peers: Sequence[NodeId]) -> bool:
        """Whether at least one of the peers is honest: they hold more than a third of the weight."""
        committee = self._core.committee
        return 3 * committee.weight_of(self._mask(peers)) > committee.total

    def _mask(self, peers: Sequence[NodeId]) -> int:
        members = self._core.committee.by_id
        return sum(1 << members[peer].index for peer in peers if peer in members)

    def is_ahead(self, peer: NodeId) -> bool:
        """Whether a peer says that something is final that this node doesn't have."""
        status, tree = self._statuses[peer], self._core.tree
        return status.finalized_height > tree.root.height and Digest(status.finalized) not in tree.blocks

    def start(self, peer: NodeId) -> None:
        """Catch up with a peer that says it has more that is final, unless one catch-up is going on."""
        core = self._core
        if self._sync is None and peer not in self._distrusted:
            root = core.tree.root.height
            self._sync = _Sync(peer, Height(0), 0, root, core.now + PATIENCE)
            self._ask(self._sync, Height(root + 1))

    def _ask(self, sync: _Sync, from_height: Height) -> None:
        sync.from_height, sync.expected = from_height, None
        sync.deadline = self._core.now + ANSWER_TIMEOUT
        self._core.emit(Send(sync.peer, GetFinalized(from_height)))

    def tick(self) -> None:
        """Give up on a peer that does not deliver."""
        now = self._core.now
        self._distrusted = {peer: until for peer, until in self._distrusted.items() if until > now}
        if self._voter.is_new and self._has_caught_up():
            self._voter.observe(1 if self._has_caught_up(before_closing=True) else 2)
        if self._sync is not None and now >= min(self._sync.deadline, self._sync.patience):
            self._fail()

    def disconnected(self, peer: NodeId) -> None:
        if self._sync is not None and self._sync.peer == peer:
            self._end()

    def finalized(self, peer: NodeId, message: FinalizedBlocks) -> None:
        """Take the answer to GetFinalized: blocks as any others; then the certificate's votes."""
        core, sync = self._core, self._sync
        if sync is None or sync.peer != peer or sync.expected is not None:
            return
        try:
            headers = [decode_header(block.header) for block in message.blocks]
        except MalformedObject as error:
            core.emit(Misbehaviour(peer, f"header: {error}"))
            self._fail()
            return
        if not headers or not _is_chain(headers, sync.from_height):
            if headers:
                core.emit(Misbehaviour(peer, f"finalized blocks that are no chain from height {sync.from_height} on"))
            self._fail()
            return
        sync.expected = headers[-1].id
        sync.deadline = core.now + ANSWER_TIMEOUT
        for block in message.blocks:
            self._intake.full(peer, block.header, block.transactions, block.votes, synced=True)
        if message.certificate:
            self._finality.receive(peer, message.certificate)
        last = headers[-1].height
        if self._sync is sync and (sync.expected in core.tree.blocks or last <= core.tree.root.height):
            self._next_batch(sync, last)

    def validated(self, block: Block) -> None:
        """A block is in the tree: the catch-up may go on."""
        if self._sync is not None and self._sync.expected == block.id:
            self._next_batch(self._sync, block.height)

    def _next_batch(self, sync: _Sync, last: Height) -> None:
        status, final = self._statuses.get(sync.peer), self._core.tree.root.height
        if final > sync.final:
            sync.final, sync.patience = final, self._core.now + PATIENCE
            self._failures.pop(sync.peer, None)
        if status is not None and status.finalized_height > last:
            self._ask(sync, Height(last + 1))
        else:
            self._end()

    def _fail(self) -> None:
        """The peer claimed what it does not deliver: believe it again a second later, and twice as late each time."""
        assert self._sync is not None
        peer = self._sync.peer
        failures = self._failures.get(peer, 0)
        self._failures[peer] = failures + 1
        self._distrusted[peer] = self._core.now + (BACKOFF << min(failures, MAX_DOUBLINGS))
        self._end()

    def _end(self) -> None:
        """Go on with another peer that is further, the most reliable first, or take part again."""
        self._sync = None
        self._intake.end_sync()
        self._core.wake_proposer = True
        ahead = [peer for peer in self._statuses if peer not in self._distrusted and self.is_ahead(peer)]
        if ahead:
            self.start(min(ahead, key=lambda peer: self._failures.get(peer, 0)))
        if not self.is_silencing:
            self._voter.consider()


def _is_chain(headers: list[Header], from_height: Height) -> bool:
    """Whether the headers follow each other from a height on."""
    links = pairwise(headers)
    return headers[0].height == from_height and all(
        upper.parent == lower.id and upper.height == lower.height + 1 for lower, upper in links
    )
