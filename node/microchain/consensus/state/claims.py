"""Claims to seats in the next committee (protocol, section 7)."""

from __future__ import annotations

from msgspec.structs import replace

from microchain.consensus.genesis import Sortition
from microchain.consensus.objects import Transaction
from microchain.consensus.sortition import claim_alpha, compute_units, is_sufficient
from microchain.consensus.state.model import BlockContext, ChainState, Claim, InvalidTransaction, Seat
from microchain.consensus.state.payloads import ClaimPayload, decode_payload
from microchain.consensus.state.randshare import shift_windows
from microchain.consensus.types import Digest, Dynasty

__all__ = ["apply_claim", "close_claims", "get_claim_alpha", "next_seats", "units_of"]


def get_claim_alpha(state: ChainState, attempt: int) -> Digest:
    """Return what claims of that attempt for the next dynasty prove their VRF on."""
    return claim_alpha(state.next_beacon, Dynasty(state.dynasty + 1), attempt)


def units_of(state: ChainState, id: bytes, output: bytes) -> int:
    """Return how many units of a validator's credit are drawn: 0 if it is not, or not eligible."""
    committee = state.rules.parameters.committee
    credit = next((seat.credit for seat in state.snapshot if seat.id == id), 0)
    if not credit or not isinstance(committee, Sortition):
        return 0
    return compute_units(output, credit, sum(s.credit for s in state.snapshot), committee.expected_members)


def apply_claim(state: ChainState, context: BlockContext, transaction: Transaction) -> ChainState:
    """Note that a validator was drawn."""
    payload, id = decode_payload(transaction.body.payload, ClaimPayload), transaction.body.sender
    if not isinstance(state.rules.parameters.committee, Sortition):
        raise InvalidTransaction("a fixed committee is not claimed")
    if not state.next_beacon or context.height > state.windows.claims or payload.dynasty != state.dynasty + 1:
        raise InvalidTransaction(f"claims for dynasty {payload.dynasty} do not belong into height {context.height}")
    if payload.attempt > state.attempt:
        raise InvalidTransaction(f"claim of attempt {payload.attempt}; this is attempt {state.attempt}")
    if any(claim.id == id and claim.attempt == payload.attempt for claim in state.claims):
        raise InvalidTransaction("the validator has claimed already")
    units = units_of(state, id, payload.output)
    if not units:
        raise InvalidTransaction("the validator was not drawn, or is not eligible")
    return replace(state, claims=(*state.claims, Claim(id, payload.attempt, units)))


def close_claims(state: ChainState) -> ChainState:
    """End the claim window, or draw once more, in addition, if the members claimed for are no committee."""
    committee = state.rules.parameters.committee
    if not isinstance(committee, Sortition):
        return state
    units: dict[bytes, int] = {}
    for claim in state.claims:
        units[claim.id] = units.get(claim.id, 0) + claim.units
    expected = min(committee.expected_members, sum(seat.credit for seat in state.snapshot))
    if is_sufficient(list(units.values()), expected, committee.minimum):
        return state
    return replace(shift_windows(state, "claims"), attempt=state.attempt + 1)


def next_seats(state: ChainState) -> tuple[Seat, ...]:
    """Return the next committee: all who are eligible if it is fixed, else who claimed; never none."""
    if not isinstance(state.rules.parameters.committee, Sortition):
        return state.snapshot or state.seats
    claimed = {claim.id for claim in state.claims}
    return tuple(seat for seat in state.snapshot if seat.id in claimed)
