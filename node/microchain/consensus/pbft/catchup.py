"""State transfer: final blocks that this replica lacks, from one peer at a time, proven by a certificate of commits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from microchain.consensus.interface import JobResult, MerkleRoot, Misbehaviour, Send, VerifySignatures
from microchain.consensus.messages import FinalizedBlocks, FullBlock, GetFinalized
from microchain.consensus.objects import Header, decode_header, decode_transaction
from microchain.consensus.pbft.agreement import Agreement
from microchain.consensus.pbft.certificates import Signed, check_commits
from microchain.consensus.pbft.core import MILLISECOND, Block, ReplicaCore
from microchain.consensus.pbft.validity import Triple, check_header, decode
from microchain.consensus.types import Height, NodeId, ProtocolError

__all__ = ["CatchUp"]

SECOND = 1_000 * MILLISECOND
ANSWER_TIMEOUT = 5 * SECOND
BACKOFF = SECOND
MAX_DOUBLINGS = 6


class _Sync(Struct):
    peer: NodeId
    from_height: Height
    deadline: int
    checking: bool = False


class CatchUp:
    """Fetches final blocks. A peer that does not deliver what it claims is not believed for a while."""

    def __init__(self, core: ReplicaCore, agreement: Agreement) -> None:
        self._core = core
        self._agreement = agreement
        self._claims: dict[NodeId, Height] = {}
        self._sync: _Sync | None = None
        self._failures: dict[NodeId, int] = {}
        self._distrusted: dict[NodeId, int] = {}

    @property
    def active(self) -> bool:
        """Whether this replica is fetching final blocks."""
        return self._sync is not None

    def heard(self, peer: NodeId, height: Height) -> None:
        """A peer says what is final there."""
        self._claims[peer] = height
        self._start()

    def disconnected(self, peer: NodeId) -> None:
        self._claims.pop(peer, None)
        if self._sync is not None and self._sync.peer == peer:
            self._end()

    def tick(self) -> None:
        """Give up on a peer that does not deliver."""
        now = self._core.now
        self._distrusted = {peer: until for peer, until in self._distrusted.items() if until > now}
        if self._sync is not None and not self._sync.checking and now >= self._sync.deadline:
            self._fail()
        self._start()

    def _start(self) -> None:
        """Ask the most reliable of those that are ahead, unless one is asked already."""
        core = self._core
        if self._sync is not None:
            return
        ahead = [
            peer for peer, height in self._claims.items() if height > core.tip.height and peer not in self._distrusted
        ]
        if ahead:
            peer = min(ahead, key=lambda p: (self._failures.get(p, 0), -self._claims[p]))
            self._sync = _Sync(peer, core.next_height, core.now + ANSWER_TIMEOUT)
            core.emit(Send(peer, GetFinalized(core.next_height)))

    def _end(self) -> None:
        self._sync = None
        self._core.wake_proposer = True
        self._start()

    def _fail(self) -> None:
        assert self._sync is not None
        peer = self._sync.peer
        failures = self._failures.get(peer, 0)
        self._failures[peer] = failures + 1
        self._distrusted[peer] = self._core.now + (BACKOFF << min(failures, MAX_DOUBLINGS))
        self._end()

    # --- the answer ---

    def receive(self, peer: NodeId, message: FinalizedBlocks) -> None:
        """Take the answer to GetFinalized; blocks that became final here meanwhile are skipped."""
        core, sync = self._core, self._sync
        if sync is None or sync.peer != peer or sync.checking:
            return
        if not message.blocks:
            self._fail()
            return
        try:
            headers = [decode_header(block.header) for block in message.blocks]
            self._check_chain(headers, sync.from_height)
            last = headers[-1]
            signed = check_commits(core.committee, core.chain_id, message.certificate, last.id, last.height)
            blocks, triples = self._decode(headers, message.blocks)
        except ProtocolError as error:
            core.emit(Misbehaviour(peer, f"finalized blocks: {error}"))
            self._fail()
            return
        sync.checking = True
        certificate = message.certificate
        items = [Signed(h.proposer, h.id, h.signature) for h in headers]
        core.verify(
            [*signed, *items],
            lambda valid: self._check_bodies(sync, headers, blocks, triples, certificate, valid=valid),
        )

    def _check_chain(self, headers: Sequence[Header], from_height: Height) -> None:
        for header in headers:
            check_header(self._core, header)
        if headers[0].height != from_height or any(
            upper.parent != lower.id or upper.height != lower.height + 1 for lower, upper in pairwise(headers)
        ):
            raise ProtocolError(f"no chain from height {from_height} on")

    def _decode(self, headers: Sequence[Header], messages: Sequence[FullBlock]) -> tuple[list[Block], list[Triple]]:
        """Return the blocks and the signatures of their transactions that were not checked before."""
        core = self._core
        blocks, triples = [], []
        for header, message in zip(headers, messages, strict=True):
            ids, expiries = [], []
            for raw in message.transactions:
                id = decode_transaction(raw).id
                entry = core.pool.get(id)
                if entry is not None and entry.raw == raw:
                    expiries.append(entry.valid_until)
                else:
                    valid_until, triple = decode(core, id, raw)
                    expiries.append(valid_until)
                    triples.append(triple)
                ids.append(id)
            blocks.append(
                Block(
                    header.id,
                    header.height,
                    header.parent,
                    header.slot,
                    header.proposer,
                    header.raw,
                    message.transactions,
                    tuple(ids),
                    tuple(expiries),
                    message.votes,
                )
            )
        return blocks, triples

    def _check_bodies(
        self,
        sync: _Sync,
        headers: Sequence[Header],
        blocks: list[Block],
        triples: Sequence[Triple],
        certificate: tuple[bytes, ...],
        *,
        valid: bool,
    ) -> None:
        """The certificate proves the headers, the headers' roots the bodies, but not the transactions' signatures."""
        core = self._core
        if not valid:
            self._refuse(sync, "a wrong signature")
            return

        def done(results: tuple[JobResult, ...]) -> None:
            verdicts = results[-1]
            assert isinstance(verdicts, tuple)
            roots = [(h.body.tx_root, h.body.votes_root) for h in headers]
            if not all(verdicts):
                self._refuse(sync, "a transaction with a wrong signature")
            elif list(zip(results[:-1:2], results[1:-1:2], strict=True)) != roots:
                self._refuse(sync, "a root does not match its body")
            else:
                self._adopt(sync, blocks, certificate)

        jobs = [job for block in blocks for job in (MerkleRoot(block.ids), MerkleRoot(block.votes))]
        core.work((*jobs, VerifySignatures(tuple(triples))), done)

    def _refuse(self, sync: _Sync, reason: str) -> None:
        self._core.emit(Misbehaviour(sync.peer, f"finalized blocks: {reason}"))
        if self._sync is sync:
            self._fail()

    def _adopt(self, sync: _Sync, blocks: list[Block], certificate: tuple[bytes, ...]) -> None:
        core = self._core
        fresh = [block for block in blocks if block.height > core.tip.height]
        self._failures.pop(sync.peer, None)
        if self._sync is sync:
            self._sync = None
        if fresh and fresh[0].parent == core.tip.id:
            self._agreement.finalize(fresh, certificate)
        if self._sync is None:
            self._end()
