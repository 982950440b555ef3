"""The genesis document: parameters, registry and run id; its hash is the chain id (protocol, section 1)."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from microchain.consensus.sortition import compute_unsafe_probability
from microchain.consensus.types import Digest, NodeId, ProtocolError, Weight
from microchain.crypto.hashing import tagged_hash
from microchain.crypto.merkle import merkle_root

__all__ = [
    "Committee",
    "Genesis",
    "GenesisError",
    "Member",
    "Parameters",
    "RegistryEntry",
    "Sortition",
    "compute_weights",
    "decode_genesis",
    "encode_genesis",
    "node_id",
]


class GenesisError(ProtocolError):
    """A genesis document that no chain can start from."""


class Sortition(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A committee drawn for each dynasty: how many members are expected, and without how many there is none."""

    expected_members: Annotated[int, Meta(ge=4, le=512)]
    minimum: Annotated[int, Meta(ge=4, le=512)] = 4


class Parameters(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Protocol parameters, the same on every node. Durations in milliseconds, sizes in bytes."""

    engine: Literal["microchain", "pbft"] = "microchain"
    epoch_blocks: Annotated[int, Meta(ge=1, le=1000)] = 1
    dynasty_epochs: Annotated[int, Meta(ge=4, le=2**32)] = 600
    slot_timeout_ms: Annotated[int, Meta(ge=10, le=60_000)] = 1000
    block_interval_ms: Annotated[int, Meta(ge=0, le=600_000)] = 0
    idle_interval_ms: Annotated[int, Meta(ge=10, le=3_600_000)] = 10_000
    max_block_bytes: Annotated[int, Meta(ge=1024, le=8 << 20)] = 2 << 20
    max_tx_bytes: Annotated[int, Meta(ge=256, le=8 << 20)] = 256 << 10
    max_validity: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    max_pool_bytes: Annotated[int, Meta(ge=1024, le=2**40)] = 16 << 20
    propose: Literal["pool", "release"] = "pool"
    propose_at_bytes: Annotated[int, Meta(ge=0, le=2**40)] = 0
    proposal: Literal["ranked", "eager"] = "ranked"
    relay: Literal["compact", "full"] = "compact"
    signature: Literal["rsa-2048", "ed25519", "simulated"] = "rsa-2048"
    stall_epochs: Annotated[int, Meta(ge=1, le=2**32)] = 8
    minimum_credit: Annotated[int, Meta(ge=1, le=1000)] = 10
    view_timeout_ms: Annotated[int, Meta(ge=100, le=600_000)] = 5000
    committee: Literal["fixed"] | Sortition = "fixed"
    unsafe_committee: bool = False
    exclusion_dynasties: Annotated[int, Meta(ge=1, le=1000)] = 10


class RegistryEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One registered node. Keys are raw bytes; ``tls_key`` is the SHA-256 of its certificate's SPKI."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
    role: Literal["validator", "device"]
    signing_key: bytes
    vrf_key: bytes = b""
    pvss_key: bytes = b""
    tls_key: bytes = b""
    address: str = ""
    credit: Annotated[int, Meta(ge=0, le=1000)] = 100

    @property
    def node_id(self) -> NodeId:
        """The id under which the node signs."""
        return node_id(self.signing_key)


class Genesis(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a chain starts from. Every validator of the registry is a member of the fixed committee.

    ``authority`` is the public key that signs registrations and revocations; without it the registry never changes.
    """

    version: Annotated[int, Meta(ge=1, le=1)] = 1
    run_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    parameters: Parameters
    registry: tuple[RegistryEntry, ...]
    authority: bytes = b""

    def chain_id(self) -> Digest:
        """The tagged hash of the document's canonical binary encoding; JSON formatting does not matter."""
        return tagged_hash("microchain/genesis", msgspec.msgpack.encode(self))

    def committee(self) -> Committee:
        """The fixed committee: every validator, weighted by credit; under PBFT, where each counts as one, equally."""
        entries = [e for e in self.registry if e.role == "validator"]
        if self.parameters.engine == "pbft":
            return Committee.weighted(entries, [Weight(1)] * len(entries))
        return Committee.from_entries(entries, self.parameters.minimum_credit)


def node_id(signing_key: bytes) -> NodeId:
    """Return the id of the node that owns a public signing key."""
    return NodeId(tagged_hash("microchain/node", signing_key))


class Member(Struct, frozen=True):
    """One committee member."""

    id: NodeId
    name: str
    signing_key: bytes
    vrf_key: bytes
    weight: Weight
    index: int


class Committee(Struct, frozen=True):
    """The members in order of id; ``total`` is the sum of their weights; sets of members are bit masks of ``index``."""

    members: tuple[Member, ...]
    by_id: dict[NodeId, Member]
    total: Weight
    root: Digest

    @classmethod
    def from_entries(cls, entries: list[RegistryEntry], minimum_credit: int) -> Committee:
        return cls.weighted(entries, compute_weights([e.credit for e in entries], minimum_credit))

    @classmethod
    def weighted(cls, entries: list[RegistryEntry], weights: list[Weight]) -> Committee:
        weighted = sorted(
            ((node_id(e.signing_key), e, weight) for e, weight in zip(entries, weights, strict=True)),
            key=lambda item: item[0],
        )
        members = tuple(
            Member(id, e.name, e.signing_key, e.vrf_key, weight, index)
            for index, (id, e, weight) in enumerate(weighted)
        )
        leaves = [m.id + m.weight.to_bytes(8, "big") for m in members]
        return cls(members, {m.id: m for m in members}, Weight(sum(m.weight for m in members)), merkle_root(leaves))

    def weight_of(self, mask: int) -> Weight:
        """Sum the weights of the members whose bits are set in ``mask``."""
        return Weight(sum(member.weight for member in self.members if mask >> member.index & 1))

    def is_supermajority(self, mask: int) -> bool:
        """Whether the members of ``mask`` hold strictly more than two thirds of the total weight."""
        return 3 * self.weight_of(mask) > 2 * self.total


def compute_weights(credits: list[int], minimum_credit: int = 10) -> list[Weight]:
    """Return the members' voting weights: credit, clamped around the lower median m to [⌈3m/5⌉, ⌊5m/4⌋] (section 8)."""
    if not credits:
        return []
    median = sorted(credits)[(len(credits) - 1) // 2]
    low, high = max(-(-3 * median // 5), 1), max(1, 5 * median // 4)
    return [Weight(min(max(credit, low), high)) for credit in credits]


def encode_genesis(genesis: Genesis) -> bytes:
    """Return the document as readable JSON."""
    return msgspec.json.format(msgspec.json.encode(genesis), indent=2) + b"\n"


def decode_genesis(document: bytes) -> Genesis:
    """Decode and check a genesis document; GenesisError says what is wrong with it."""
    try:
        genesis = msgspec.json.decode(document, type=Genesis)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise GenesisError(f"genesis: {error}") from None
    _refuse_repeated("name", [e.name for e in genesis.registry])
    _refuse_repeated("signing key", [e.signing_key.hex() for e in genesis.registry])
    _refuse_repeated("VRF key", [e.vrf_key.hex() for e in genesis.registry if e.vrf_key])
    _refuse_repeated("PVSS key", [e.pvss_key.hex() for e in genesis.registry if e.pvss_key])
    _refuse_repeated("TLS key", [e.tls_key.hex() for e in genesis.registry if e.tls_key])
    _refuse_repeated("address", [e.address for e in genesis.registry if e.address])
    if not any(e.role == "validator" for e in genesis.registry):
        raise GenesisError("genesis: the registry lists no validator")
    if genesis.parameters.engine == "pbft" and genesis.parameters.committee != "fixed":
        raise GenesisError("genesis: PBFT has a fixed committee; leave 'committee' out, or use engine microchain")
    if genesis.parameters.max_tx_bytes > genesis.parameters.max_block_bytes:
        raise GenesisError(
            f"genesis: max_tx_bytes {genesis.parameters.max_tx_bytes} is more than max_block_bytes "
            f"{genesis.parameters.max_block_bytes}; no such transaction would fit into a block"
        )
    if isinstance(genesis.parameters.committee, Sortition):
        _check_sortition(genesis, genesis.parameters.committee)
    return genesis


MAX_UNSAFE = 0.01
"""Probability for each dynasty that a drawn committee has a third of Byzantine weight."""


def _check_sortition(genesis: Genesis, sortition: Sortition) -> None:
    minimum_credit = genesis.parameters.minimum_credit
    credits = [e.credit for e in genesis.registry if e.role == "validator" and e.credit >= minimum_credit]
    if len(credits) < sortition.minimum:
        raise GenesisError(
            f"genesis: {len(credits)} validators have the credit that sortition takes ({minimum_credit}), and a "
            f"committee has at least {sortition.minimum}; register more, or set `committee: fixed`"
        )
    members = [(credit, int(w)) for credit, w in zip(credits, compute_weights(credits), strict=True)]
    chance = compute_unsafe_probability(members, sortition.expected_members)
    if chance > MAX_UNSAFE and not genesis.parameters.unsafe_committee:
        raise GenesisError(
            f"genesis: with {sortition.expected_members} of {len(credits)} validators expected, a drawn committee has "
            f"a third of Byzantine weight with probability {chance:.2g} (if a fifth of the validators is Byzantine; "
            f"at most {MAX_UNSAFE:g}); set `committee: fixed`, expect more members, or set `unsafe_committee: true`"
        )


def _refuse_repeated(what: str, values: list[str]) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise GenesisError(f"genesis: {what} {repeated[0][:64]} appears twice in the registry")
