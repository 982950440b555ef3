"""Accounts: registration, revocation, eligibility, rewards and punishment (protocol, sections 3, 7 and 8)."""

from __future__ import annotations

from msgspec.structs import replace

from microchain.consensus.genesis import RegistryEntry, Sortition, node_id
from microchain.consensus.objects import Transaction
from microchain.consensus.state.model import (
    Account,
    BlockContext,
    ChainState,
    InvalidTransaction,
    Participation,
    Rules,
    Seat,
    Slash,
    get_account,
)
from microchain.consensus.state.payloads import RegisterPayload, RevokePayload, decode_payload
from microchain.crypto.signatures import get_scheme
from microchain.crypto.vrf import is_valid_key

__all__ = ["MINIMUM_MEMBERS", "apply_registration", "apply_revocation", "list_eligible", "reward", "slash"]

MINIMUM_MEMBERS = 4
"""Fewer members tolerate no fault, so no exclusion leaves fewer."""
MAX_CREDIT = 1000
MAX_ACCOUNTS = 10_000
_MAX_KEY_BYTES = 1024
_MAX_ADDRESS = 300
VOTING_POINTS = 10
PROPOSAL_POINTS, MAX_PROPOSAL_POINTS = 2, 10
RANDOMNESS_POINTS = 5
UNCOUNTED_EPOCHS = 2
"""Votes for a dynasty's last checkpoints may be in none of its blocks, so they don't count."""


def apply_registration(state: ChainState, transaction: Transaction) -> ChainState:
    """Add the account that the authority registers."""
    _check_authority(state, transaction)
    entry = decode_payload(transaction.body.payload, RegisterPayload).entry
    _check_entry(state, entry)
    account = Account(entry.node_id, entry)
    return replace(state, registry=tuple(sorted((*state.registry, account), key=lambda a: a.id)))


def apply_revocation(state: ChainState, context: BlockContext, transaction: Transaction) -> ChainState:
    """Mark an account as revoked; its seat stays until the committee changes."""
    _check_authority(state, transaction)
    account = get_account(state, decode_payload(transaction.body.payload, RevokePayload).id)
    if account is None or account.revoked_at:
        raise InvalidTransaction("the node to revoke is not registered, or revoked already")
    return _with_account(state, replace(account, revoked_at=context.height))


def list_eligible(state: ChainState) -> tuple[Seat, ...]:
    """Return the validators that may serve in the next dynasty, with their credit, in order of id."""
    return tuple(Seat(a.id, a.entry.credit) for a in state.registry if _is_eligible(a, state))


def slash(state: ChainState, offender: Account, dynasty: int) -> ChainState:
    """Halve the offender's credit and exclude it, or, where too few validators would be left, only halve it."""
    excluded = replace(offender, excluded_until=state.dynasty + state.rules.parameters.exclusion_dynasties)
    without = _with_account(state, excluded)
    halved = offender.entry.credit // 2
    if _is_eligible(offender, state) and len(list_eligible(without)) < _minimum_members(state.rules):
        # A credit below the minimum would exclude it all the same.
        halved, excluded = max(halved, state.rules.parameters.minimum_credit), offender
    punished = replace(excluded, entry=replace(offender.entry, credit=halved))
    return replace(_with_account(state, punished), slashes=(*state.slashes, Slash(offender.id, dynasty)))


def reward(state: ChainState) -> tuple[Account, ...]:
    """Return the registry with what the members earned or lost in the dynasty that ends."""
    blocks = state.rules.parameters.epoch_blocks
    checkpoints = (state.windows.end - state.start) // blocks - UNCOUNTED_EPOCHS
    points = {}
    for index, (seat, participation) in enumerate(zip(state.seats, state.participation, strict=True)):
        both = index in state.sharing.dealers and bool(state.sharing.revealed[index])
        points[seat.id] = _compute_points(participation, checkpoints) + RANDOMNESS_POINTS * both
    lowest = state.rules.parameters.minimum_credit
    return tuple(_with_points(account, points.get(account.id, 0), lowest) for account in state.registry)


def _compute_points(participation: Participation, checkpoints: int) -> int:
    supported = min(participation.supported, checkpoints)
    voting = VOTING_POINTS * supported // checkpoints - VOTING_POINTS * (checkpoints - supported) // checkpoints
    return voting + min(PROPOSAL_POINTS * participation.hundreds, MAX_PROPOSAL_POINTS)


def _with_points(account: Account, points: int, lowest: int) -> Account:
    credit = account.entry.credit
    changed = min(max(credit + points, min(credit, lowest)), MAX_CREDIT)
    return account if changed == credit else replace(account, entry=replace(account.entry, credit=changed))


def _is_eligible(account: Account, state: ChainState) -> bool:
    return (
        account.entry.role == "validator"
        and not account.revoked_at
        and account.excluded_until <= state.dynasty
        and account.entry.credit >= state.rules.parameters.minimum_credit
    )


def _minimum_members(rules: Rules) -> int:
    committee = rules.parameters.committee
    return committee.minimum if isinstance(committee, Sortition) else MINIMUM_MEMBERS


def _with_account(state: ChainState, account: Account) -> ChainState:
    return replace(state, registry=tuple(account if a.id == account.id else a for a in state.registry))


def _check_authority(state: ChainState, transaction: Transaction) -> None:
    if not state.rules.authority or transaction.body.sender != node_id(state.rules.authority):
        raise InvalidTransaction("only the chain's authority registers and revokes")


def _check_entry(state: ChainState, entry: RegistryEntry) -> None:
    if len(state.registry) >= MAX_ACCOUNTS:
        raise InvalidTransaction(f"the registry is full ({MAX_ACCOUNTS} nodes)")
    keys = (entry.signing_key, entry.vrf_key, entry.pvss_key, entry.tls_key)
    if len(entry.address) > _MAX_ADDRESS or any(len(key) > _MAX_KEY_BYTES for key in keys):
        raise InvalidTransaction(f"a key of {entry.name}, or its address, is too long")
    scheme = state.rules.parameters.signature
    # A simulation's keys are hashes, but for the one that shares are encrypted to.
    if scheme != "simulated" and not get_scheme(scheme).is_public_key(entry.signing_key):
        raise InvalidTransaction(f"the signing key of {entry.name} is no {scheme} public key")
    points = [entry.pvss_key] if scheme == "simulated" else [entry.pvss_key, entry.vrf_key]
    if entry.role == "validator" and not all(map(is_valid_key, points)):
        raise InvalidTransaction(f"the VRF or PVSS key of {entry.name} is no point of edwards25519")
    if state.rules.authority == entry.signing_key:
        raise InvalidTransaction("the authority's own key cannot be a node's")
    for account in state.registry:
        other = account.entry
        pairs = zip(keys, (other.signing_key, other.vrf_key, other.pvss_key, other.tls_key), strict=True)
        if other.name == entry.name or any(one and one == two for one, two in pairs):
            raise InvalidTransaction(f"{other.name} is registered with that name or one of these keys")
        if entry.address and entry.address == other.address and not account.revoked_at:
            raise InvalidTransaction(f"{other.name} is registered with the address {entry.address}")
