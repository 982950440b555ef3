"""The two ends of a node's cryptography: what anybody can check (Suite) and what only the key's owner can do (Keyring).

Engines and their work know only these protocols, so the simulator can put a modelled suite in the real one's place.
"""

from __future__ import annotations

from typing import Protocol

from microchain.crypto.pvss import Deal, PvssKey, Reveal, Statement
from microchain.crypto.signatures import SigningKey, get_scheme
from microchain.crypto.vrf import VrfKey, verify_proof

__all__ = ["Keyring", "RealKeyring", "RealSuite", "Suite"]


class Suite(Protocol):
    """Checks that need public keys only. Malformed input is a failed check, never an exception."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is the key's over ``message``."""
        ...

    def verify_proof(self, public_key: bytes, alpha: bytes, proof: bytes) -> bytes | None:
        """Return the VRF output that ``proof`` proves for ``alpha``, or None if it proves nothing."""
        ...


class Keyring(Protocol):
    """One node's private keys."""

    def sign(self, message: bytes) -> bytes:
        """Return this node's signature of ``message``."""
        ...

    def prove(self, alpha: bytes) -> tuple[bytes, bytes]:
        """Return (VRF proof, output) of this node for ``alpha``."""
        ...

    def deal(self, statement: Statement) -> Deal:
        """Return this node's deal of a secret for a statement."""
        ...

    def reveal(self, context: bytes, encrypted: bytes) -> Reveal:
        """Return the share that was encrypted to this node, decrypted."""
        ...


class RealSuite:
    """A Suite with the signature scheme of that name (genesis parameter ``signature``) and ECVRF."""

    def __init__(self, scheme_name: str) -> None:
        self.verify = get_scheme(scheme_name).verify
        self.verify_proof = verify_proof


class RealKeyring:
    """A Keyring of a signing key, a VRF key and a PVSS key."""

    def __init__(self, signing_key: SigningKey, vrf_key: VrfKey, pvss_key: PvssKey) -> None:
        self.sign = signing_key.sign
        self.prove = vrf_key.prove
        self.deal = pvss_key.deal
        self.reveal = pvss_key.reveal
