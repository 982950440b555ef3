"""RandShare on the chain: deals, reveals, the windows they fall in, and the beacon (protocol, section 6)."""

from __future__ import annotations

from functools import lru_cache

import msgspec
from msgspec.structs import replace

from microchain.consensus.objects import Transaction
from microchain.consensus.state.accounts import list_eligible
from microchain.consensus.state.model import (
    Account,
    BlockContext,
    ChainState,
    InvalidTransaction,
    Rules,
    Seat,
    Sharing,
    Windows,
    get_seat,
)
from microchain.consensus.state.payloads import DealPayload, RevealPayload, SharingView, decode_payload
from microchain.crypto.hashing import Digest, tagged_hash
from microchain.crypto.pvss import PvssError, Statement, add_shares, recover_secret

__all__ = [
    "apply_deal",
    "apply_reveal",
    "close_deals",
    "close_reveals",
    "compute_threshold",
    "deal_statement",
    "hash_sharing",
    "open_windows",
    "reveal_context",
    "shift_windows",
    "view_sharing",
]

DEALS, REVEALS, CLAIMS = 40, 70, 95
"""Where the windows end, in percent of the dynasty's epochs."""
EXTENSION = 20
"""By how much a window, and all after it, is extended, in percent of the dynasty's epochs."""


def compute_threshold(members: int) -> int:
    """Return t: so many shares open the deals, so many deals make a beacon. K - f ≥ t > f for f = ⌊(K-1)/3⌋."""
    return members // 2 + 1


def open_windows(rules: Rules, start: int) -> Windows:
    """Return the windows of the dynasty that begins above height ``start``; each ends at a checkpoint."""
    epochs, blocks = rules.parameters.dynasty_epochs, rules.parameters.epoch_blocks
    ends = (max(1, epochs * percent // 100) for percent in (DEALS, REVEALS, CLAIMS, 100))
    return Windows(*(start + end * blocks for end in ends))


def shift_windows(state: ChainState, first: str) -> ChainState:
    """Extend the window of that name and all after it."""
    parameters = state.rules.parameters
    by = max(1, parameters.dynasty_epochs * EXTENSION // 100) * parameters.epoch_blocks
    names = Windows.__struct_fields__
    shifted = {name: getattr(state.windows, name) + by for name in names[names.index(first) :]}
    return replace(state, windows=replace(state.windows, **shifted))


def deal_statement(state: ChainState, dealer: bytes) -> Statement:
    """Return what a member's deal in this dynasty is bound to."""
    context = tagged_hash("microchain/deal", state.rules.chain_id, state.dynasty.to_bytes(8, "big"), dealer)
    return Statement(context, _list_receivers(state.seats, state.registry), compute_threshold(len(state.seats)))


@lru_cache(maxsize=16)
def _list_receivers(seats: tuple[Seat, ...], registry: tuple[Account, ...]) -> tuple[bytes, ...]:
    keys = {account.id: account.entry.pvss_key for account in registry}
    return tuple(keys[seat.id] for seat in seats)


def apply_deal(state: ChainState, context: BlockContext, transaction: Transaction) -> ChainState:
    """Add a member's deal to the sum of all."""
    payload = decode_payload(transaction.body.payload, DealPayload)
    index = _check_member(state, transaction, payload.dynasty)
    if context.height > state.windows.deals:
        raise InvalidTransaction(f"the window for deals ended at height {state.windows.deals}")
    if index in state.sharing.dealers:
        raise InvalidTransaction("the member has dealt already")
    try:
        deal_statement(state, transaction.body.sender).digest()
        if len(payload.deal.encrypted) != len(state.seats):
            raise PvssError(f"a deal to {len(payload.deal.encrypted)} of {len(state.seats)} members")
        earlier = state.sharing.encrypted
        encrypted = add_shares(earlier, payload.deal.encrypted) if earlier else payload.deal.encrypted
    except PvssError as error:
        raise InvalidTransaction(f"deal: {error}") from None
    dealers = tuple(sorted((*state.sharing.dealers, index)))
    return replace(state, sharing=Sharing(dealers, encrypted, (b"",) * len(state.seats)))


def view_sharing(state: ChainState) -> SharingView:
    """Return the members, and what the deals in the chain encrypt to them."""
    return SharingView(tuple(seat.id for seat in state.seats), state.sharing.encrypted)


def hash_sharing(rules: Rules, dynasty: int, view: SharingView) -> Digest:
    """Return the hash that reveals name, so that a reveal counts only for the deals it was made for."""
    return tagged_hash("microchain/sharing", rules.chain_id, dynasty.to_bytes(8, "big"), msgspec.msgpack.encode(view))


def reveal_context(rules: Rules, dynasty: int, member: bytes, sharing: bytes) -> Digest:
    """Return what a member's reveal is bound to."""
    return tagged_hash("microchain/reveal", rules.chain_id, dynasty.to_bytes(8, "big"), member, sharing)


def apply_reveal(state: ChainState, context: BlockContext, transaction: Transaction) -> ChainState:
    """Note a member's decrypted share of the sum of all deals."""
    payload = decode_payload(transaction.body.payload, RevealPayload)
    index = _check_member(state, transaction, payload.dynasty)
    deals, reveals = state.windows.deals, state.windows.reveals
    if not deals < context.height <= reveals:
        raise InvalidTransaction(f"reveals belong into heights {deals + 1} to {reveals}")
    if context.finalized_height < deals:
        raise InvalidTransaction(f"a reveal before height {deals}, where the deals end, is final")
    if payload.sharing != hash_sharing(state.rules, state.dynasty, view_sharing(state)):
        raise InvalidTransaction("a reveal of other deals than those in the chain")
    revealed = state.sharing.revealed
    if revealed[index]:
        raise InvalidTransaction("the member has revealed already")
    changed = (*revealed[:index], payload.reveal.share, *revealed[index + 1 :])
    return replace(state, sharing=replace(state.sharing, revealed=changed))


def close_deals(state: ChainState) -> ChainState:
    """End the deal window: fix who is eligible next, or go on if there are too few deals."""
    if len(state.sharing.dealers) < compute_threshold(len(state.seats)):
        return shift_windows(state, "deals")
    return replace(state, snapshot=list_eligible(state))


def close_reveals(state: ChainState) -> ChainState:
    """End the reveal window: compute the next beacon, or go on if there are too few reveals."""
    threshold = compute_threshold(len(state.seats))
    if sum(map(bool, state.sharing.revealed)) < threshold:
        return shift_windows(state, "reveals")
    try:
        secret = _recover(state.sharing.revealed, threshold)
    except PvssError as error:  # only if somebody applied a block without its checks
        raise InvalidTransaction(f"reveal: {error}") from None
    number = (state.dynasty + 1).to_bytes(8, "big")
    return replace(state, next_beacon=tagged_hash("microchain/beacon", state.rules.chain_id, number, secret))


@lru_cache(maxsize=16)
def _recover(revealed: tuple[bytes, ...], threshold: int) -> bytes:
    return recover_secret({number: share for number, share in enumerate(revealed, 1) if share}, threshold)


def _check_member(state: ChainState, transaction: Transaction, dynasty: int) -> int:
    if dynasty != state.dynasty:
        raise InvalidTransaction(f"for dynasty {dynasty}; this is dynasty {state.dynasty}")
    index = get_seat(state, transaction.body.sender)
    if index is None:
        raise InvalidTransaction("only the committee's members deal and reveal")
    return index
