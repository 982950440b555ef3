"""Publicly verifiable secret sharing over edwards25519: SCRAPE (Cascudo and David, 2017) with Schoenmakers' shares.

A dealer with the polynomial p of degree t-1 commits to its values p(i)·H and encrypts them to the n receivers as
p(i)·Y_i, where Y_i = x_i·B is receiver i's key (i from 1). One proof shows for each i that both hide one p(i), the
dual-code test that all lie on a polynomial of degree below t. Decrypted shares are p(i)·B, and any t of them give the
secret p(0)·B. All of it is linear: deals add up, share by share, to a deal of the sum of the secrets, so that one
decrypted share and one proof of each receiver open all deals together.

Nothing here draws randomness: polynomial and nonces come from the caller, or are derived from a PvssKey's secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated

from msgspec import Meta, Struct

from microchain.crypto.group import (
    IDENTITY,
    ORDER,
    GroupError,
    decode_scalar,
    encode_scalar,
    hash_to_point,
    hash_to_scalar,
    multiply,
    multiply_base,
    sum_points,
)
from microchain.crypto.hashing import Digest, tagged_hash
from microchain.crypto.vrf import is_valid_key

__all__ = [
    "Deal",
    "PvssError",
    "PvssKey",
    "Reveal",
    "Statement",
    "add_shares",
    "check_deal",
    "check_reveal",
    "create_deal",
    "create_reveal",
    "derive_public_key",
    "recover_secret",
]

Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
_H = hash_to_point("microchain/pvss-generator")


class PvssError(ValueError):
    """A deal, a reveal or a set of shares that is not what it should be; the message says which."""


class Statement(Struct, frozen=True):
    """What every proof is bound to.

    ``context`` is the hash of chain, dynasty and dealer; ``receivers`` are the keys in order; ``threshold`` shares
    recover the secret.
    """

    context: bytes
    receivers: tuple[bytes, ...]
    threshold: int

    def digest(self) -> Digest:
        """Return the hash of all three; PvssError if a receiver's key is no key, or the threshold impossible."""
        if not 1 <= self.threshold <= len(self.receivers):
            raise PvssError(f"{self.threshold} shares of {len(self.receivers)} cannot be what recovers the secret")
        for number, key in enumerate(self.receivers, 1):
            if not is_valid_key(key):
                raise PvssError(f"receiver {number} has no valid PVSS key")
        sizes = self.threshold.to_bytes(4, "big") + len(self.receivers).to_bytes(4, "big")
        return tagged_hash("microchain/pvss-statement", tagged_hash("context", self.context), sizes, *self.receivers)


class Deal(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A dealer's commitments and encrypted shares, one for each receiver, and the proof that they belong together."""

    commitments: tuple[Bytes32, ...]
    encrypted: tuple[Bytes32, ...]
    challenge: Bytes32
    responses: tuple[Bytes32, ...]


class Reveal(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A decrypted share, and the proof that it is what was encrypted."""

    share: Bytes32
    challenge: Bytes32
    response: Bytes32


class PvssKey:
    """A private key that shares are decrypted with; ``seed`` is 32 random bytes, ValueError if it has another length.

    Deals and reveals are functions of the key and their statement: after a crash the same deal comes out again, and no
    nonce ever serves two statements.
    """

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError(f"a PVSS key has 32 bytes, not {len(seed)}")
        self._scalar = hash_to_scalar("microchain/pvss-key", seed)
        self._secret = tagged_hash("microchain/pvss-secret", seed)
        self.public_key: bytes = multiply_base(self._scalar)

    def deal(self, statement: Statement) -> Deal:
        """Share a secret that is derived from this key and the statement."""
        base = self._secret + statement.digest()
        coefficients = self._derive("microchain/pvss-polynomial", base, statement.threshold)
        return create_deal(
            statement, coefficients, self._derive("microchain/pvss-nonce", base, len(statement.receivers))
        )

    def reveal(self, context: bytes, encrypted: bytes) -> Reveal:
        """Decrypt a share, or a sum of shares, that was encrypted to this key."""
        nonce = hash_to_scalar("microchain/pvss-reveal-nonce", self._secret, encrypted, context)
        return create_reveal(context, self._scalar, encrypted, nonce)

    @staticmethod
    def _derive(tag: str, base: bytes, count: int) -> list[int]:
        return [hash_to_scalar(tag, base, number.to_bytes(4, "big")) for number in range(count)]


def derive_public_key(seed: bytes) -> bytes:
    """Return the public key x·B (32 bytes) of a 32-byte seed, x the seed's tagged SHA-512 modulo the group order."""
    return PvssKey(seed).public_key


def create_deal(statement: Statement, coefficients: Sequence[int], nonces: Sequence[int]) -> Deal:
    """Share p(0)·B with p given by its ``threshold`` coefficients, lowest first; one nonce for each receiver.

    A nonce that served another statement gives the share away. PvssError for wrong counts and for a share that is 0.
    """
    count = len(statement.receivers)
    if len(coefficients) != statement.threshold or len(nonces) != count:
        raise PvssError(f"a deal to {count} receivers takes {statement.threshold} coefficients and {count} nonces")
    digest = statement.digest()
    try:
        values = [_evaluate(coefficients, number) for number in range(1, count + 1)]
        commitments = tuple(multiply(value, _H) for value in values)
        encrypted = tuple(multiply(v, key) for v, key in zip(values, statement.receivers, strict=True))
        first = [multiply(nonce, _H) for nonce in nonces]
        second = [multiply(nonce, key) for nonce, key in zip(nonces, statement.receivers, strict=True)]
    except GroupError:
        raise PvssError("a share or a nonce is 0: choose others") from None
    challenge = _challenge("microchain/pvss-deal", digest, *commitments, *encrypted, *first, *second)
    responses = tuple(encode_scalar(w - challenge * value) for w, value in zip(nonces, values, strict=True))
    return Deal(commitments, encrypted, encode_scalar(challenge), responses)


def check_deal(statement: Statement, deal: Deal) -> None:
    """Raise PvssError unless the deal shares one secret among exactly these receivers, for exactly this context."""
    count, digest = len(statement.receivers), statement.digest()
    if not count == len(deal.commitments) == len(deal.encrypted) == len(deal.responses):
        raise PvssError(f"a deal to {count} receivers has {count} commitments, encrypted shares and responses")
    try:
        challenge = decode_scalar(deal.challenge)
        responses = [decode_scalar(response) for response in deal.responses]
        first = [_commit(r, _H, challenge, v) for r, v in zip(responses, deal.commitments, strict=True)]
        second = [
            _commit(r, key, challenge, share)
            for r, key, share in zip(responses, statement.receivers, deal.encrypted, strict=True)
        ]
    except GroupError as error:
        raise PvssError(f"deal: {error}") from None
    if challenge != _challenge("microchain/pvss-deal", digest, *deal.commitments, *deal.encrypted, *first, *second):
        raise PvssError("the deal's proof does not hold for these shares, receivers, dealer and dynasty")
    if not _is_of_degree(deal.commitments, statement.threshold, digest + deal.challenge):
        raise PvssError(f"the deal's shares are not those of a secret that {statement.threshold} recover")


def create_reveal(context: bytes, scalar: int, encrypted: bytes, nonce: int) -> Reveal:
    """Decrypt a share with the private scalar; PvssError if there is nothing to decrypt."""
    try:
        share = multiply(pow(scalar, -1, ORDER), encrypted)
        key, first, second = multiply_base(scalar), multiply_base(nonce), multiply(nonce, share)
    except GroupError as error:
        raise PvssError(f"encrypted share: {error}") from None
    challenge = _challenge(
        "microchain/pvss-reveal", tagged_hash("context", context), key, encrypted, share, first, second
    )
    return Reveal(share, encode_scalar(challenge), encode_scalar(nonce - challenge * scalar))


def check_reveal(context: bytes, key: bytes, encrypted: bytes, reveal: Reveal) -> None:
    """Raise PvssError unless ``reveal`` is what ``key`` decrypts ``encrypted`` to, for exactly this context."""
    try:
        challenge, response = decode_scalar(reveal.challenge), decode_scalar(reveal.response)
        first = sum_points((multiply_base(response), multiply(challenge, key)))
        second = _commit(response, reveal.share, challenge, encrypted)
    except GroupError as error:
        raise PvssError(f"reveal: {error}") from None
    if challenge != _challenge(
        "microchain/pvss-reveal", tagged_hash("context", context), key, encrypted, reveal.share, first, second
    ):
        raise PvssError("the revealed share is not the one that was encrypted to this key")


def recover_secret(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return p(0)·B from decrypted shares by the receivers' number (from 1); any ``threshold`` of them give the same.

    PvssError if there are fewer.
    """
    if len(shares) < threshold:
        raise PvssError(f"{len(shares)} shares; the secret takes {threshold}")
    numbers = sorted(shares)[:threshold]
    try:
        return sum_points(multiply(_lagrange(number, numbers), shares[number]) for number in numbers)
    except GroupError as error:
        raise PvssError(f"share: {error}") from None


@lru_cache(maxsize=256)
def add_shares(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Add encrypted shares, receiver by receiver; what results is encrypted to the same keys.

    Deals may be added before they are checked: PvssError where a share is no point at all.
    """
    try:
        return tuple(sum_points(pair) for pair in zip(one, other, strict=True))
    except (RuntimeError, ValueError, TypeError):
        raise PvssError("an encrypted share is no point of edwards25519") from None


def _evaluate(coefficients: Sequence[int], at: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * at + coefficient) % ORDER
    return value


def _commit(response: int, base: bytes, challenge: int, point: bytes) -> bytes:
    return sum_points((multiply(response, base), multiply(challenge, point)))


def _challenge(tag: str, *parts: bytes) -> int:
    return hash_to_scalar(tag, len(parts).to_bytes(4, "big"), *parts)


def _lagrange(number: int, numbers: Sequence[int]) -> int:
    """Return the factor of share ``number`` in p(0)."""
    above, below = 1, 1
    for other in numbers:
        if other != number:
            above, below = above * other % ORDER, below * (other - number) % ORDER
    return above * pow(below, -1, ORDER) % ORDER


@lru_cache(maxsize=64)
def _dual_factors(count: int) -> tuple[int, ...]:
    """Return 1 / ∏ (i - j) over j ≠ i, for i from 1 to ``count``."""
    factors = []
    for i in range(1, count + 1):
        product = 1
        for j in range(1, count + 1):
            product = product * (i - j) % ORDER if j != i else product
        factors.append(pow(product, -1, ORDER))
    return tuple(factors)


def _is_of_degree(commitments: Sequence[bytes], threshold: int, transcript: bytes) -> bool:
    """Whether the committed values lie on one polynomial of degree below ``threshold`` (SCRAPE, section 2.1).

    They do iff they are orthogonal to the whole dual code; a word of it that the transcript chooses misses a wrong one
    with probability 1/ORDER.
    """
    free = len(commitments) - threshold
    word = [hash_to_scalar("microchain/pvss-dual", transcript, number.to_bytes(4, "big")) for number in range(free)]
    factors = _dual_factors(len(commitments))
    terms = [factor * _evaluate(word, i) % ORDER for i, factor in enumerate(factors, 1)]
    return sum_points(multiply(c, point) for c, point in zip(terms, commitments, strict=True) if c) == IDENTITY
