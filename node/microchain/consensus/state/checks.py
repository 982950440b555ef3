"""What system transactions leave to be verified: plain data, for worker threads and for the simulator's cost model."""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

from microchain.crypto.pvss import Deal, PvssError, Reveal, Statement, check_deal, check_reveal
from microchain.crypto.suite import Suite

__all__ = ["Checks", "DealCheck", "ProofCheck", "RevealCheck", "SignatureCheck", "join_checks", "perform_checks"]


class SignatureCheck(Struct, frozen=True):
    """That the signature is the key's over the message."""

    key: bytes
    message: bytes
    signature: bytes


class ProofCheck(Struct, frozen=True):
    """That the VRF proof proves this output."""

    key: bytes
    alpha: bytes
    proof: bytes
    output: bytes


class DealCheck(Struct, frozen=True):
    """That the deal is one for the statement."""

    statement: Statement
    deal: Deal


class RevealCheck(Struct, frozen=True):
    """That the reveal is what the key decrypts (``expected``), or that it is not."""

    context: bytes
    key: bytes
    encrypted: bytes
    reveal: Reveal
    expected: bool


class Checks(Struct, frozen=True):
    """All that must hold for the transactions of one block, beside their own signatures."""

    signatures: tuple[SignatureCheck, ...] = ()
    proofs: tuple[ProofCheck, ...] = ()
    deals: tuple[DealCheck, ...] = ()
    reveals: tuple[RevealCheck, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.signatures or self.proofs or self.deals or self.reveals)


def join_checks(parts: list[Checks]) -> Checks:
    """Return all checks together."""
    return Checks(
        tuple(check for part in parts for check in part.signatures),
        tuple(check for part in parts for check in part.proofs),
        tuple(check for part in parts for check in part.deals),
        tuple(check for part in parts for check in part.reveals),
    )


def perform_checks(checks: Checks, suite: Suite) -> bool:
    """Whether all hold. Safe to call from any thread. Deals and reveals are verified once, then remembered."""
    return (
        all(suite.verify(c.key, c.message, c.signature) for c in checks.signatures)
        and all(suite.verify_proof(c.key, c.alpha, c.proof) == c.output for c in checks.proofs)
        and all(_is_deal(c) for c in checks.deals)
        and all(_is_reveal(c) is c.expected for c in checks.reveals)
    )


@lru_cache(maxsize=256)
def _is_deal(check: DealCheck) -> bool:
    try:
        check_deal(check.statement, check.deal)
    except PvssError:
        return False
    return True


@lru_cache(maxsize=256)
def _is_reveal(check: RevealCheck) -> bool:
    try:
        check_reveal(check.context, check.key, check.encrypted, check.reveal)
    except PvssError:
        return False
    return True
