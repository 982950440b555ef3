"""Verifiable random function ECVRF-EDWARDS25519-SHA512-TAI (RFC 9381, suite 0x03) on libsodium's point arithmetic.

Stricter than the RFC in one respect: public keys and Γ must lie in the prime-order subgroup, as every honest prover's
do. That includes full key validation (RFC 9381, section 5.4.5).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha512

from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_is_valid_point,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_core_ed25519_sub,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)

__all__ = ["OUTPUT_BYTES", "PROOF_BYTES", "VrfKey", "is_valid_key", "verify_proof"]

PROOF_BYTES = 80
OUTPUT_BYTES = 64

_SUITE = b"\x03"
_ORDER = 2**252 + 27742317777372353535851937790883648493
_IDENTITY = bytes([1]) + bytes(31)
_CHALLENGE_BYTES = 16
_PADDING = bytes(32 - _CHALLENGE_BYTES)


class VrfKey:
    """A private VRF key.

    ``seed`` is 32 random bytes, expanded as an Ed25519 key (RFC 8032); ValueError if it has another length.
    """

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError(f"a VRF key has 32 bytes, not {len(seed)}")
        expanded = sha512(seed).digest()
        clamped = bytes([expanded[0] & 0xF8]) + expanded[1:31] + bytes([expanded[31] & 0x7F | 0x40])
        self._scalar = crypto_core_ed25519_scalar_reduce(clamped + bytes(32))
        self._nonce_key = expanded[32:]
        self.public_key: bytes = crypto_scalarmult_ed25519_base_noclamp(self._scalar)

    def prove(self, alpha: bytes) -> tuple[bytes, bytes]:
        """Return (proof, output): 80 and 64 bytes; always the same for the same ``alpha`` (section 5.1)."""
        h = _encode_to_curve(self.public_key, alpha)
        gamma = crypto_scalarmult_ed25519_noclamp(self._scalar, h)
        nonce = crypto_core_ed25519_scalar_reduce(sha512(self._nonce_key + h).digest())
        u = crypto_scalarmult_ed25519_base_noclamp(nonce)
        v = crypto_scalarmult_ed25519_noclamp(nonce, h)
        challenge = _challenge(self.public_key, h, gamma, u, v)
        product = crypto_core_ed25519_scalar_mul(challenge + _PADDING, self._scalar)
        return gamma + challenge + crypto_core_ed25519_scalar_add(nonce, product), _output(gamma)


def verify_proof(public_key: bytes, alpha: bytes, proof: bytes) -> bytes | None:
    """Return the 64-byte output that ``proof`` proves for ``alpha``, or None if key or proof is wrong (section 5.3)."""
    if len(proof) != PROOF_BYTES or not is_valid_key(public_key):
        return None
    gamma, challenge, s = proof[:32], proof[32:48], proof[48:]
    if int.from_bytes(s, "little") >= _ORDER:
        return None
    h = _encode_to_curve(public_key, alpha)
    c = challenge + _PADDING
    try:
        c_key, c_gamma = crypto_scalarmult_ed25519_noclamp(c, public_key), crypto_scalarmult_ed25519_noclamp(c, gamma)
        u = crypto_core_ed25519_sub(crypto_scalarmult_ed25519_base_noclamp(s), c_key)
        v = crypto_core_ed25519_sub(crypto_scalarmult_ed25519_noclamp(s, h), c_gamma)
    except RuntimeError:  # libsodium refuses points outside the subgroup, and the scalar 0, which no prover comes by
        return None
    return _output(gamma) if _challenge(public_key, h, gamma, u, v) == challenge else None


@lru_cache(maxsize=1024)
def is_valid_key(public_key: bytes) -> bool:
    """Whether it is the canonical encoding of a point of the prime-order subgroup other than the identity."""
    return len(public_key) == 32 and crypto_core_ed25519_is_valid_point(public_key)


def _times_cofactor(point: bytes) -> bytes:
    """Return 8·point by doubling: libsodium multiplies only points that are in the prime-order subgroup already."""
    for _ in range(3):
        point = crypto_core_ed25519_add(point, point)
    return point


def _encode_to_curve(salt: bytes, alpha: bytes) -> bytes:
    """Return the point that ``alpha`` is hashed to, by try and increment (section 5.4.1.1)."""
    start = sha512(_SUITE + b"\x01" + salt + alpha)
    for counter in range(256):
        attempt = start.copy()
        attempt.update(bytes((counter, 0)))
        candidate = attempt.digest()[:32]
        try:
            canonical = crypto_core_ed25519_add(candidate, _IDENTITY)
        except RuntimeError:  # on no point of the curve: every second attempt
            continue
        point = _times_cofactor(candidate)
        if canonical == candidate and point != _IDENTITY:
            return point
    raise RuntimeError("256 attempts found no point of the curve")  # once in 2^256 inputs


def _challenge(*points: bytes) -> bytes:
    """Return the 16-byte challenge over five points (section 5.4.3)."""
    return sha512(_SUITE + b"\x02" + b"".join(points) + b"\x00").digest()[:_CHALLENGE_BYTES]


def _output(gamma: bytes) -> bytes:
    """Return the VRF output of a proof's point (section 5.2)."""
    return sha512(_SUITE + b"\x03" + _times_cofactor(gamma) + b"\x00").digest()
