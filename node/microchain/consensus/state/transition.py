"""From one chain state to the next: blocks, and the change of dynasty (protocol, sections 6 to 8)."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from microchain.consensus.genesis import Genesis
from microchain.consensus.objects import Transaction, Vote
from microchain.consensus.state.model import (
    Account,
    BlockContext,
    ChainState,
    InvalidTransaction,
    Participation,
    Rules,
    Seat,
    Sharing,
    Windows,
)
from microchain.consensus.types import TransactionKind
from microchain.crypto.hashing import tagged_hash

__all__ = ["apply_block", "genesis_state", "is_dynasty_end", "next_dynasty", "select_transactions"]

FIRST_DYNASTY = 1


def genesis_state(genesis: Genesis) -> ChainState:
    """Return the state after the genesis block: all accounts, the first committee and beacon(1)."""
    chain_id = genesis.chain_id()
    rules = Rules(chain_id, genesis.parameters, genesis.authority)
    accounts = tuple(sorted((Account(e.node_id, e) for e in genesis.registry), key=lambda account: account.id))
    seats = tuple(Seat(a.id, a.entry.credit) for a in accounts if a.entry.role == "validator")
    return ChainState(
        rules=rules,
        registry=accounts,
        snapshot=(),
        seats=seats,
        height=0,
        dynasty=FIRST_DYNASTY,
        start=0,
        beacon=tagged_hash("microchain/first-beacon", chain_id),
        next_beacon=b"",
        windows=_open_windows(rules, 0),
        participation=(Participation(),) * len(seats),
        sharing=Sharing(),
        claims=(),
        slashes=(),
        past_sharings=(),
    )


def _open_windows(rules: Rules, start: int) -> Windows:
    epochs, blocks = rules.parameters.dynasty_epochs, rules.parameters.epoch_blocks
    deals, reveals, claims = (max(1, epochs * percent // 100) for percent in (40, 70, 95))
    return Windows(*(start + end * blocks for end in (deals, reveals, claims, epochs)))


def apply_block(
    state: ChainState, context: BlockContext, transactions: Sequence[Transaction], votes: Sequence[Vote]
) -> ChainState:
    """Return the state after a block of this dynasty; InvalidTransaction if it must not contain a transaction.

    Signatures and proofs are not checked here, see ``compute_checks``.
    """
    for transaction in transactions:
        state = _apply_transaction(state, context, transaction)
    return replace(state, height=context.height)


def select_transactions(
    state: ChainState, context: BlockContext, candidates: Sequence[Transaction]
) -> tuple[Transaction, ...]:
    """Return those of the candidates that may stand in one block, in the order given."""
    selected = []
    for transaction in candidates:
        try:
            state = _apply_transaction(state, context, transaction)
        except InvalidTransaction:
            continue
        selected.append(transaction)
    return tuple(selected)


def _apply_transaction(state: ChainState, context: BlockContext, transaction: Transaction) -> ChainState:
    if transaction.body.kind == TransactionKind.DATA:
        return state
    raise InvalidTransaction(f"transactions of kind {transaction.body.kind} are not accepted")


def is_dynasty_end(state: ChainState) -> bool:
    """Whether the block at ``state.height`` is the dynasty's last, L."""
    return state.height == state.windows.end


def next_dynasty(state: ChainState) -> ChainState:
    """Return the state in which the next dynasty begins, given the state after L: rewards, committee and beacon.

    It holds at the same height; the dynasty's first block has ``state.height + 1``.
    """
    return replace(
        state, dynasty=state.dynasty + 1, start=state.height, windows=_open_windows(state.rules, state.height)
    )
