"""The chain state: registry, credits, randomness and committees as a pure function of a branch's blocks.

Shape, for those who call it:

- ``genesis_state(genesis) -> ChainState`` is the state after the genesis block (height 0, dynasty 1). A
  ``ChainState`` is immutable, knows the chain's rules (``state.rules``: chain id, parameters, authority key), and is
  kept with each block of the tree as the branch state is. ``encode_state``/``decode_state`` are its only,
  deterministic bytes; ``state_root(state)`` goes into the header of the block *after* which the state holds (it never
  depends on that block's id).
- ``apply_block(state, context, transactions, votes) -> ChainState`` is the state after a block of the same dynasty at
  ``state.height + 1``. ``context`` is a ``BlockContext`` (height, proposer, ``finalized_height``: what the votes
  contained in the *parent's* branch, the block itself left out, show as final). Transactions of kind ``data`` are
  ignored, so callers may pass only the others. ``votes`` are those contained in the block, checked against the branch
  before. ``InvalidTransaction`` says which rule a system transaction breaks: the block is invalid.
- Nothing in ``apply_block`` checks signatures or proofs. ``compute_checks(state, transactions) -> Checks`` lists what
  has to be verified, as jobs for worker threads; ``perform_checks(checks, suite) -> bool`` verifies. Both use the
  *parent's* state.
- A proposer takes pooled transactions with ``select_transactions(state, context, candidates)``: those that may stand
  in one block, in order. A transaction that is refused there may be valid later.
- ``find_duty(state, context, me) -> Duty | None`` is what a validator should send now: a ``DealDuty`` or
  ``RevealDuty`` for its ``PvssKey``, a ``ClaimDuty`` for its VRF key; the result becomes the payload of a transaction
  of ``duty.kind`` with ``duty.payload(result)``. Results are functions of key and duty.
- ``is_dynasty_end(state)``: the block is L, its dynasty's last. Above it only closing blocks follow, which have no
  state change: ``apply_block`` refuses them, and their state root is L's. ``next_dynasty(state) -> ChainState`` (L's
  state) gives the state from which the first block of the next dynasty, of height ``state.height + 1``, is applied.
- ``get_committee(state) -> Committee`` (members in order of id, with weights and root), ``state.beacon`` and
  ``senders(state)`` (id → signing key of all who may send transactions now) are what the engine asks of a state.
"""

from microchain.consensus.state.checks import (
    Checks,
    DealCheck,
    ProofCheck,
    RevealCheck,
    SignatureCheck,
    perform_checks,
)
from microchain.consensus.state.duties import ClaimDuty, DealDuty, Duty, RevealDuty, find_duty
from microchain.consensus.state.evidence import FALSE_REVEAL, TWO_HEADERS, TWO_VOTES
from microchain.consensus.state.model import (
    Account,
    BlockContext,
    ChainState,
    InvalidTransaction,
    Rules,
    decode_state,
    encode_state,
    get_account,
    get_committee,
    senders,
    state_root,
)
from microchain.consensus.state.payloads import (
    EvidencePayload,
    RegisterPayload,
    RevokePayload,
    SharingView,
    encode_payload,
)
from microchain.consensus.state.randshare import view_sharing
from microchain.consensus.state.transition import (
    apply_block,
    compute_checks,
    genesis_state,
    is_dynasty_end,
    next_dynasty,
    select_transactions,
)

__all__ = [
    "FALSE_REVEAL",
    "TWO_HEADERS",
    "TWO_VOTES",
    "Account",
    "BlockContext",
    "ChainState",
    "Checks",
    "ClaimDuty",
    "DealCheck",
    "DealDuty",
    "Duty",
    "EvidencePayload",
    "InvalidTransaction",
    "ProofCheck",
    "RegisterPayload",
    "RevealCheck",
    "RevealDuty",
    "RevokePayload",
    "Rules",
    "SharingView",
    "SignatureCheck",
    "apply_block",
    "compute_checks",
    "decode_state",
    "encode_payload",
    "encode_state",
    "find_duty",
    "genesis_state",
    "get_account",
    "get_committee",
    "is_dynasty_end",
    "next_dynasty",
    "perform_checks",
    "select_transactions",
    "senders",
    "state_root",
    "view_sharing",
]
