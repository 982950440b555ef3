"""What this node sends of its own accord: its part in RandShare and sortition, and evidence (protocol, 6 to 8).

A duty's result is a function of key and duty, so a node that crashed makes the same transaction again; nothing has to
be stored before it is sent.
"""

from __future__ import annotations

from microchain.consensus.admission import Admission
from microchain.consensus.core import Core
from microchain.consensus.interface import (
    EvidenceRecord,
    Job,
    JobResult,
    MakeDeal,
    MakeReveal,
    Prove,
    Sign,
)
from microchain.consensus.objects import (
    TRANSACTION_TAG,
    VERSION,
    Transaction,
    TransactionBody,
    decode_header,
    decode_transaction,
    decode_vote,
    encode_body,
    seal,
)
from microchain.consensus.state import (
    FALSE_REVEAL,
    TWO_HEADERS,
    TWO_VOTES,
    ClaimDuty,
    DealDuty,
    Duty,
    EvidencePayload,
    RevealDuty,
    encode_payload,
    find_duty,
    view_sharing,
)
from microchain.consensus.state.payloads import RevealPayload, decode_payload
from microchain.consensus.state.randshare import hash_sharing
from microchain.consensus.types import Digest, NodeId, ProtocolError, TransactionKind
from microchain.crypto.hashing import tagged_hash

__all__ = ["Duties", "dynasty_of"]

OFFENCES = {"double-proposal": TWO_HEADERS, "false-reveal": FALSE_REVEAL}

MAX_CASES = 64
EVIDENCE_VALIDITY = 64
"""Blocks: evidence that no block took within so many is sent again."""


class Duties:
    """Makes and signs system transactions, one for each duty and each case of evidence, until a block has it."""

    def __init__(self, core: Core, admission: Admission) -> None:
        self._core = core
        self._admission = admission
        self._sent: dict[tuple[object, ...], Digest | None] = {}
        """The transaction for each duty or case; None while it is made, or where there is nothing to send."""
        self._cases: dict[tuple[NodeId, int], EvidencePayload] = {}

    def begin_dynasty(self) -> None:
        """What was owed in the old dynasty is owed no more."""
        self._sent.clear()

    def accuse(self, record: EvidenceRecord) -> None:
        """Take a case of evidence to the chain."""
        try:
            case = (record.offender, dynasty_of(record))
        except ProtocolError:
            return
        if case not in self._cases and len(self._cases) < MAX_CASES:
            offence = OFFENCES.get(record.rule, TWO_VOTES)
            self._cases[case] = EvidencePayload(offence, record.first, record.second)

    def refuted(self, transaction: Transaction) -> None:
        """A signed transaction proves nothing: evidence, if it is a reveal for the deals of the head's branch.

        These are final then. Nobody is deceived by its own state: the reveal names the deals that it is for.
        """
        core, body = self._core, transaction.body
        chain = core.head.chain
        if body.kind != TransactionKind.REVEAL or chain.height < chain.windows.deals:
            return
        payload, view = decode_payload(body.payload, RevealPayload), view_sharing(chain)
        case = (NodeId(body.sender), payload.dynasty)
        if case not in self._cases and payload.sharing == hash_sharing(chain.rules, chain.dynasty, view):
            core.record_evidence(EvidenceRecord("false-reveal", case[0], transaction.raw, encode_payload(view)))

    def forget_stale(self) -> None:
        """Drop system transactions that no block may contain now: what they are for is done, or its time is over."""
        core = self._core
        if core.head.closes is not None:
            return
        for id, entry in list(core.pool.system.items()):
            if entry.system is not None and not core.may_include(entry.system):
                core.pool.remove((id,))

    def consider(self) -> None:
        """Send what is due on the head and was not sent, or got lost."""
        core = self._core
        if core.head.closes is not None:
            return
        chain = core.head.chain
        duty = find_duty(chain, core.next_context(core.head, core.identity), core.identity)
        if duty is not None:
            attempt = duty.attempt if isinstance(duty, ClaimDuty) else 0
            key = (duty.kind, duty.dynasty, attempt)
            if self._is_due(key):
                self._do(key, duty)
        self._consider_cases()

    def _consider_cases(self) -> None:
        core = self._core
        chain = core.head.chain
        punished = {(slash.offender, slash.dynasty) for slash in chain.slashes}
        oldest = chain.dynasty - core.parameters.exclusion_dynasties
        for case, payload in list(self._cases.items()):
            if case[1] < oldest:
                del self._cases[case]
            elif case not in punished and case[1] <= chain.dynasty and self._is_due(("case", *case)):
                self._send(
                    ("case", *case),
                    TransactionKind.EVIDENCE,
                    encode_payload(payload),
                    core.head.height + EVIDENCE_VALIDITY,
                )

    def _is_due(self, key: tuple[object, ...]) -> bool:
        """Whether the transaction was not made, or no pool of this node has it any more."""
        if key not in self._sent:
            return True
        id = self._sent[key]
        if id is None:
            return False
        entry = self._core.pool.get(id)
        return entry is None or entry.valid_until <= self._core.head.height

    def _do(self, key: tuple[object, ...], duty: Duty) -> None:
        core = self._core
        windows, job = core.head.chain.windows, _find_job(duty)
        until = {TransactionKind.DEAL: windows.deals, TransactionKind.REVEAL: windows.reveals}
        self._sent[key] = None

        def done(results: tuple[JobResult, ...]) -> None:
            (result,) = results
            if isinstance(duty, ClaimDuty):
                assert isinstance(result, tuple)
                if not duty.is_drawn(core.head.chain, core.identity, result[1]):  # type: ignore[arg-type]
                    return
            payload = duty.payload(result)  # type: ignore[arg-type]
            self._send(key, duty.kind, payload, until.get(duty.kind, windows.claims))

        core.work((job,), done)

    def _send(self, key: tuple[object, ...], kind: TransactionKind, payload: bytes, until: int) -> None:
        """Sign, pool and push a transaction."""
        core = self._core
        until = min(until, core.head.height + core.parameters.max_validity)
        signed = encode_body(TransactionBody(VERSION, core.chain_id, kind, core.identity, until, payload))
        id = tagged_hash(TRANSACTION_TAG, signed)
        self._sent[key] = None

        def done(results: tuple[JobResult, ...]) -> None:
            (signature,) = results
            assert isinstance(signature, bytes)
            self._sent[key] = id
            self._admission.add_own(decode_transaction(seal(signed, signature)))

        core.work((Sign(id),), done)


def dynasty_of(record: EvidenceRecord) -> int:
    """Return the dynasty of the offence; ProtocolError where the evidence is malformed."""
    if record.rule == "false-reveal":
        return decode_payload(decode_transaction(record.first).body.payload, RevealPayload).dynasty
    decode = decode_header if record.rule == "double-proposal" else decode_vote
    return decode(record.first).body.dynasty


def _find_job(duty: Duty) -> Job:
    match duty:
        case DealDuty(statement=statement):
            return MakeDeal(statement)
        case RevealDuty(context=context, encrypted=encrypted):
            return MakeReveal(context, encrypted)
        case ClaimDuty(alpha=alpha):
            return Prove(alpha)
