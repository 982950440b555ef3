"""Carry out jobs: the one place where an engine's heavy cryptography is computed, by runtime and simulator alike."""

from __future__ import annotations

from collections.abc import Sequence

from microchain.consensus.interface import (
    Job,
    JobResult,
    MakeDeal,
    MakeReveal,
    MerkleRoot,
    PerformChecks,
    Prove,
    Sign,
    VerifyProof,
    VerifySignatures,
)
from microchain.consensus.state import perform_checks
from microchain.crypto.merkle import merkle_root
from microchain.crypto.suite import Keyring, Suite

__all__ = ["perform"]


def perform(jobs: Sequence[Job], suite: Suite, keyring: Keyring) -> tuple[JobResult, ...]:
    """Return one result for each job, in order. Safe to call from any thread."""
    return tuple(_perform_one(job, suite, keyring) for job in jobs)


def _perform_one(job: Job, suite: Suite, keyring: Keyring) -> JobResult:
    match job:
        case VerifySignatures(items):
            return tuple(suite.verify(key, message, signature) for key, message, signature in items)
        case VerifyProof(public_key, alpha, proof):
            return suite.verify_proof(public_key, alpha, proof)
        case MerkleRoot(leaves):
            return merkle_root(leaves)
        case Prove(alpha):
            return keyring.prove(alpha)
        case Sign(message):
            return keyring.sign(message)
        case PerformChecks(checks):
            return perform_checks(checks, suite)
        case MakeDeal(statement):
            return keyring.deal(statement)
        case MakeReveal(context, encrypted):
            return keyring.reveal(context, encrypted)
