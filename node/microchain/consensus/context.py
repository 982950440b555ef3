"""What the parts of any engine share: parameters, pool, peers, and the list of actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from microchain.consensus.genesis import Committee, Genesis, Member
from microchain.consensus.interface import Action, EvidenceRecord, Job, JobResult, Persist, Record, SetTimer, Work
from microchain.consensus.objects import Transaction
from microchain.consensus.pool import Pool
from microchain.consensus.replay import ReplayIndex
from microchain.consensus.state import Checks
from microchain.consensus.types import Height, Nanoseconds, NodeId, TransactionKind

__all__ = ["Context"]

MAX_EVIDENCE = 16


class Context:
    """Shared state. ``now`` and ``actions`` belong to the event being handled.

    ``wake_proposer`` is set by whoever changed something that decides whether it is time to propose, ``on_evidence``
    called with evidence that is new here, ``on_refuted`` with a system transaction that is its sender's and proves
    nothing. The engine sets ``committee`` and ``me``.
    """

    kinds: frozenset[TransactionKind]
    """Which transactions there are on the engine's chain."""
    committee: Committee
    me: Member | None

    def __init__(self, genesis: Genesis, identity: NodeId) -> None:
        self.genesis = genesis
        self.parameters = genesis.parameters
        self.chain_id = genesis.chain_id()
        self.identity = identity
        self.now = Nanoseconds(0)
        self.actions: list[Action] = []
        self.connected: set[NodeId] = set()
        self.pool = Pool(self.parameters.max_pool_bytes)
        self.replay = ReplayIndex()
        self.evidence = 0
        self.on_evidence: Callable[[EvidenceRecord], None] = lambda record: None
        self.on_refuted: Callable[[Transaction], None] = lambda transaction: None
        self.wake_proposer = True
        self._offences: Counter[NodeId] = Counter()
        self._token = 0
        self._works: dict[int, Callable[[tuple[JobResult, ...]], None]] = {}
        self._persists: dict[int, Callable[[], None]] = {}

    @property
    def head_height(self) -> Height:
        """The height that the next block of this node's branch follows."""
        raise NotImplementedError

    @property
    def senders(self) -> Mapping[NodeId, bytes]:
        """The signing keys of all whose transactions count now."""
        raise NotImplementedError

    def list_checks(self, transaction: Transaction) -> Checks:
        """Return what is to be verified of a system transaction; ProtocolError if it can't be right."""
        raise NotImplementedError

    def may_include(self, transaction: Transaction) -> bool:
        """Whether the next block of this node's branch may contain a system transaction."""
        raise NotImplementedError

    # --- actions ---

    def emit(self, action: Action) -> None:
        self.actions.append(action)

    @property
    def jobs(self) -> int:
        """How many calculations are under way."""
        return len(self._works)

    def work(self, jobs: tuple[Job, ...], then: Callable[[tuple[JobResult, ...]], None]) -> None:
        """Have jobs done and go on with their results."""
        self._token += 1
        self._works[self._token] = then
        self.emit(Work(self._token, jobs))

    def persist(self, records: tuple[Record, ...], *, durable: bool, then: Callable[[], None] | None = None) -> None:
        """Have records stored, and go on when they are."""
        self._token += 1
        if then is not None:
            self._persists[self._token] = then
        self.emit(Persist(self._token, records, durable))

    def work_done(self, token: int, results: tuple[JobResult, ...]) -> None:
        self._works.pop(token)(results)

    def persisted(self, token: int) -> None:
        then = self._persists.pop(token, None)
        if then is not None:
            then()

    def set_timer(self, timer: str, at: int) -> None:
        self.emit(SetTimer(timer, Nanoseconds(at)))

    def record_evidence(self, evidence: EvidenceRecord) -> None:
        """Store evidence for good; a few for each offender, since it can make as much of it as it likes."""
        self._offences[evidence.offender] += 1
        if self._offences[evidence.offender] > MAX_EVIDENCE:
            return
        self.evidence += 1
        self.persist((evidence,), durable=True)
        self.on_evidence(evidence)

    # --- facts ---

    def is_full_mesh(self) -> bool:
        """Whether this node is connected to every other member, so that nobody needs its relaying."""
        return len(self.connected & self.committee.by_id.keys()) >= len(self.committee.members) - (self.me is not None)

    def connected_mask(self) -> int:
        """The members that this node can reach, itself among them."""
        mask = 1 << self.me.index if self.me else 0
        for peer in self.connected:
            member = self.committee.by_id.get(peer)
            if member is not None:
                mask |= 1 << member.index
        return mask
