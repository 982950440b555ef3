"""Transactions on their way into the pool: from clients, pushed by an entry node, or fetched (protocol, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from microchain.consensus.context import Context
from microchain.consensus.interface import (
    AdmissionCode,
    Broadcast,
    Job,
    JobResult,
    Misbehaviour,
    Outcome,
    PerformChecks,
    Reply,
    Send,
    TransactionTrace,
    VerifySignatures,
)
from microchain.consensus.messages import GetTransactions, TransactionIds, Transactions
from microchain.consensus.objects import MalformedObject, Transaction, decode_transaction
from microchain.consensus.pool import PoolEntry
from microchain.consensus.state import Checks
from microchain.consensus.types import Digest, NodeId, ProtocolError, TransactionKind

__all__ = ["Admission", "Refused", "check_form"]

ANSWER_BYTES = 1 << 20
MAX_REQUESTED = 16384
MAX_SYSTEM_FROM_SENDER = 16
MAX_SYSTEM_BYTES = 1 << 18


class Refused(Exception):
    """Why a transaction is not admitted here and now."""

    def __init__(self, code: AdmissionCode, detail: str, id: Digest | None = None) -> None:
        super().__init__(detail)
        self.outcome = Outcome(code, id, detail)


class NeverValid(Refused):
    """A transaction that no honest node admits, whatever its state, so that whoever passes it on is at fault."""


class _Candidate(Struct, frozen=True):
    id: Digest
    raw: bytes
    valid_until: int
    system: Transaction | None
    checks: Checks


class Admission:
    """Checks, pools and announces transactions."""

    def __init__(self, core: Context) -> None:
        self._core = core
        self._checking: dict[Digest, bytes] = {}
        self._checking_bytes = 0
        self._requested: dict[NodeId, set[Digest]] = {}

    def submit(self, request: int, transactions: Sequence[bytes]) -> None:
        """Admit a client's transactions, push what is good to the peers, and reply."""
        outcomes, candidates, items, _ = self._examine(transactions)

        def done(results: tuple[JobResult, ...]) -> None:
            verdicts = _join_verdicts(candidates, results)
            good = []
            for (position, candidate), valid in zip(candidates, verdicts, strict=True):
                self._forget_checking(candidate)
                if valid:
                    good.append(candidate)
                    outcomes[position] = Outcome(AdmissionCode.ACCEPTED, candidate.id, "")
                else:
                    outcomes[position] = Outcome(
                        AdmissionCode.BAD_SIGNATURE, candidate.id, "the signature is not the sender's"
                    )
            if good:
                self._core.emit(Broadcast(Transactions(tuple(c.raw for c in good))))
                self._pool(good, local=True)
            self._core.emit(Reply(request, tuple(o for o in outcomes if o is not None)))

        if candidates:
            self._core.work(_list_jobs(candidates, items), done)
        else:
            self._core.emit(Reply(request, tuple(o for o in outcomes if o is not None)))

    def receive(self, peer: NodeId, transactions: Sequence[bytes]) -> None:
        """Admit what a peer pushed or supplied."""
        _, candidates, items, never_valid = self._examine(transactions)
        if never_valid is not None:
            self._core.emit(Misbehaviour(peer, f"transaction: {never_valid}"))

        def done(results: tuple[JobResult, ...]) -> None:
            for _, candidate in candidates:
                self._forget_checking(candidate)
            verdicts = _join_verdicts(candidates, results)
            self._note_refuted(candidates, results, verdicts)
            good = [c for (_, c), valid in zip(candidates, verdicts, strict=True) if valid]
            # What fails only a check against this node's state may be right for its sender's.
            if not all(results[0] or ()):  # type: ignore[arg-type]
                self._core.emit(Misbehaviour(peer, "sent a transaction with a wrong signature"))
            self._pool(good, local=False)
            if good and not self._core.is_full_mesh():
                self._core.emit(Broadcast(TransactionIds(tuple(c.id for c in good))))

        if candidates:
            self._core.work(_list_jobs(candidates, items), done)

    def add_own(self, transaction: Transaction) -> None:
        """Pool and push a system transaction of this node's own."""
        candidate = _Candidate(transaction.id, transaction.raw, transaction.body.valid_until, transaction, Checks())
        self._core.emit(Broadcast(Transactions((transaction.raw,))))
        self._pool([candidate], local=True)

    def announced(self, peer: NodeId, ids: Sequence[bytes]) -> None:
        """Fetch announced transactions that are unknown here."""
        core = self._core
        asked = self._requested.setdefault(peer, set())
        unknown: dict[Digest, None] = {}
        for raw_id in ids:
            id = Digest(raw_id)
            if len(asked) + len(unknown) >= MAX_REQUESTED:
                break
            if id not in core.pool and id not in self._checking and not self._is_requested(id):
                unknown[id] = None
        if unknown:
            asked.update(unknown)
            core.emit(Send(peer, GetTransactions(tuple(unknown))))

    def _is_requested(self, id: Digest) -> bool:
        return any(id in asked for asked in self._requested.values())

    def forget_requests(self) -> None:
        """Let unanswered announcements be asked for again."""
        self._requested.clear()

    def serve(self, peer: NodeId, ids: Iterable[bytes]) -> None:
        """Answer GetTransactions with what is pooled, each once, in messages of at most 1 MiB."""
        batch: list[bytes] = []
        size = 0
        for id in dict.fromkeys(ids):
            entry = self._core.pool.get(Digest(id))
            if entry is None:
                continue
            if batch and size + len(entry.raw) > ANSWER_BYTES:
                self._core.emit(Send(peer, Transactions(tuple(batch))))
                batch, size = [], 0
            batch.append(entry.raw)
            size += len(entry.raw)
        if batch:
            self._core.emit(Send(peer, Transactions(tuple(batch))))

    def announce_own(self, peer: NodeId | None = None) -> None:
        """Announce again, to one peer or all, what this node acknowledged or made and is still waiting.

        A push may have been lost with its link, or made before there was one.
        """
        pool = self._core.pool
        own = [id for part in (pool.system, pool.pending) for id, entry in part.items() if entry.local]
        if own:
            message = TransactionIds(tuple(own[:MAX_REQUESTED]))
            self._core.emit(Broadcast(message) if peer is None else Send(peer, message))

    def _examine(
        self, transactions: Sequence[bytes]
    ) -> tuple[
        list[Outcome | None], list[tuple[int, _Candidate]], tuple[tuple[bytes, bytes, bytes], ...], NeverValid | None
    ]:
        """Return the outcomes known already, the candidates by position, their signatures, and a proof of bad faith."""
        never_valid: NeverValid | None = None
        outcomes: list[Outcome | None] = []
        candidates: list[tuple[int, _Candidate]] = []
        items: list[tuple[bytes, bytes, bytes]] = []
        for position, raw in enumerate(transactions):
            try:
                transaction = self._check(raw)
                is_data = transaction.body.kind == TransactionKind.DATA
                checks = Checks() if is_data else self._check_system(transaction)
            except Refused as refused:
                outcomes.append(refused.outcome)
                never_valid = refused if isinstance(refused, NeverValid) else never_valid
                continue
            valid_until = transaction.body.valid_until
            candidate = _Candidate(transaction.id, raw, valid_until, None if is_data else transaction, checks)
            self._checking.setdefault(candidate.id, raw)
            self._checking_bytes += len(raw)
            outcomes.append(None)
            candidates.append((position, candidate))
            key = self._core.senders[NodeId(transaction.body.sender)]
            items.append((key, transaction.id, transaction.signature))
        return outcomes, candidates, tuple(items), never_valid

    def _check(self, raw: bytes) -> Transaction:
        core = self._core
        transaction = check_transaction(core, raw)
        id, valid_until = transaction.id, transaction.body.valid_until
        # The same bytes only: a copy with a damaged signature that came first must not keep out the right one.
        if id in core.pool or self._checking.get(id) == raw or core.replay.contains(id, valid_until):
            raise Refused(AdmissionCode.DUPLICATE, "the transaction is known already", id)
        height = core.head_height + 1
        if valid_until < height:
            raise Refused(AdmissionCode.EXPIRED, f"valid until height {valid_until}, and the next is {height}", id)
        if valid_until > core.head_height + core.parameters.max_validity:
            detail = (
                f"valid_until {valid_until} is more than {core.parameters.max_validity} blocks ahead of {height - 1}"
            )
            raise Refused(AdmissionCode.MALFORMED, detail, id)
        if not core.pool.has_room(self._checking_bytes + len(raw)):
            raise Refused(AdmissionCode.POOL_FULL, "the pool is full; try again later", id)
        return transaction

    def _check_system(self, transaction: Transaction) -> Checks:
        """Return what is to be verified of a transaction of the protocol's own kinds, if a block may have it now."""
        core = self._core
        sender = transaction.body.sender
        waiting = sum(entry.system.body.sender == sender for entry in core.pool.system.values() if entry.system)
        if waiting >= MAX_SYSTEM_FROM_SENDER:
            raise Refused(AdmissionCode.POOL_FULL, "the sender has too many such transactions waiting", transaction.id)
        try:
            checks = core.list_checks(transaction)
        except ProtocolError as error:
            raise Refused(AdmissionCode.MALFORMED, str(error), transaction.id) from None
        if not core.may_include(transaction):
            detail = "no block may contain it now: it is repeated, too early or too late"
            raise Refused(AdmissionCode.MALFORMED, detail, transaction.id)
        return checks

    def _note_refuted(
        self, candidates: list[tuple[int, _Candidate]], results: tuple[JobResult, ...], verdicts: list[bool]
    ) -> None:
        signatures = results[0]
        assert isinstance(signatures, tuple)
        for (_, candidate), signed, valid in zip(candidates, signatures, verdicts, strict=True):
            if signed and not valid and candidate.system is not None:
                self._core.on_refuted(candidate.system)

    def _forget_checking(self, candidate: _Candidate) -> None:
        if self._checking.get(candidate.id) == candidate.raw:
            del self._checking[candidate.id]
        self._checking_bytes -= len(candidate.raw)

    def _pool(self, good: list[_Candidate], *, local: bool) -> None:
        core = self._core
        fresh = [c for c in good if c.id not in core.pool and not core.replay.contains(c.id, c.valid_until)]
        for candidate in fresh:
            core.pool.add(candidate.id, PoolEntry(candidate.raw, candidate.valid_until, local, candidate.system))
        data = tuple(candidate.id for candidate in fresh if candidate.system is None)
        if data:
            core.emit(TransactionTrace("accepted", data, local=local))
            core.wake_proposer = True


def _list_jobs(
    candidates: Sequence[tuple[int, _Candidate]], items: tuple[tuple[bytes, bytes, bytes], ...]
) -> tuple[Job, ...]:
    return VerifySignatures(items), *(PerformChecks(c.checks) for _, c in candidates if c.checks)


def _join_verdicts(candidates: Sequence[tuple[int, _Candidate]], results: tuple[JobResult, ...]) -> list[bool]:
    """Return whether each candidate's signature and checks hold."""
    signatures, *checks = results
    assert isinstance(signatures, tuple)
    rest = iter(checks)
    verdicts = []
    for (_, candidate), signature in zip(candidates, signatures, strict=True):
        checked = next(rest) if candidate.checks else True
        verdicts.append(bool(signature and checked))
    return verdicts


def check_form(core: Context, raw: bytes) -> Transaction:
    """Decode and check what does not depend on the chain's state; NeverValid says why not."""
    most = core.parameters.max_tx_bytes
    if len(raw) > max(most, MAX_SYSTEM_BYTES):
        raise NeverValid(AdmissionCode.TOO_LARGE, f"{len(raw)} bytes; a transaction has at most {most}")
    try:
        transaction = decode_transaction(raw)
    except MalformedObject as error:
        raise NeverValid(AdmissionCode.MALFORMED, str(error)) from None
    # A deal grows with the committee, whatever the limit for what clients send.
    if len(raw) > most and transaction.body.kind == TransactionKind.DATA:
        raise NeverValid(AdmissionCode.TOO_LARGE, f"{len(raw)} bytes; a transaction has at most {most}")
    if transaction.body.kind not in core.kinds:
        kind = TransactionKind(transaction.body.kind).name.lower()
        raise NeverValid(AdmissionCode.MALFORMED, f"this chain's engine has no {kind} transactions", transaction.id)
    if transaction.body.chain_id != core.chain_id:
        raise NeverValid(AdmissionCode.MALFORMED, "signed for another chain", transaction.id)
    return transaction


def check_transaction(core: Context, raw: bytes) -> Transaction:
    """Decode and check all that needs no more of the chain's state than who may send; Refused says why not."""
    transaction = check_form(core, raw)
    if transaction.body.sender not in core.senders:
        refusal = Refused if core.genesis.authority else NeverValid
        raise refusal(AdmissionCode.UNKNOWN_SENDER, "the sender is not in the registry", transaction.id)
    return transaction
