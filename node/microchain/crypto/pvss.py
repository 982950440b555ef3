"""The key that shares of a publicly verifiable secret sharing are encrypted to (edwards25519, prime-order subgroup)."""

from __future__ import annotations

from hashlib import sha512

from nacl.bindings import crypto_core_ed25519_scalar_reduce, crypto_scalarmult_ed25519_base_noclamp

from microchain.crypto.hashing import tag_prefix

__all__ = ["derive_public_key"]


def derive_public_key(seed: bytes) -> bytes:
    """Return the public key x·B (32 bytes) of a 32-byte seed, x the seed's tagged SHA-512 modulo the group order."""
    if len(seed) != 32:
        raise ValueError(f"a PVSS key has 32 bytes, not {len(seed)}")
    scalar = crypto_core_ed25519_scalar_reduce(sha512(tag_prefix("microchain/pvss-key") + seed).digest())
    return crypto_scalarmult_ed25519_base_noclamp(scalar)
