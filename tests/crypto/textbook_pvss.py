"""PVSS as the textbook has it, slowly: affine points as pairs of integers, and every share checked on its own.

It shares with the real one only how a transcript is hashed, written out again here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256, sha512

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

Point = tuple[int, int]
ZERO: Point = (0, 1)


def add(one: Point, other: Point) -> Point:
    """The complete addition law of a twisted Edwards curve with a = -1."""
    (x1, y1), (x2, y2) = one, other
    product = D * x1 * x2 * y1 * y2 % P
    inverse = pow(1 - product * product, -1, P)
    x = (x1 * y2 + x2 * y1) * (1 - product) * inverse % P
    y = (y1 * y2 + x1 * x2) * (1 + product) * inverse % P
    return x, y


def times(scalar: int, point: Point) -> Point:
    total = ZERO
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point, scalar = add(point, point), scalar >> 1
    return total


def encode(point: Point) -> bytes:
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decode(data: bytes) -> Point:
    number = int.from_bytes(data, "little")
    y, sign = number & (2**255 - 1), number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or x * x % P != square:
        raise ValueError("no point")
    return (P - x if x & 1 != sign else x), y


B = decode((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def tagged(tag: str, *parts: bytes) -> bytes:
    prefix = sha256(tag.encode()).digest() * 2
    return sha256(prefix + b"".join(parts)).digest()


def scalar_hash(tag: str, *parts: bytes) -> int:
    prefix = sha256(tag.encode()).digest() * 2
    return int.from_bytes(sha512(prefix + b"".join(parts)).digest(), "little") % L


def four(number: int) -> bytes:
    return number.to_bytes(4, "big")


def evaluate(coefficients: Sequence[int], at: int) -> int:
    total = 0
    for power, coefficient in enumerate(coefficients):
        total += coefficient * pow(at, power, L)
    return total % L


def statement_digest(context: bytes, keys: Sequence[bytes], threshold: int) -> bytes:
    return tagged(
        "microchain/pvss-statement", tagged("context", context), four(threshold), four(len(keys)), b"".join(keys)
    )


def challenge_of(digest: bytes, *lists: Sequence[Point]) -> int:
    points = [encode(point) for points in lists for point in points]
    return scalar_hash("microchain/pvss-deal", four(1 + len(points)), digest, *points)


def deal(
    h: Point, context: bytes, keys: Sequence[bytes], threshold: int, coefficients: Sequence[int], nonces: Sequence[int]
) -> tuple[list[bytes], list[bytes], bytes, list[bytes]]:
    """Return (commitments, encrypted shares, challenge, responses)."""
    points = [decode(key) for key in keys]
    values = [evaluate(coefficients, number) for number in range(1, len(keys) + 1)]
    commitments = [times(value, h) for value in values]
    encrypted = [times(value, point) for value, point in zip(values, points, strict=True)]
    first = [times(nonce, h) for nonce in nonces]
    second = [times(nonce, point) for nonce, point in zip(nonces, points, strict=True)]
    challenge = challenge_of(statement_digest(context, keys, threshold), commitments, encrypted, first, second)
    responses = [(nonce - challenge * value) % L for nonce, value in zip(nonces, values, strict=True)]
    return (
        [encode(c) for c in commitments],
        [encode(e) for e in encrypted],
        challenge.to_bytes(32, "little"),
        [r.to_bytes(32, "little") for r in responses],
    )


def is_deal(
    h: Point,
    context: bytes,
    keys: Sequence[bytes],
    threshold: int,
    parts: tuple[Sequence[bytes], Sequence[bytes], bytes, Sequence[bytes]],
) -> bool:
    """Check the proof, and the degree by interpolating every further commitment from the first ``threshold``."""
    try:
        commitments = [decode(point) for point in parts[0]]
        encrypted = [decode(point) for point in parts[1]]
    except ValueError:
        return False
    if any(times(L, point) != ZERO or point == ZERO for point in (*commitments, *encrypted)):
        return False
    challenge, responses = int.from_bytes(parts[2], "little"), [int.from_bytes(r, "little") for r in parts[3]]
    if challenge >= L or any(response >= L for response in responses):
        return False
    first = [add(times(r, h), times(challenge, v)) for r, v in zip(responses, commitments, strict=True)]
    second = [
        add(times(r, decode(key)), times(challenge, share))
        for r, key, share in zip(responses, keys, encrypted, strict=True)
    ]
    if challenge != challenge_of(statement_digest(context, keys, threshold), commitments, encrypted, first, second):
        return False
    return all(
        interpolate(commitments[:threshold], at) == commitments[at - 1] for at in range(threshold + 1, len(keys) + 1)
    )


def interpolate(points: Sequence[Point], at: int) -> Point:
    """The value at ``at`` of the polynomial, in the exponent, whose values at 1, 2, … are given."""
    total = ZERO
    for i, point in enumerate(points, 1):
        factor = 1
        for j in range(1, len(points) + 1):
            if j != i:
                factor = factor * (at - j) * pow(i - j, -1, L) % L
        total = add(total, times(factor, point))
    return total
