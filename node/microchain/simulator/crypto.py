"""Modelled cryptography: a suite nobody can forge inside a simulation, and what the real one would have cost."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256, sha512

from msgspec import Struct

from microchain.consensus.interface import (
    Job,
    MakeDeal,
    MakeReveal,
    MerkleRoot,
    PerformChecks,
    Prove,
    Sign,
    VerifyProof,
    VerifySignatures,
)
from microchain.consensus.types import Nanoseconds
from microchain.crypto.pvss import PvssKey

__all__ = ["CryptoCosts", "SimulatedKeyring", "SimulatedSuite"]


class SimulatedKeyring:
    """One node's private keys: hashes under a secret that only this object and the suite hold."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.signing_key = sha256(b"signing" + secret).digest()
        """The public signing key."""
        self.vrf_key = sha256(b"vrf" + secret).digest()
        """The public VRF key."""
        # Real: nobody inside a simulation may open a deal before its time.
        self._pvss = PvssKey(sha256(b"pvss" + secret).digest())
        self.pvss_key = self._pvss.public_key
        self.deal, self.reveal = self._pvss.deal, self._pvss.reveal

    def sign(self, message: bytes) -> bytes:
        return sha256(self._secret + message).digest()

    def prove(self, alpha: bytes) -> tuple[bytes, bytes]:
        """Return (80-byte proof, 64-byte output), as ECVRF does; both are functions of the key and ``alpha`` alone."""
        output = sha512(b"vrf" + self._secret + alpha).digest()
        return output + output[:16], output


class SimulatedSuite:
    """A Suite that checks by computing again with the secret that it looks up for a public key."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._signers: dict[bytes, SimulatedKeyring] = {}
        self._provers: dict[bytes, SimulatedKeyring] = {}

    def create_keyring(self, name: str) -> SimulatedKeyring:
        """Return the keys of the node ``name``, registered with this suite."""
        keyring = SimulatedKeyring(sha256(self._seed + name.encode()).digest())
        self._signers[keyring.signing_key] = keyring
        self._provers[keyring.vrf_key] = keyring
        return keyring

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        keyring = self._signers.get(public_key)
        return keyring is not None and keyring.sign(message) == signature

    def verify_proof(self, public_key: bytes, alpha: bytes, proof: bytes) -> bytes | None:
        keyring = self._provers.get(public_key)
        if keyring is None:
            return None
        expected, output = keyring.prove(alpha)
        return output if proof == expected else None


class CryptoCosts(Struct, frozen=True):
    """Nanoseconds of each operation. The defaults are RSA-2048 and ECVRF on a 2-core x86 machine (PyNaCl, OpenSSL)."""

    sign: int = 239_000
    verify: int = 18_000
    prove: int = 208_000
    verify_proof: int = 346_000
    leaf: int = 1_500
    share: int = 400_000

    def of(self, jobs: Sequence[Job]) -> Nanoseconds:
        """Return how long the jobs take, one after the other."""
        total = 0
        for job in jobs:
            total += self.verify * len(job.items) if type(job) is VerifySignatures else self._of_job(job)
        return Nanoseconds(total)

    def _of_job(self, job: Job) -> int:
        match job:
            case VerifySignatures():
                return self.verify * len(job.items)
            case MerkleRoot():
                return self.leaf * len(job.leaves)
            case Sign():
                return self.sign
            case Prove():
                return self.prove
            case VerifyProof():
                return self.verify_proof
            case MakeDeal(statement=statement):
                return self.share * len(statement.receivers)
            case MakeReveal():
                return self.share
            case PerformChecks(checks=checks):
                shares = sum(len(check.deal.encrypted) for check in checks.deals) + len(checks.reveals)
                return (
                    self.verify * len(checks.signatures) + self.verify_proof * len(checks.proofs) + self.share * shares
                )
