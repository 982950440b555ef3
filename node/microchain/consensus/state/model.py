"""What the chain state is made of, its encoding and its root."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from functools import lru_cache

import msgspec
from msgspec import Struct

from microchain.consensus.genesis import Committee, Parameters, RegistryEntry, node_id
from microchain.consensus.types import Digest, Height, NodeId, ProtocolError
from microchain.crypto.hashing import tagged_hash

__all__ = [
    "Account",
    "BlockContext",
    "ChainState",
    "Claim",
    "InvalidTransaction",
    "Participation",
    "PastSharing",
    "Rules",
    "Seat",
    "Sharing",
    "Slash",
    "Windows",
    "decode_state",
    "encode_state",
    "get_account",
    "get_committee",
    "get_seat",
    "senders",
    "state_root",
]


class InvalidTransaction(ProtocolError):
    """A system transaction that no block may contain at this place; the message says which rule it breaks."""


class BlockContext(Struct, frozen=True):
    """What the state needs to know of a block beside its contents.

    ``finalized_height`` is the height of the highest checkpoint that the votes in the block's ancestors finalize.
    """

    height: Height
    proposer: NodeId
    finalized_height: Height


class Rules(Struct, frozen=True, array_like=True):
    """What never changes on a chain; ``authority`` is the public key that signs registrations, or empty."""

    chain_id: bytes
    parameters: Parameters
    authority: bytes


class Account(Struct, frozen=True, array_like=True):
    """A registered node. ``entry.credit`` is its credit now.

    ``excluded_until`` is the last dynasty that it may not serve in (0: none), ``revoked_at`` the height of its
    revocation (0: none). Keys never change, and accounts are never removed.
    """

    id: bytes
    entry: RegistryEntry
    excluded_until: int = 0
    revoked_at: int = 0


class Seat(Struct, frozen=True, array_like=True):
    """A validator with the credit that counts for it in one dynasty."""

    id: bytes
    credit: int


class Windows(Struct, frozen=True, array_like=True):
    """The last height of each part of the dynasty; ``end`` is the height of its last block."""

    deals: int
    reveals: int
    claims: int
    end: int


class Participation(Struct, frozen=True, array_like=True):
    """What one member did in the dynasty.

    ``supported``: votes for its checkpoints; ``hundreds``: in how many hundreds of its blocks it proposed one, the last
    of them ``last_hundred`` (counted from 1).
    """

    supported: int = 0
    hundreds: int = 0
    last_hundred: int = 0


class Sharing(Struct, frozen=True, array_like=True):
    """RandShare in one dynasty, by the members' index.

    ``dealers``: whose deals are in; ``encrypted``: the sum of the shares that they encrypted to each member;
    ``revealed``: that sum decrypted, empty for who has not revealed.
    """

    dealers: tuple[int, ...] = ()
    encrypted: tuple[bytes, ...] = ()
    revealed: tuple[bytes, ...] = ()


class Claim(Struct, frozen=True, array_like=True):
    """A validator that the draw of one attempt selected for the next committee, with so many units of its credit."""

    id: bytes
    attempt: int
    units: int


class Slash(Struct, frozen=True, array_like=True):
    """A punished offence; there is at most one for each offender and dynasty."""

    offender: bytes
    dynasty: int


class PastSharing(Struct, frozen=True, array_like=True):
    """What reveals of an earlier dynasty are judged by: the hash of its members and the shares encrypted to them."""

    dynasty: int
    digest: bytes


class ChainState(Struct, frozen=True, array_like=True):
    """The state after the block at ``height``.

    ``start`` is the height of the last block before the dynasty; ``seats`` its committee in order of id; ``beacon``
    its randomness. ``snapshot`` (from the end of the deal window on) lists who may claim a seat in the next dynasty and
    with which credit, ``next_beacon`` (from the end of the reveal window on) is that dynasty's randomness; both are
    empty before. ``attempt`` counts the draws for it that were not sufficient.
    """

    rules: Rules
    registry: tuple[Account, ...]
    snapshot: tuple[Seat, ...]
    seats: tuple[Seat, ...]
    height: int
    dynasty: int
    start: int
    beacon: bytes
    next_beacon: bytes
    windows: Windows
    participation: tuple[Participation, ...]
    sharing: Sharing
    claims: tuple[Claim, ...]
    attempt: int
    slashes: tuple[Slash, ...]
    past_sharings: tuple[PastSharing, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ChainState)


def encode_state(state: ChainState) -> bytes:
    """Return the bytes that a ledger keeps."""
    return _encoder.encode(state)


def decode_state(data: bytes) -> ChainState:
    """Decode a kept state; ProtocolError if it is damaged."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the kept chain state is damaged: {error}") from None


def state_root(state: ChainState) -> Digest:
    """Return the hash of the whole state, of which the parts that seldom change are hashed once."""
    rare = [_hash_part(part) for part in (state.rules, state.registry, state.snapshot, state.seats)]
    frequent = _encoder.encode(
        (
            state.height,
            state.dynasty,
            state.start,
            state.beacon,
            state.next_beacon,
            state.windows,
            state.participation,
            state.sharing,
            state.claims,
            state.attempt,
            state.slashes,
            state.past_sharings,
        )
    )
    return tagged_hash("microchain/state", *rare, frequent)


@lru_cache(maxsize=64)
def _hash_part(part: Rules | tuple[Account, ...] | tuple[Seat, ...]) -> Digest:
    return tagged_hash("microchain/state-part", _encoder.encode(part))


def get_account(state: ChainState, id: bytes) -> Account | None:
    """Return the account of a node, revoked or not, or None if it was never registered."""
    place = bisect_left(state.registry, id, key=lambda account: account.id)
    account = state.registry[place] if place < len(state.registry) else None
    return account if account is not None and account.id == id else None


def get_seat(state: ChainState, id: bytes) -> int | None:
    """Return the index of a member in the committee, or None if the node is none."""
    place = bisect_left(state.seats, id, key=lambda seat: seat.id)
    return place if place < len(state.seats) and state.seats[place].id == id else None


def get_committee(state: ChainState) -> Committee:
    """Return the dynasty's committee: members in order of id, so ``state.seats[member.index]`` is a member's seat."""
    return _build_committee(state.seats, state.registry, state.rules.parameters.minimum_credit)


@lru_cache(maxsize=16)
def _build_committee(seats: tuple[Seat, ...], registry: tuple[Account, ...], minimum_credit: int) -> Committee:
    entries = {account.id: account.entry for account in registry}
    return Committee.from_entries(
        [msgspec.structs.replace(entries[seat.id], credit=seat.credit) for seat in seats], minimum_credit
    )


def senders(state: ChainState) -> Mapping[NodeId, bytes]:
    """Return the signing key of each node whose transactions count in the next block, the authority's included."""
    return _list_senders(state.registry, state.rules)


@lru_cache(maxsize=16)
def _list_senders(registry: tuple[Account, ...], rules: Rules) -> Mapping[NodeId, bytes]:
    keys = {NodeId(account.id): account.entry.signing_key for account in registry if not account.revoked_at}
    if rules.authority:
        keys[node_id(rules.authority)] = rules.authority
    return keys
