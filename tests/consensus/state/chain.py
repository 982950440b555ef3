"""A chain of states with real keys: validators that do their duties, blocks that are checked as a node checks them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from microchain.consensus.genesis import Genesis, Parameters, RegistryEntry
from microchain.consensus.objects import (
    HEADER_TAG,
    TRANSACTION_TAG,
    VOTE_TAG,
    Header,
    HeaderBody,
    Transaction,
    TransactionBody,
    Vote,
    VoteBody,
    decode_header,
    decode_transaction,
    decode_vote,
    encode_body,
    seal,
)
from microchain.consensus.state import (
    BlockContext,
    ChainState,
    ClaimDuty,
    DealDuty,
    InvalidTransaction,
    RevealDuty,
    apply_block,
    compute_checks,
    encode_payload,
    find_duty,
    genesis_state,
    get_account,
    next_dynasty,
    perform_checks,
)
from microchain.consensus.types import Height, NodeId, TransactionKind
from microchain.crypto.hashing import tagged_hash
from microchain.crypto.pvss import PvssKey
from microchain.crypto.signatures import SCHEMES
from microchain.crypto.suite import RealSuite
from microchain.crypto.vrf import VrfKey
from msgspec import Struct

ED25519 = SCHEMES["ed25519"]
SUITE = RealSuite("ed25519")


class Node:
    """One node's keys, the same for the same name."""

    def __init__(self, name: str, role: str = "validator", credit: int = 100) -> None:
        seed = sha256(name.encode()).digest()
        self.name = name
        self._signing = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._signing.public_key().public_bytes_raw()
        self.vrf, self.pvss = VrfKey(seed), PvssKey(seed)
        self.entry = RegistryEntry(
            name=name,
            role=role,  # type: ignore[arg-type]
            signing_key=self.public_key,
            vrf_key=self.vrf.public_key,
            pvss_key=self.pvss.public_key,
            tls_key=seed,
            address=f"{name}:9101",
            credit=credit,
        )
        self.id = self.entry.node_id

    def sign(self, tag: str, body: TransactionBody | HeaderBody | VoteBody) -> bytes:
        signed = encode_body(body)
        return seal(signed, self._signing.sign(tagged_hash(tag, signed)))

    def transaction(
        self, chain: Chain, kind: TransactionKind, payload: Struct | bytes, chain_id: bytes = b""
    ) -> Transaction:
        data = payload if isinstance(payload, bytes) else encode_payload(payload)
        body = TransactionBody(1, chain_id or chain.state.rules.chain_id, kind, self.id, chain.state.height + 50, data)
        return decode_transaction(self.sign(TRANSACTION_TAG, body))

    def vote(self, chain: Chain, epoch: int, *, dynasty: int = 0, source: int = -1, target: bytes = b"t" * 32) -> Vote:
        source = epoch - 1 if source < 0 else source
        chain_id, dynasty = chain.state.rules.chain_id, dynasty or chain.state.dynasty
        body = VoteBody(1, chain_id, dynasty, b"s" * 32, source, target, epoch, self.id)
        return decode_vote(self.sign(VOTE_TAG, body))

    def header(self, chain: Chain, **changes: Any) -> Header:
        root = bytes(32)
        fields: dict[str, Any] = {
            "version": 1,
            "chain_id": chain.state.rules.chain_id,
            "height": 7,
            "slot": 9,
            "parent": root,
            "dynasty": chain.state.dynasty,
            "tx_root": root,
            "votes_root": root,
            "state_root": root,
            "committee_root": root,
            "proposer": self.id,
            "seed_proof": b"",
            "timestamp": 0,
        }
        return decode_header(self.sign(HEADER_TAG, HeaderBody(**(fields | changes))))


class Chain:
    """The states of one branch, on which everything is final two blocks later."""

    def __init__(self, nodes: Sequence[Node], authority: Node | None = None, **parameters: Any) -> None:
        chosen = Parameters(signature="ed25519", **({"dynasty_epochs": 20} | parameters))
        registry = tuple(node.entry for node in nodes)
        authority_key = authority.public_key if authority else b""
        self.genesis = Genesis(run_id="0" * 32, parameters=chosen, registry=registry, authority=authority_key)
        self.nodes = {node.id: node for node in nodes}
        self.state = genesis_state(self.genesis)

    def context(self, proposer: Node | None = None) -> BlockContext:
        height = self.state.height + 1
        return BlockContext(Height(height), proposer.id if proposer else NodeId(b""), Height(max(0, height - 3)))

    def duty(self, node: Node) -> Transaction | None:
        """What the node sends now: its deal, reveal or claim."""
        match find_duty(self.state, self.context(), node.id):
            case DealDuty() as deal:
                return node.transaction(self, deal.kind, deal.payload(node.pvss.deal(deal.statement)))
            case RevealDuty() as reveal:
                return node.transaction(
                    self, reveal.kind, reveal.payload(node.pvss.reveal(reveal.context, reveal.encrypted))
                )
            case ClaimDuty() as claim:
                result = node.vrf.prove(claim.alpha)
                if claim.is_drawn(self.state, node.id, result[1]):
                    return node.transaction(self, claim.kind, claim.payload(result))
        return None

    def duties(self, nodes: Iterable[Node]) -> list[Transaction]:
        return [duty for node in nodes if (duty := self.duty(node)) is not None]

    def extend(
        self,
        *transactions: Transaction,
        votes: Sequence[Vote] = (),
        proposer: Node | None = None,
        context: BlockContext | None = None,
    ) -> None:
        """Add a block; InvalidTransaction if a node would refuse it."""
        self.state = self.try_block(*transactions, votes=votes, proposer=proposer, context=context)

    def try_block(
        self,
        *transactions: Transaction,
        votes: Sequence[Vote] = (),
        proposer: Node | None = None,
        context: BlockContext | None = None,
    ) -> ChainState:
        state = apply_block(self.state, context or self.context(proposer), transactions, votes)
        if not perform_checks(compute_checks(self.state, transactions), SUITE):
            raise InvalidTransaction("a signature or proof is wrong")
        return state

    def run(self, until: int, active: Iterable[Node] | None = None) -> None:
        """Add blocks up to that height, in which the active nodes (or all) do their duties."""
        nodes = list(self.nodes.values() if active is None else active)
        while self.state.height < until:
            self.extend(*self.duties(nodes))

    def finish(self, active: Iterable[Node] | None = None) -> None:
        """Run to the dynasty's end and change to the next."""
        nodes = list(self.nodes.values() if active is None else active)
        while self.state.height < self.state.windows.end:
            self.run(self.state.height + 1, nodes)
        self.state = next_dynasty(self.state)

    def credit(self, node: Node) -> int:
        account = get_account(self.state, node.id)
        assert account is not None
        return account.entry.credit

    def members(self) -> set[str]:
        return {self.nodes[NodeId(seat.id)].name for seat in self.state.seats}
