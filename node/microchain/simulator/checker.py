"""Watches every step of the honest nodes and says which rule was broken: agreement, durability, honesty, progress."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from microchain.consensus.duties import dynasty_of
from microchain.consensus.genesis import Genesis
from microchain.consensus.handover import is_handover
from microchain.consensus.interface import (
    Action,
    AdmissionCode,
    BlockRecord,
    BlockTrace,
    Broadcast,
    Event,
    EvidenceRecord,
    FinalizedRecord,
    Misbehaviour,
    Persist,
    Reply,
    Send,
)
from microchain.consensus.kept import decode_kept
from microchain.consensus.messages import CompactBlock, FullBlock, Status, Votes
from microchain.consensus.objects import MalformedObject, Vote, decode_header, decode_transaction, decode_vote
from microchain.consensus.state import ChainState, genesis_state, get_committee, next_dynasty
from microchain.consensus.types import Digest, Height, NodeId
from microchain.crypto.suite import Suite
from microchain.simulator.node import SimulatedNode
from microchain.simulator.store import MemoryStore
from microchain.simulator.world import SECOND, World

__all__ = ["Checker"]

MAX_VIOLATIONS = 20

cached_vote = lru_cache(maxsize=20_000)(decode_vote)


class Checker:
    """Collects ``violations``; follows what is finalized, and what became of each acknowledged transaction."""

    def __init__(self, world: World, genesis: Genesis, suite: Suite, honest: frozenset[NodeId]) -> None:
        self.violations: list[str] = []
        self.chain: list[Digest] = [genesis.chain_id()]
        """The finalized chain: the id of the block at each height (genesis: the chain id stands for it)."""
        self.finalized_at: dict[Digest, int] = {}
        """When each transaction was first finalized on an honest node (virtual ns)."""
        self.heights: dict[int, Height] = {}
        """The finalized height of each honest node, by index."""
        self.valid_until: dict[Digest, int] = {}
        """The last height of each transaction that was submitted."""
        self.pending: dict[Digest, SimulatedNode] = {}
        """The entry node of each transaction that is acknowledged and not settled."""
        self.acknowledged = self.expired = self.excused = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called when a node finalized something or took over a client's transaction."""
        self.on_adopted: Callable[[SimulatedNode], None] = lambda node: None
        """Called when an honest node took a new block for its head."""
        self._world = world
        self._committees = {1: get_committee(genesis_state(genesis))}
        self._beacons = {genesis_state(genesis).beacon}
        self._accusers: dict[tuple[NodeId, int], set[int]] = {}
        self._suite = suite
        self._honest = honest
        self._chain_id = genesis.chain_id()
        self._blocks: dict[Digest, BlockRecord] = {}
        self._seen: set[bytes] = set()
        self._proposals: dict[tuple[int, bytes, int, bytes], Digest] = {}
        self._last_votes: dict[tuple[bytes, int], Vote] = {}
        self._entries = {entry.node_id: entry for entry in genesis.registry}
        self._checks: dict[type, Callable[[SimulatedNode, Any], None]] = {
            Persist: self._on_persist,
            Send: self._on_sent,
            Broadcast: self._on_sent,
            Reply: self._on_reply,
            Misbehaviour: self._on_misbehaviour,
            BlockTrace: self._on_trace,
        }

    def report(self, what: str) -> None:
        """Note a violation."""
        self._world.stop()
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(f"at {self._world.now / SECOND:.6f} s: {what}")

    # --- what a node tells ------------------------------------------------------------------------------------------

    def on_started(self, node: SimulatedNode) -> None:
        if not node.is_honest:
            return
        status = node.engine.status()
        height = status.finalized_height
        if isinstance(node.store, MemoryStore) and height != node.store.finalized_height:
            self.report(
                f"{node.name} starts at height {height}, its ledger has {node.store.finalized_height} finalized"
            )
        if height and (height >= len(self.chain) or self.chain[height] != status.finalized):
            self.report(f"{node.name} starts on a block at height {height} that is not the finalized one")
        self.heights[node.index] = height

    def on_stopped(self, node: SimulatedNode) -> None:
        """Excuse what a stopped node had acknowledged: its pool was in memory."""
        lost = [id for id, entry in self.pending.items() if entry is node]
        self.excused += len(lost)
        for id in lost:
            del self.pending[id]

    def on_exception(self, node: SimulatedNode, event: Event | None, error: Exception) -> None:
        where = "".join(traceback.format_tb(error.__traceback__)[-3:])
        kind = type(error).__name__
        self.report(f"{node.name} raised {kind}: {error} when handling {repr(event)[:200]}\n{where}")

    def on_actions(self, node: SimulatedNode, actions: list[Action]) -> None:
        if node.is_honest:
            for action in actions:
                check = self._checks.get(type(action))
                if check is not None:
                    check(node, action)

    # --- finality ---------------------------------------------------------------------------------------------------

    def _on_persist(self, node: SimulatedNode, action: Persist) -> None:
        for record in action.records:
            match record:
                case BlockRecord():
                    if record.id not in self._blocks:
                        self._blocks[record.id] = record
                        self._note_dynasty(record)
                case FinalizedRecord():
                    for id in record.blocks:
                        self._finalize(node, id)
                    self.on_change()
                case EvidenceRecord() if record.offender in self._honest:
                    name = self._entries[record.offender].name
                    self.report(f"{node.name} has evidence ({record.rule}) against {name}, which is honest")
                case EvidenceRecord():
                    self._note_evidence(node, record)

    # --- dynasties --------------------------------------------------------------------------------------------------

    @property
    def dynasties(self) -> int:
        """How many dynasties there have been."""
        return len(self._committees)

    def _note_dynasty(self, block: BlockRecord) -> None:
        """Learn the committee of a dynasty from its first block, and check that its beacon is new."""
        number = decode_header(block.header).dynasty
        last = self._blocks.get(block.parent)
        if number in self._committees or last is None:
            return
        state = next_dynasty(decode_kept(last.state, last.base)[1])
        self._committees[number] = get_committee(state)
        if state.beacon in self._beacons:
            self.report(f"dynasty {number} has the beacon of an earlier one")
        self._beacons.add(state.beacon)

    def _note_evidence(self, node: SimulatedNode, record: EvidenceRecord) -> None:
        """Remember what must be punished."""
        case = (record.offender, dynasty_of(record))
        self._accusers.setdefault(case, set()).add(node.index)

    def _final_state(self) -> ChainState | None:
        block = self._blocks.get(self.chain[-1])
        return decode_kept(block.state, block.base)[1] if block is not None and block.state else None

    def unpunished(self) -> list[tuple[NodeId, int]]:
        """Return the offences that at least two honest nodes found and that still count, but are not punished."""
        state = self._final_state()
        if state is None:
            return []
        punished = {(slash.offender, slash.dynasty) for slash in state.slashes}
        oldest = state.dynasty - state.rules.parameters.exclusion_dynasties
        return [
            case
            for case, accusers in self._accusers.items()
            if len(accusers) >= 2 and case not in punished and case[1] > oldest
        ]

    def check_slashes(self) -> None:
        """Check that nobody honest was punished, and nobody twice for one dynasty."""
        state = self._final_state()
        slashes = [(slash.offender, slash.dynasty) for slash in state.slashes] if state is not None else []
        if len(set(slashes)) < len(slashes):
            self.report("somebody is punished twice for one dynasty")
        for offender, dynasty in slashes:
            if offender in self._honest:
                self.report(
                    f"{self._entries[NodeId(offender)].name}, which is honest, is punished for dynasty {dynasty}"
                )

    def _finalize(self, node: SimulatedNode, id: Digest) -> None:
        block = self._blocks[id]
        height = Height(self.heights[node.index] + 1)
        if block.height != height:
            self.report(f"{node.name} finalizes height {block.height} after {height - 1}")
        elif height < len(self.chain):
            if self.chain[height] != id:
                known = self.chain[height].hex()[:16]
                self.report(f"{node.name} finalizes {id.hex()[:16]} at height {height}, where {known} is final")
        else:
            self._extend(node, block)
        self.heights[node.index] = block.height

    def _extend(self, node: SimulatedNode, block: BlockRecord) -> None:
        if block.height > 1 and block.parent != self.chain[-1]:
            self.report(f"{node.name} finalizes height {block.height} on a parent that is not final")
        self.chain.append(block.id)
        self._world.record(block.height, int.from_bytes(block.id[:8], "big"))
        for id, raw in zip(block.transaction_ids, block.transactions, strict=True):
            body = decode_transaction(raw).body
            if id in self.finalized_at:
                self.report(f"transaction {id.hex()[:16]} is finalized a second time at height {block.height}")
            if body.valid_until < block.height:
                self.report(f"transaction {id.hex()[:16]}, valid until {body.valid_until}, is in block {block.height}")
            self.finalized_at[id] = self._world.now
            self.pending.pop(id, None)
        if block.height % 16 == 0:
            self.expire()

    def _on_trace(self, node: SimulatedNode, action: BlockTrace) -> None:
        if action.event == "adopted":
            self.on_adopted(node)

    # --- transactions -----------------------------------------------------------------------------------------------

    def is_settled(self, id: Digest) -> bool:
        """Whether a transaction is final, or can't be in any block any more."""
        return id in self.finalized_at or self.valid_until[id] <= len(self.chain) - 1

    def expire(self) -> None:
        """Settle the acknowledged transactions that no block can hold any more."""
        height = len(self.chain) - 1
        gone = [id for id in self.pending if self.valid_until[id] <= height]
        self.expired += len(gone)
        for id in gone:
            del self.pending[id]

    def _on_reply(self, node: SimulatedNode, action: Reply) -> None:
        for outcome in action.outcomes:
            if (
                outcome.code is AdmissionCode.ACCEPTED
                and outcome.id is not None
                and outcome.id not in self.finalized_at
            ):
                self.acknowledged += 1
                self.pending[outcome.id] = node
        self.on_change()

    # --- honesty ----------------------------------------------------------------------------------------------------

    def _on_misbehaviour(self, node: SimulatedNode, action: Misbehaviour) -> None:
        if action.peer in self._honest:
            name = self._entries[action.peer].name
            self.report(f"{node.name} accuses {name}, which is honest: {action.reason}")

    def _on_sent(self, node: SimulatedNode, action: Send | Broadcast) -> None:
        match action.message:
            case Votes(votes=votes):
                self._on_votes(node, votes)
            case Status(vote=vote) if vote:
                self._on_votes(node, (vote,))
            case CompactBlock(header=header, votes=votes) | FullBlock(header=header, votes=votes):
                self._on_votes(node, votes)
                self._on_header(node, header)

    def _on_votes(self, node: SimulatedNode, votes: tuple[bytes, ...]) -> None:
        for raw in votes:
            if raw not in self._seen:
                self._seen.add(raw)
                try:
                    vote = cached_vote(raw)
                except MalformedObject as error:
                    if is_handover((raw,)):
                        continue
                    self.report(f"{node.name} passes on a vote that nobody can read: {error}")
                    continue
                if vote.voter in self._honest and self._is_signed(vote.voter, vote.id, vote.signature):
                    self._check_vote(node, vote)

    def _is_signed(self, signer: NodeId, id: Digest, signature: bytes) -> bool:
        entry = self._entries.get(signer)
        return entry is not None and self._suite.verify(entry.signing_key, id, signature)

    def _check_vote(self, node: SimulatedNode, vote: Vote) -> None:
        last = self._last_votes.get((vote.voter, vote.body.dynasty))
        name = self._entries[vote.voter].name
        if last is not None and (vote.target_epoch <= last.target_epoch or vote.source_epoch < last.source_epoch):
            if vote.id != last.id:
                was, now = (f"{v.source_epoch} → {v.target_epoch} ({v.target.hex()[:16]})" for v in (last, vote))
                self.report(f"{name}, which is honest, votes {now} after {was}")
            return
        self._last_votes[vote.voter, vote.body.dynasty] = vote
        if node.id == vote.voter and isinstance(node.store, MemoryStore):
            self._check_durable(node, node.store, vote)

    def _check_durable(self, node: SimulatedNode, store: MemoryStore, vote: Vote) -> None:
        """Check what must be durable before a vote is sent: the vote, its target's branch, its source's votes."""
        missing = [] if store.is_durable(vote.id) else ["the vote"]
        if vote.target in store.finalized and store.is_durable(vote.target) and not missing:
            return  # It became final while the vote was on its way to the disk.
        branch: list[BlockRecord] = []
        id = vote.target
        final = set(store.finalized[-1:]) | {self._chain_id}
        while id not in final and (block := store.blocks.get(id)) is not None and block.height > store.finalized_height:
            branch.append(block)
            if not store.is_durable(id):
                missing.append(f"block {block.height}")
            id = block.parent
        if id not in final and store.finalized:
            missing.append(f"block {id.hex()[:16]}")
        if (
            vote.source_epoch
            and vote.source not in store.finalized
            and not self._proves(store, branch, vote.source, vote.body.dynasty)
        ):
            missing.append("the votes that justify its source")
        if missing:
            self.report(f"{node.name} sends a vote for epoch {vote.target_epoch} before these are durable: {missing}")

    def _proves(self, store: MemoryStore, branch: list[BlockRecord], source: Digest, dynasty: int) -> bool:
        votes = [record.raw for record in store.votes.values() if record.target == source]
        votes += [raw for block in branch for raw in block.votes if not is_handover((raw,))]
        decoded = (cached_vote(raw) for raw in votes)
        voters = {vote.voter for vote in decoded if vote.target == source}
        committee = self._committees[dynasty]
        return committee.is_supermajority(sum(1 << committee.by_id[voter].index for voter in voters))

    def _on_header(self, node: SimulatedNode, raw: bytes) -> None:
        if raw in self._seen:
            return
        self._seen.add(raw)
        try:
            header = decode_header(raw)
        except MalformedObject as error:
            self.report(f"{node.name} sends a header that nobody can read: {error}")
            return
        if header.proposer not in self._honest or not self._is_signed(header.proposer, header.id, header.signature):
            return
        key = (header.dynasty, header.parent, header.slot, header.proposer)
        if self._proposals.setdefault(key, header.id) != header.id:
            name = self._entries[header.proposer].name
            self.report(f"{name}, which is honest, proposes twice in slot {header.slot} on {header.parent.hex()[:16]}")
        if node.id == header.proposer and isinstance(node.store, MemoryStore) and not node.store.is_durable(header.id):
            self.report(f"{node.name} sends its block at height {header.height} before it is durable")
