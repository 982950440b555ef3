"""Tools of an attacker: blocks and votes made at will, engines whose work is late, and how much an engine keeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256

import msgspec
from microchain.consensus.core import Core, compute_seed, seed_alpha
from microchain.consensus.engine import MicrochainEngine
from microchain.consensus.interface import Work
from microchain.consensus.messages import CompactBlock, FullBlock, Message, Status
from microchain.consensus.objects import (
    TRANSACTION_TAG,
    VOTE_TAG,
    HeaderBody,
    TransactionBody,
    VoteBody,
    decode_header,
    decode_transaction,
    decode_vote,
    encode_body,
    seal,
)
from microchain.consensus.state import state_root
from microchain.consensus.tree import Block
from microchain.consensus.types import Digest, NodeId
from microchain.crypto.hashing import tagged_hash
from microchain.crypto.merkle import merkle_root
from microchain.simulator.crypto import SimulatedKeyring

from tests.consensus.driver import SECOND, Driver, Town

__all__ = [
    "Forge",
    "LateDriver",
    "Scene",
    "compact",
    "full",
    "largest_containers",
    "random_id",
    "status_of",
    "transaction",
]


class Forge:
    """Makes valid blocks of any member on any parent, and wrong ones where a field is named."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.core = Core(town.genesis, town.members[0], None)
        self.genesis = self.core.tree.root

    def ranked(self, parent: Block) -> list[NodeId]:
        """The members in the order of their candidacy on ``parent``."""
        candidates = [parent.lottery.candidate(n) for n in range(len(self.town.members))]
        return [candidate.member.id for candidate in candidates if candidate is not None]

    def block(
        self,
        parent: Block,
        transactions: Sequence[bytes] = (),
        votes: Sequence[bytes] = (),
        /,
        *,
        rank: int = 0,
        signer: NodeId | None = None,
        **changes: object,
    ) -> Block:
        """A block of the parent's candidate ``rank``; ``changes`` replace fields of the header before it is signed."""
        core, candidate = self.core, parent.lottery.candidate(rank)
        assert candidate is not None
        proof, output = self.town.keyrings[candidate.member.id].prove(seed_alpha(parent.state.seed, candidate.slot))
        decoded = [decode_transaction(raw) for raw in transactions]
        contained = tuple(decode_vote(raw) for raw in votes)
        chain = core.chain_after(parent, candidate.member.id, (), contained)
        body = HeaderBody(
            1,
            core.chain_id,
            parent.height + 1,
            candidate.slot,
            parent.id,
            1,
            merkle_root([transaction.id for transaction in decoded]),
            merkle_root(list(votes)),
            state_root(chain),
            core.committee.root,
            candidate.member.id,
            proof,
            0,
        )
        body = msgspec.structs.replace(body, **changes)
        header = decode_header(self.town.header(body, signer or candidate.member.id))
        epoch = core.checkpoint_epoch(parent.height + 1)
        try:
            state = parent.state.extend(header.id, epoch, compute_seed(output), contained, core.committee)
        except KeyError:  # Votes that the branch can't contain.
            state = parent.state
        made = core.make_block(
            header=header.raw, id=header.id, parent=parent, candidate=candidate, state=state, chain=chain
        )
        expiries = tuple(transaction.body.valid_until for transaction in decoded)
        made.set_body(tuple(transactions), tuple(t.id for t in decoded), expiries, contained)
        return made

    def vote(self, voter: NodeId, target: Block, /, *, signer: NodeId | None = None, **changes: object) -> bytes:
        """A vote for a checkpoint; ``changes`` replace fields of it before it is signed."""
        entry = target.state.open[target.id]
        body = VoteBody(1, self.town.chain_id, 1, entry.source, entry.source_epoch, target.id, entry.epoch, voter)
        signed = encode_body(msgspec.structs.replace(body, **changes))
        return seal(signed, self.town.keyrings[signer or voter].sign(tagged_hash(VOTE_TAG, signed)))

    def votes(self, target: Block) -> list[bytes]:
        """Everybody's vote."""
        return [self.vote(member, target) for member in self.town.members]

    def chain(self, length: int, *, parent: Block | None = None, rank: int = 0, voted: bool = True) -> list[Block]:
        """Blocks on top of each other; with ``voted``, each contains everybody's votes for the one below."""
        blocks: list[Block] = []
        at = parent or self.genesis
        for _ in range(length):
            votes = self.votes(at) if voted and blocks else ()
            at = self.block(at, (), votes, rank=rank)
            blocks.append(at)
        return blocks


def full(block: Block) -> FullBlock:
    """The message that carries a block whole."""
    return FullBlock(block.header, block.transactions, tuple(vote.raw for vote in block.votes))


def compact(block: Block) -> CompactBlock:
    """The message that carries a block by its transactions' ids."""
    return CompactBlock(block.header, block.transaction_ids, tuple(vote.raw for vote in block.votes))


class LateDriver(Driver):
    """An engine whose work is done only when `catch_up` is called, so that much happens meanwhile."""

    def __init__(self, town: Town, id: NodeId) -> None:
        self._late: deque[Work] = deque()
        super().__init__(town, id)

    def finish(self, work: Work) -> None:
        self._late.append(work)

    def catch_up(self) -> None:
        """Do all work that waits, and what follows from it."""
        while self._late:
            super().finish(self._late.popleft())


class Scene:
    """A town, a forge, and one victim that is none of the first two candidates after genesis."""

    def __init__(self, *, late: bool = False, **parameters: object) -> None:
        self.town = Town(**{"idle_interval_ms": 3_600_000, **parameters})
        self.forge = Forge(self.town)
        self.order = self.forge.ranked(self.forge.genesis)
        self.liar, self.honest, self.victim_id = self.order[0], self.order[1], self.order[-1]
        self.victim = LateDriver(self.town, self.victim_id) if late else Driver(self.town, self.victim_id)
        for peer in self.town.members:
            if peer != self.victim_id:
                self.victim.meet(peer)

    def finish(self) -> None:
        if isinstance(self.victim, LateDriver):
            self.victim.catch_up()

    def hear(self, peer: NodeId, *messages: Message) -> None:
        self.victim.hear(peer, *messages)
        self.finish()

    def head(self) -> Digest:
        return self.victim.engine.status().head

    def accused(self) -> set[NodeId]:
        return {accusation.peer for accusation in self.victim.accusations()}

    def works_on(self) -> bool:
        """Whether four honest blocks with everybody's votes are still taken, final but for the last two."""
        before, parent = self.accused(), self.forge.genesis
        for _ in range(4):
            votes = self.forge.votes(parent) if parent.height else ()
            rank = next(n for n, member in enumerate(self.forge.ranked(parent)) if member != self.liar)
            parent = self.forge.block(parent, (), votes, rank=rank)
            self.hear(parent.proposer, full(parent))
            self.victim.advance(2 * SECOND)
            self.finish()
        status = self.victim.engine.status()
        return status.finalized_height >= 2 and self.accused() == before


def random_id(*parts: object) -> Digest:
    return Digest(sha256(repr(parts).encode()).digest())


def status_of(height: int, *, finalized: int = 0, name: object = "head", vote: bytes = b"") -> Status:
    return Status(
        random_id(name, height),
        height,
        random_id("j", finalized),
        finalized,
        random_id("f", finalized),
        finalized,
        vote,
    )


def transaction(town: Town, *, key: SimulatedKeyring | None = None, payload: bytes = b"x", **changes: object) -> bytes:
    body = TransactionBody(1, town.chain_id, 0, town.device, 100, payload)
    signed = encode_body(msgspec.structs.replace(body, **changes))
    return seal(signed, (key or town.keyrings[town.device]).sign(tagged_hash(TRANSACTION_TAG, signed)))


def _children(item: object) -> Iterator[tuple[str, object]]:
    if isinstance(item, dict):
        yield from (("[key]", key) for key in item)
        yield from (("[]", value) for value in item.values())
    elif isinstance(item, list | tuple | set | frozenset | deque):
        yield from (("[]", value) for value in item)
    elif type(item).__module__.startswith("microchain"):
        names = {slot for kind in type(item).__mro__ for slot in getattr(kind, "__slots__", ())}
        names |= set(getattr(item, "__struct_fields__", ())) | set(getattr(item, "__dict__", ()))
        yield from ((f".{name}", getattr(item, name, None)) for name in sorted(names))


def largest_containers(engine: MicrochainEngine) -> dict[str, int]:
    """The length of every container that an engine holds, by its path; of several at one path, the largest."""
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("engine", engine)]
    while waiting:
        path, item = waiting.pop()
        if id(item) in seen or isinstance(item, bytes | str | int | float | None):
            continue
        seen.add(id(item))
        if isinstance(item, dict | list | tuple | set | frozenset | deque):
            sizes[path] = max(sizes.get(path, 0), len(item))
        waiting += [(path + name, child) for name, child in _children(item)]
    return sizes
