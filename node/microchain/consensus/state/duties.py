"""What a validator owes the chain now: a deal, a reveal or a claim (protocol, sections 6 and 7).

A duty is found again until a block on the branch fulfils it; who sent its transaction waits for that. The keyring's
answer is a function of key and duty, so a node that crashed sends the same again.
"""

from __future__ import annotations

from msgspec import Struct

from microchain.consensus.genesis import Sortition
from microchain.consensus.state.claims import get_claim_alpha, units_of
from microchain.consensus.state.model import BlockContext, ChainState, get_account, get_seat
from microchain.consensus.state.payloads import ClaimPayload, DealPayload, RevealPayload, encode_payload
from microchain.consensus.state.randshare import deal_statement, hash_sharing, reveal_context, view_sharing
from microchain.consensus.types import TransactionKind
from microchain.crypto.pvss import Deal, PvssError, Reveal, Statement

__all__ = ["ClaimDuty", "DealDuty", "Duty", "RevealDuty", "find_duty"]


class DealDuty(Struct, frozen=True):
    """Deal: ``PvssKey.deal(statement)``."""

    dynasty: int
    statement: Statement
    kind: TransactionKind = TransactionKind.DEAL

    def payload(self, result: Deal) -> bytes:
        """Return the transaction's payload."""
        return encode_payload(DealPayload(self.dynasty, result))


class RevealDuty(Struct, frozen=True):
    """Decrypt: ``PvssKey.reveal(context, encrypted)``."""

    dynasty: int
    sharing: bytes
    context: bytes
    encrypted: bytes
    kind: TransactionKind = TransactionKind.REVEAL

    def payload(self, result: Reveal) -> bytes:
        """Return the transaction's payload."""
        return encode_payload(RevealPayload(self.dynasty, self.sharing, result))


class ClaimDuty(Struct, frozen=True):
    """Draw: ``Keyring.prove(alpha)`` gives proof and output; ``is_drawn`` says whether there is anything to claim."""

    dynasty: int
    attempt: int
    alpha: bytes
    kind: TransactionKind = TransactionKind.CLAIM

    def payload(self, result: tuple[bytes, bytes]) -> bytes:
        """Return the transaction's payload."""
        proof, output = result
        return encode_payload(ClaimPayload(self.dynasty, self.attempt, proof, output))

    @staticmethod
    def is_drawn(state: ChainState, me: bytes, output: bytes) -> bool:
        """Whether the output draws any of the validator's units."""
        return units_of(state, me, output) > 0


Duty = DealDuty | RevealDuty | ClaimDuty


def find_duty(state: ChainState, context: BlockContext, me: bytes) -> Duty | None:
    """Return what ``me`` should send for the block that ``context`` describes (its proposer does not matter), or None.

    ``finalized_height`` holds reveals back until the deals are final.
    """
    account = get_account(state, me)
    if account is None or account.revoked_at:
        return None
    index, windows = get_seat(state, me), state.windows
    if index is not None and context.height <= windows.deals and index not in state.sharing.dealers:
        return _find_deal(state, me)
    if index is not None and windows.deals < context.height <= windows.reveals and not state.sharing.revealed[index]:
        return _find_reveal(state, me, index) if context.finalized_height >= windows.deals else None
    return _find_claim(state, context, me)


def _find_deal(state: ChainState, me: bytes) -> DealDuty | None:
    statement = deal_statement(state, me)
    try:
        statement.digest()
    except PvssError:  # a member without a key: nobody can deal to this committee
        return None
    return DealDuty(state.dynasty, statement)


def _find_reveal(state: ChainState, me: bytes, index: int) -> RevealDuty:
    sharing = hash_sharing(state.rules, state.dynasty, view_sharing(state))
    context = reveal_context(state.rules, state.dynasty, me, sharing)
    return RevealDuty(state.dynasty, sharing, context, state.sharing.encrypted[index])


def _find_claim(state: ChainState, context: BlockContext, me: bytes) -> ClaimDuty | None:
    drawn = isinstance(state.rules.parameters.committee, Sortition)
    if not drawn or not state.next_beacon or context.height > state.windows.claims:
        return None
    claimed = any(claim.id == me and claim.attempt == state.attempt for claim in state.claims)
    if claimed or all(seat.id != me for seat in state.snapshot):
        return None
    return ClaimDuty(state.dynasty + 1, state.attempt, get_claim_alpha(state, state.attempt))
