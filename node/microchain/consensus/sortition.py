"""Who is drawn for a committee, by the units of its credit (protocol, section 7; Algorand's cryptographic sortition).

Of all W units of credit τ = ``expected_members`` are expected to be drawn, each with the probability p = min(1, τ/W).
How many of a validator's w units are drawn is where its random number falls among the sums of the binomial
distribution, compared in integers alone, so that all nodes agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha512
from math import gcd

from microchain.consensus.types import Digest, Dynasty
from microchain.crypto.hashing import tag_prefix, tagged_hash

__all__ = ["claim_alpha", "compute_units", "compute_unsafe_probability", "draw_publicly", "is_sufficient"]

OUTPUT_BITS = 512
BYZANTINE_PERCENT = 20
_STEPS = 4096
_POINT = 64
"""Binary digits after the point of the probabilities below: fixed-point, so that all nodes compute the same."""


def claim_alpha(beacon: bytes, dynasty: Dynasty, attempt: int) -> Digest:
    """Return what a validator proves its VRF on to claim a seat in ``dynasty``."""
    return tagged_hash("microchain/claim", beacon, dynasty.to_bytes(8, "big"), attempt.to_bytes(8, "big"))


def compute_units(output: bytes, credit: int, total: int, expected: int) -> int:
    """Return how many of ``credit`` units, out of ``total``, the 64-byte VRF output draws.

    It is the smallest j with output / 2^512 < P(X ≤ j), X binomial: ``credit`` trials of probability expected/total.
    """
    if expected >= total:
        return credit
    number, missed = int.from_bytes(output, "big") * total**credit, total - expected
    term = missed**credit
    bound, units = term << OUTPUT_BITS, 0
    while number >= bound:
        # C(w, j) · τ^j · (W - τ)^(w - j) from the term before it; the division leaves no remainder.
        units += 1
        term = term * ((credit - units + 1) * expected) // (units * missed)
        bound += term << OUTPUT_BITS
    return units


def is_sufficient(units: Sequence[int], expected: int, minimum: int) -> bool:
    """Whether members drawn with so many units each are a committee: enough of them, with two thirds of τ."""
    return len(units) >= minimum and 3 * sum(units) >= 2 * expected


def draw_publicly(seed: bytes, credits: Sequence[tuple[bytes, int]], expected: int, minimum: int) -> tuple[bytes, ...]:
    """Draw the first committee from (id, credit) pairs: before the first block nobody can claim, so all is public.

    It draws again until the draw is sufficient, and takes all if a hundred were not.
    """
    total = sum(credit for _, credit in credits)
    expected = min(expected, total)
    start = tag_prefix("microchain/first-draw") + seed
    for attempt in range(100):
        drawn = {}
        for id, credit in credits:
            output = sha512(start + attempt.to_bytes(8, "big") + id).digest()
            units = compute_units(output, credit, total, expected)
            if units:
                drawn[id] = units
        if is_sufficient(list(drawn.values()), expected, minimum):
            return tuple(drawn)
    return tuple(id for id, _ in credits)


def compute_unsafe_probability(members: Iterable[tuple[int, int]], expected: int) -> float:
    """Return the probability that a drawn committee has a third or more Byzantine weight, rounded up.

    ``members`` are (credit, weight) of all who can be drawn. A fifth of them, those with most credit, are taken to be
    Byzantine.
    """
    ordered = sorted(members, reverse=True)
    total = sum(credit for credit, _ in ordered)
    bad = len(ordered) * BYZANTINE_PERCENT // 100
    unit = gcd(*(weight for _, weight in ordered))
    if sum(weight for _, weight in ordered) // unit > _STEPS:
        unit = -(-sum(weight for _, weight in ordered) // _STEPS)
    chances = [(_chance(credit, total, expected), weight) for credit, weight in ordered]
    byzantine = _distribute([(chance, -(-weight // unit)) for chance, weight in chances[:bad]])
    honest = _distribute([(chance, weight // unit) for chance, weight in chances[bad:]])
    unsafe = 0
    for weight, probability in enumerate(byzantine):
        if weight:
            unsafe += probability * sum(honest[: 2 * weight + 1])
    return unsafe / (1 << 2 * _POINT)


def _chance(credit: int, total: int, expected: int) -> int:
    """Return the probability that at least one of the units is drawn."""
    if expected >= total:
        return 1 << _POINT
    everything: int = total**credit
    missed: int = (total - expected) ** credit
    return ((everything - missed) << _POINT) // everything


def _distribute(weighted: Sequence[tuple[int, int]]) -> list[int]:
    """Return the probability of each sum of the weights drawn, each drawn with its own chance."""
    sums = [1 << _POINT]
    for chance, weight in weighted:
        missed = (1 << _POINT) - chance
        grown = [probability * missed for probability in sums] + [0] * weight
        for place, probability in enumerate(sums):
            grown[place + weight] += probability * chance
        sums = [probability >> _POINT for probability in grown]
    return sums
