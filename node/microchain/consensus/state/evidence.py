"""Evidence of offences, and their punishment (protocol, section 8)."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from microchain.consensus.objects import (
    Header,
    MalformedObject,
    Transaction,
    Vote,
    decode_header,
    decode_transaction,
    decode_vote,
)
from microchain.consensus.state.accounts import slash
from microchain.consensus.state.checks import Checks, RevealCheck, SignatureCheck
from microchain.consensus.state.model import Account, ChainState, InvalidTransaction, get_account
from microchain.consensus.state.payloads import EvidencePayload, RevealPayload, SharingView, decode_payload
from microchain.consensus.state.randshare import hash_sharing, reveal_context, view_sharing
from microchain.consensus.types import TransactionKind

__all__ = ["FALSE_REVEAL", "TWO_HEADERS", "TWO_VOTES", "apply_evidence", "check_evidence"]

TWO_HEADERS, TWO_VOTES, FALSE_REVEAL = range(3)


class Offence(Struct, frozen=True):
    """Who did it, in which dynasty, and what has to be verified before it is believed."""

    offender: bytes
    dynasty: int
    checks: Checks


def check_evidence(parent: ChainState, transaction: Transaction) -> Checks:
    """Return what proves the evidence: the offender's signatures, and for a reveal that it is false."""
    return _judge(parent, decode_payload(transaction.body.payload, EvidencePayload)).checks


def apply_evidence(state: ChainState, parent: ChainState, transaction: Transaction) -> ChainState:
    """Punish the offender, once for each dynasty it offended in; ``parent`` is the state before the block."""
    offence = _judge(parent, decode_payload(transaction.body.payload, EvidencePayload))
    oldest = state.dynasty - state.rules.parameters.exclusion_dynasties
    if not oldest <= offence.dynasty <= state.dynasty:
        raise InvalidTransaction(f"evidence of dynasty {offence.dynasty} does not count in dynasty {state.dynasty}")
    if any(s.offender == offence.offender and s.dynasty == offence.dynasty for s in state.slashes):
        raise InvalidTransaction("the offender was punished for that dynasty already")
    offender = get_account(state, offence.offender)
    assert offender is not None  # accounts are never removed
    return slash(state, offender, offence.dynasty)


def _judge(parent: ChainState, payload: EvidencePayload) -> Offence:
    judge = (_judge_headers, _judge_votes, _judge_reveal)[payload.offence]
    try:
        return judge(parent, payload.first, payload.second)
    except MalformedObject as error:
        raise InvalidTransaction(f"evidence: {error}") from None


def _judge_headers(parent: ChainState, first: bytes, second: bytes) -> Offence:
    one, other = decode_header(first), decode_header(second)
    a, b = one.body, other.body
    if a.chain_id != parent.rules.chain_id or b.chain_id != a.chain_id:
        raise InvalidTransaction("evidence of another chain")
    if one.id == other.id or (a.dynasty, a.parent, a.slot, a.proposer) != (b.dynasty, b.parent, b.slot, b.proposer):
        raise InvalidTransaction("no offence: not two blocks of one proposer in one slot on one parent")
    key = _get_offender(parent, a.proposer).entry.signing_key
    return Offence(
        a.proposer,
        a.dynasty,
        Checks(signatures=(SignatureCheck(key, one.id, one.signature), SignatureCheck(key, other.id, other.signature))),
    )


def _judge_votes(parent: ChainState, first: bytes, second: bytes) -> Offence:
    one, other = decode_vote(first), decode_vote(second)
    a, b = one.body, other.body
    if a.chain_id != parent.rules.chain_id or b.chain_id != a.chain_id:
        raise InvalidTransaction("evidence of another chain")
    inner, outer = (a, b) if a.target_epoch < b.target_epoch else (b, a)
    double = one.id != other.id and a.target_epoch == b.target_epoch
    surrounding = outer.source_epoch < inner.source_epoch and inner.target_epoch < outer.target_epoch
    if (a.dynasty, a.voter) != (b.dynasty, b.voter) or not (double or surrounding):
        raise InvalidTransaction("no offence: the votes are not two of one voter that exclude each other")
    key = _get_offender(parent, a.voter).entry.signing_key
    return Offence(
        a.voter,
        a.dynasty,
        Checks(signatures=(SignatureCheck(key, one.id, one.signature), SignatureCheck(key, other.id, other.signature))),
    )


def _judge_reveal(parent: ChainState, first: bytes, second: bytes) -> Offence:
    transaction, view = decode_transaction(first), decode_payload(second, SharingView)
    body = transaction.body
    if body.chain_id != parent.rules.chain_id or body.kind != TransactionKind.REVEAL:
        raise InvalidTransaction("evidence: no reveal on this chain")
    payload = decode_payload(body.payload, RevealPayload)
    known = {past.dynasty: past.digest for past in parent.past_sharings}
    if parent.height >= parent.windows.deals:
        known[parent.dynasty] = hash_sharing(parent.rules, parent.dynasty, view_sharing(parent))
    digest = hash_sharing(parent.rules, payload.dynasty, view)
    # A reveal is judged by the deals that it names, and only if they became the chain's.
    if not digest == payload.sharing == known.get(payload.dynasty):
        raise InvalidTransaction("evidence: the reveal is not for the deals of that dynasty")
    if body.sender not in view.members:
        raise InvalidTransaction("evidence: the sender was no member")
    entry = _get_offender(parent, body.sender).entry
    check = RevealCheck(
        reveal_context(parent.rules, payload.dynasty, body.sender, payload.sharing),
        entry.pvss_key,
        view.encrypted[view.members.index(body.sender)],
        payload.reveal,
        expected=False,
    )
    signed = _check_signatures(parent, body.sender, transaction)
    return Offence(body.sender, payload.dynasty, replace(signed, reveals=(check,)))


def _check_signatures(parent: ChainState, signer: bytes, *objects: Transaction | Header | Vote) -> Checks:
    key = _get_offender(parent, signer).entry.signing_key
    return Checks(signatures=tuple(SignatureCheck(key, one.id, one.signature) for one in objects))


def _get_offender(parent: ChainState, id: bytes) -> Account:
    account = get_account(parent, id)
    if account is None:
        raise InvalidTransaction("evidence against a node that is not registered")
    return account
