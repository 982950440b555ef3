"""From one chain state to the next: blocks, and the change of dynasty (protocol, sections 6 to 8)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from microchain.consensus.genesis import Genesis, Sortition
from microchain.consensus.objects import Transaction, Vote
from microchain.consensus.sortition import draw_publicly
from microchain.consensus.state.accounts import (
    UNCOUNTED_EPOCHS,
    apply_registration,
    apply_revocation,
    list_eligible,
    reward,
)
from microchain.consensus.state.checks import Checks, DealCheck, ProofCheck, RevealCheck, join_checks
from microchain.consensus.state.claims import apply_claim, close_claims, get_claim_alpha, next_seats
from microchain.consensus.state.evidence import apply_evidence, check_evidence
from microchain.consensus.state.model import (
    Account,
    BlockContext,
    ChainState,
    InvalidTransaction,
    Participation,
    PastSharing,
    Rules,
    Seat,
    Sharing,
    get_account,
    get_seat,
    senders,
)
from microchain.consensus.state.payloads import ClaimPayload, DealPayload, RevealPayload, decode_payload
from microchain.consensus.state.randshare import (
    apply_deal,
    apply_reveal,
    close_deals,
    close_reveals,
    deal_statement,
    hash_sharing,
    open_windows,
    reveal_context,
    view_sharing,
)
from microchain.consensus.types import NodeId, ProtocolError, TransactionKind
from microchain.crypto.hashing import tagged_hash

__all__ = [
    "apply_block",
    "compute_checks",
    "genesis_state",
    "is_dynasty_end",
    "next_dynasty",
    "select_transactions",
]

FIRST_DYNASTY = 1
BLOCKS_OF_A_HUNDRED = 100


def genesis_state(genesis: Genesis) -> ChainState:
    """Return the state after the genesis block: all accounts, the first committee and beacon(1)."""
    chain_id = genesis.chain_id()
    rules = Rules(chain_id, genesis.parameters, genesis.authority)
    accounts = tuple(sorted((Account(e.node_id, e) for e in genesis.registry), key=lambda account: account.id))
    seats = tuple(Seat(a.id, a.entry.credit) for a in accounts if a.entry.role == "validator")
    state = ChainState(
        rules=rules,
        registry=accounts,
        snapshot=(),
        seats=seats,
        height=0,
        dynasty=FIRST_DYNASTY,
        start=0,
        beacon=tagged_hash("microchain/first-beacon", chain_id),
        next_beacon=b"",
        windows=open_windows(rules, 0),
        participation=(),
        sharing=Sharing(),
        claims=(),
        attempt=0,
        slashes=(),
        past_sharings=(),
    )
    return _seat(state, _draw_first(state) if isinstance(rules.parameters.committee, Sortition) else seats)


def _draw_first(state: ChainState) -> tuple[Seat, ...]:
    committee = state.rules.parameters.committee
    assert isinstance(committee, Sortition)
    eligible = list_eligible(state)
    credits = [(seat.id, seat.credit) for seat in eligible]
    drawn = set(draw_publicly(state.beacon, credits, committee.expected_members, committee.minimum))
    return tuple(seat for seat in eligible if seat.id in drawn)


def _seat(state: ChainState, seats: tuple[Seat, ...]) -> ChainState:
    return replace(state, seats=seats, participation=(Participation(),) * len(seats))


def apply_block(
    state: ChainState, context: BlockContext, transactions: Sequence[Transaction], votes: Sequence[Vote]
) -> ChainState:
    """Return the state after a block of this dynasty; InvalidTransaction if it must not contain a transaction.

    Signatures and proofs are not checked here, see ``compute_checks``. ProtocolError for a block above the dynasty's
    last, which is a closing block and has no state of its own.
    """
    if context.height != state.height + 1 or context.height > state.windows.end:
        raise ProtocolError(f"no state of dynasty {state.dynasty} at height {context.height} after {state.height}")
    parent = state
    for transaction in transactions:
        state = _apply_transaction(state, parent, context, transaction)
    state = replace(state, height=context.height, participation=_count(parent, context, votes))
    if context.height == state.windows.deals:
        state = close_deals(state)
    elif context.height == state.windows.reveals:
        state = close_reveals(state)
    elif context.height == state.windows.claims:
        state = close_claims(state)
    return state


def select_transactions(
    state: ChainState, context: BlockContext, candidates: Sequence[Transaction]
) -> tuple[Transaction, ...]:
    """Return those of the candidates that may stand in one block, in the order given."""
    parent, selected = state, []
    for transaction in candidates:
        try:
            state = _apply_transaction(state, parent, context, transaction)
        except InvalidTransaction:
            continue
        selected.append(transaction)
    return tuple(selected)


def _apply_transaction(
    state: ChainState, parent: ChainState, context: BlockContext, transaction: Transaction
) -> ChainState:
    kind = transaction.body.kind
    if kind == TransactionKind.DATA:
        return state
    if NodeId(transaction.body.sender) not in senders(parent):
        raise InvalidTransaction("the sender is not registered, or revoked")
    match kind:
        case TransactionKind.REGISTER:
            return apply_registration(state, transaction)
        case TransactionKind.REVOKE:
            return apply_revocation(state, context, transaction)
        case TransactionKind.EVIDENCE:
            return apply_evidence(state, parent, transaction)
        case TransactionKind.DEAL:
            return apply_deal(state, context, transaction)
        case TransactionKind.REVEAL:
            return apply_reveal(state, context, transaction)
        case TransactionKind.CLAIM:
            return apply_claim(state, context, transaction)
    raise InvalidTransaction(f"no transaction has kind {kind}")


def compute_checks(parent: ChainState, transactions: Sequence[Transaction]) -> Checks:
    """Return what must be verified for these transactions, beside their own signatures.

    ``parent`` is the state before the block. InvalidTransaction where a payload is malformed.
    """
    return join_checks([_check(parent, transaction) for transaction in transactions])


def _check(parent: ChainState, transaction: Transaction) -> Checks:
    body = transaction.body
    match body.kind:
        case TransactionKind.EVIDENCE:
            return check_evidence(parent, transaction)
        case TransactionKind.DEAL:
            deal = decode_payload(body.payload, DealPayload).deal
            return Checks(deals=(DealCheck(deal_statement(parent, body.sender), deal),))
        case TransactionKind.REVEAL:
            return _check_reveal(parent, transaction)
        case TransactionKind.CLAIM:
            claim = decode_payload(body.payload, ClaimPayload)
            key = _get_account(parent, body.sender).entry.vrf_key
            alpha = get_claim_alpha(parent, claim.attempt)
            return Checks(proofs=(ProofCheck(key, alpha, claim.proof, claim.output),))
    return Checks()


def _check_reveal(parent: ChainState, transaction: Transaction) -> Checks:
    sender = transaction.body.sender
    payload = decode_payload(transaction.body.payload, RevealPayload)
    index = get_seat(parent, sender)
    if index is None or not parent.sharing.encrypted:
        raise InvalidTransaction("a reveal by no member, or before all deals")
    context = reveal_context(parent.rules, payload.dynasty, sender, payload.sharing)
    key = _get_account(parent, sender).entry.pvss_key
    return Checks(reveals=(RevealCheck(context, key, parent.sharing.encrypted[index], payload.reveal, expected=True),))


def _get_account(parent: ChainState, id: bytes) -> Account:
    account = get_account(parent, id)
    if account is None:
        raise InvalidTransaction("the sender is not registered")
    return account


def _count(parent: ChainState, context: BlockContext, votes: Sequence[Vote]) -> tuple[Participation, ...]:
    """Return the members' participation with the block's proposer and its votes."""
    counted = list(parent.participation)
    blocks = parent.rules.parameters.epoch_blocks
    first, last = parent.start // blocks, parent.windows.end // blocks - UNCOUNTED_EPOCHS
    for vote in votes:
        index = get_seat(parent, vote.voter)
        if index is not None and first < vote.target_epoch <= last:
            counted[index] = replace(counted[index], supported=counted[index].supported + 1)
    index = get_seat(parent, context.proposer)
    hundred = (context.height - parent.start - 1) // BLOCKS_OF_A_HUNDRED + 1
    if index is not None and counted[index].last_hundred != hundred:
        counted[index] = replace(counted[index], hundreds=counted[index].hundreds + 1, last_hundred=hundred)
    return tuple(counted)


def is_dynasty_end(state: ChainState) -> bool:
    """Whether the block at ``state.height`` is the dynasty's last, L."""
    return state.height == state.windows.end


def next_dynasty(state: ChainState) -> ChainState:
    """Return the state in which the next dynasty begins, given the state after L: rewards, committee and beacon.

    It holds at the same height; the dynasty's first block has ``state.height + 1``. ProtocolError before L.
    """
    if not is_dynasty_end(state):
        raise ProtocolError(f"dynasty {state.dynasty} ends at height {state.windows.end}, not at {state.height}")
    oldest = state.dynasty + 1 - state.rules.parameters.exclusion_dynasties
    past = PastSharing(state.dynasty, hash_sharing(state.rules, state.dynasty, view_sharing(state)))
    begun = replace(
        state,
        registry=reward(state),
        dynasty=state.dynasty + 1,
        start=state.height,
        windows=open_windows(state.rules, state.height),
        beacon=state.next_beacon,
        next_beacon=b"",
        snapshot=(),
        sharing=Sharing(),
        claims=(),
        attempt=0,
        slashes=tuple(slash for slash in state.slashes if slash.dynasty >= oldest),
        past_sharings=tuple(p for p in (*state.past_sharings, past) if p.dynasty >= oldest),
    )
    return _seat(begun, next_seats(state))
