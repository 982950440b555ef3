"""Publicly verifiable secret sharing: what is dealt comes back from any t shares, and nothing false passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from microchain.crypto import pvss
from microchain.crypto.group import IDENTITY, ORDER, GroupError, encode_scalar, multiply, multiply_base, sum_points
from microchain.crypto.pvss import (
    Deal,
    PvssError,
    PvssKey,
    Reveal,
    Statement,
    add_shares,
    check_deal,
    check_reveal,
    create_deal,
    create_reveal,
    recover_secret,
)
from msgspec.structs import replace

from tests.crypto import textbook_pvss as textbook

KEYS = [PvssKey(bytes([n]) * 32) for n in range(1, 10)]
H = textbook.decode(pvss._H)
SMALL_ORDER = [
    IDENTITY,
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes(32),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
]
NOT_CANONICAL = [
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    IDENTITY[:31] + b"\x80",
    b"\xff" * 32,
]
scalars = st.integers(1, ORDER - 1)


def statement(count: int = 5, threshold: int = 3, context: bytes = b"chain 1, dynasty 7, dealer 0") -> Statement:
    return Statement(context, tuple(key.public_key for key in KEYS[:count]), threshold)


@lru_cache
def honest(count: int = 5, threshold: int = 3, dealer: int = 0) -> Deal:
    return KEYS[dealer].deal(statement(count, threshold))


def negated(point: bytes) -> bytes:
    return multiply(ORDER - 1, point)


def swapped(items: tuple[bytes, ...], place: int, new: bytes) -> tuple[bytes, ...]:
    return (*items[:place], new, *items[place + 1 :])


def beyond(scalar: bytes) -> bytes:
    """The same number modulo the order, but not below it."""
    return (int.from_bytes(scalar, "little") + ORDER).to_bytes(32, "little")


# --- what is dealt comes back ---


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
def test_any_threshold_of_shares_recovers_the_secret_and_fewer_do_not(count: int) -> None:
    threshold = count // 2 + 1
    deal = honest(count, threshold)
    check_deal(statement(count, threshold), deal)
    reveals = [key.reveal(b"r", share) for key, share in zip(KEYS, deal.encrypted, strict=False)]
    shares = {number: reveal.share for number, reveal in enumerate(reveals, 1)}
    secrets = {recover_secret({n: shares[n] for n in chosen}, threshold) for chosen in combinations(shares, threshold)}
    assert len(secrets) == 1
    assert recover_secret(shares, threshold) in secrets
    with pytest.raises(PvssError, match=f"{threshold - 1} shares; the secret takes {threshold}"):
        recover_secret({n: shares[n] for n in range(1, threshold)}, threshold)


@settings(max_examples=20, deadline=None)
@given(st.lists(scalars, min_size=3, max_size=3), st.lists(scalars, min_size=4, max_size=4))
def test_recovered_secret_is_the_polynomials_value_at_zero(coefficients: list[int], nonces: list[int]) -> None:
    deal = create_deal(statement(4), coefficients, nonces)
    check_deal(statement(4), deal)
    shares = {n: KEYS[n - 1].reveal(b"", deal.encrypted[n - 1]).share for n in (1, 2, 4)}
    assert recover_secret(shares, 3) == multiply_base(coefficients[0])


def test_one_share_too_few_says_nothing_of_the_secret() -> None:
    """A lower threshold than the polynomial's gives another point for every choice of shares."""
    shares = {n: KEYS[n - 1].reveal(b"", honest().encrypted[n - 1]).share for n in range(1, 6)}
    guesses = {recover_secret({n: shares[n] for n in pair}, 2) for pair in combinations(shares, 2)}
    assert len(guesses) == 10
    assert recover_secret(shares, 3) not in guesses


def test_sum_of_deals_opens_to_the_sum_of_the_secrets() -> None:
    deals = [honest(5, 3, dealer) for dealer in range(3)]
    encrypted = add_shares(add_shares(deals[0].encrypted, deals[1].encrypted), deals[2].encrypted)

    def open_(shares: tuple[bytes, ...]) -> bytes:
        reveals = {n: key.reveal(b"r", share) for n, (key, share) in enumerate(zip(KEYS, shares, strict=False), 1)}
        for number, reveal in reveals.items():
            check_reveal(b"r", KEYS[number - 1].public_key, shares[number - 1], reveal)
        return recover_secret({n: reveals[n].share for n in (2, 3, 5)}, 3)

    assert open_(encrypted) == sum_points(open_(deal.encrypted) for deal in deals)


def test_same_key_and_statement_give_the_same_deal_and_any_other_statement_another_secret() -> None:
    assert KEYS[0].deal(statement()) == honest()
    others = [KEYS[0].deal(s) for s in (statement(context=b"dynasty 8"), statement(4), statement(threshold=2))]
    assert len({deal.commitments[0] for deal in (honest(), honest(5, 3, 1), *others)}) == 5


# --- compared with the textbook ---


@settings(max_examples=3, deadline=None)
@given(st.lists(scalars, min_size=2, max_size=2), st.lists(scalars, min_size=3, max_size=3))
def test_deal_is_the_textbooks_to_the_byte(coefficients: list[int], nonces: list[int]) -> None:
    chosen = statement(3, 2)
    deal = create_deal(chosen, coefficients, nonces)
    parts = textbook.deal(H, chosen.context, chosen.receivers, 2, coefficients, nonces)
    assert (list(deal.commitments), list(deal.encrypted), deal.challenge, list(deal.responses)) == parts
    assert textbook.is_deal(H, chosen.context, chosen.receivers, 2, parts)


@settings(max_examples=6, deadline=None)
@given(st.sampled_from(["commitments", "encrypted", "responses"]), st.integers(0, 3), scalars, st.booleans())
def test_both_judge_a_changed_deal_alike(field: str, place: int, scalar: int, change: bool) -> None:
    deal, chosen = honest(4, 3), statement(4, 3)
    if change:
        new = encode_scalar(scalar) if field == "responses" else multiply_base(scalar)
        deal = replace(deal, **{field: swapped(getattr(deal, field), place, new)})
    parts = (deal.commitments, deal.encrypted, deal.challenge, deal.responses)
    assert textbook.is_deal(H, chosen.context, chosen.receivers, 3, parts) is not change
    assert is_accepted(chosen, deal) is not change


def is_accepted(chosen: Statement, deal: Deal) -> bool:
    try:
        check_deal(chosen, deal)
    except PvssError:
        return False
    return True


def forged(values: list[int], threshold: int) -> Deal:
    """A deal of shares that are not those of one secret: the proofs hold, the degree is wrong."""
    chosen = statement(len(values), threshold)
    # A polynomial through all the values passes for a deal with threshold n, whose proof is made anew for this one.
    coefficients = _through(values)
    real = chosen.digest
    claimed = Statement(chosen.context, chosen.receivers, len(values))
    nonces = list(range(1, len(values) + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Statement, "digest", lambda self: real())
        return create_deal(claimed, coefficients, nonces)


def _through(values: list[int]) -> list[int]:
    """The coefficients of the polynomial with these values at 1, 2, … (by solving the linear equations)."""
    rows = [[pow(i, k, ORDER) for k in range(len(values))] + [v] for i, v in enumerate(values, 1)]
    for column in range(len(rows)):
        inverse = pow(rows[column][column], -1, ORDER)
        rows[column] = [cell * inverse % ORDER for cell in rows[column]]
        for other in range(len(rows)):
            if other != column:
                factor = rows[other][column]
                rows[other] = [(a - factor * b) % ORDER for a, b in zip(rows[other], rows[column], strict=True)]
    return [row[-1] for row in rows]


def test_shares_of_too_high_a_degree_are_refused_though_every_proof_holds() -> None:
    straight = forged([5, 7, 9, 11], 2)
    check_deal(statement(4, 2), straight)
    bent, squares = forged([5, 7, 9, 12], 2), forged([1, 4, 9, 16], 2)
    for deal in (bent, squares):
        with pytest.raises(PvssError, match="not those of a secret that 2 recover"):
            check_deal(statement(4, 2), deal)
    chosen = statement(4, 2)
    for deal, good in ((straight, True), (bent, False), (squares, False)):
        parts = (deal.commitments, deal.encrypted, deal.challenge, deal.responses)
        assert textbook.is_deal(H, chosen.context, chosen.receivers, 2, parts) is good


# --- what must be refused ---


@pytest.mark.parametrize("point", SMALL_ORDER + NOT_CANONICAL + [b"", bytes(31), bytes(33)])
@pytest.mark.parametrize("field", ["commitments", "encrypted"])
def test_points_that_are_none_of_the_group_are_refused(field: str, point: bytes) -> None:
    deal = honest()
    with pytest.raises(PvssError):
        check_deal(statement(), replace(deal, **{field: swapped(getattr(deal, field), 1, point)}))


def test_point_outside_the_prime_order_subgroup_is_refused() -> None:
    """The same point plus one of order 8 has the same multiples by the cofactor."""
    torsion = textbook.decode(SMALL_ORDER[3])
    mixed = textbook.encode(textbook.add(textbook.decode(honest().encrypted[0]), torsion))
    with pytest.raises(PvssError, match="prime-order subgroup"):
        check_deal(statement(), replace(honest(), encrypted=swapped(honest().encrypted, 0, mixed)))
    reveal = KEYS[0].reveal(b"r", honest().encrypted[0])
    with pytest.raises(PvssError, match="prime-order subgroup"):
        check_reveal(b"r", KEYS[0].public_key, mixed, reveal)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: replace(d, challenge=beyond(d.challenge)),
        lambda d: replace(d, responses=swapped(d.responses, 0, beyond(d.responses[0]))),
        lambda d: replace(d, responses=swapped(d.responses, 0, ORDER.to_bytes(32, "little"))),
        lambda d: replace(d, responses=swapped(d.responses, 0, b"\xff" * 32)),
        lambda d: replace(d, responses=swapped(d.responses, 0, bytes(32))),
        lambda d: replace(d, responses=swapped(d.responses, 0, b"")),
        lambda d: replace(d, challenge=bytes(32)),
        lambda d: replace(d, challenge=b"\xff" * 32),
    ],
)
def test_scalars_out_of_range_are_refused(change: Callable[[Deal], Deal]) -> None:
    with pytest.raises(PvssError):
        check_deal(statement(), change(honest()))


@pytest.mark.parametrize("field", ["commitments", "encrypted", "responses"])
@pytest.mark.parametrize("change", [lambda items: items[:-1], lambda items: (*items, items[0]), lambda _: ()])
def test_wrong_counts_are_refused(field: str, change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> None:
    with pytest.raises(PvssError, match="a deal to 5 receivers has 5"):
        check_deal(statement(), replace(honest(), **{field: change(getattr(honest(), field))}))


@pytest.mark.parametrize(
    "chosen",
    [
        statement(context=b"chain 1, dynasty 8, dealer 0"),
        statement(context=b"chain 1, dynasty 7, dealer 1"),
        statement(threshold=2),
        statement(threshold=4),
        replace(statement(), receivers=(*statement().receivers[:4], KEYS[5].public_key)),
        replace(statement(), receivers=statement().receivers[::-1]),
    ],
)
def test_deal_copied_to_another_dynasty_dealer_threshold_or_committee_is_refused(chosen: Statement) -> None:
    with pytest.raises(PvssError, match="does not hold"):
        check_deal(chosen, honest())


def test_inverted_deal_that_would_cancel_anothers_is_refused() -> None:
    deal = honest()
    inverted = replace(
        deal,
        commitments=tuple(map(negated, deal.commitments)),
        encrypted=tuple(map(negated, deal.encrypted)),
        responses=tuple(encode_scalar(-int.from_bytes(r, "little")) for r in deal.responses),
    )
    with pytest.raises(PvssError, match="does not hold"):
        check_deal(statement(context=b"chain 1, dynasty 7, dealer 1"), inverted)
    with pytest.raises(PvssError, match="does not hold"):
        check_deal(statement(), inverted)


@pytest.mark.parametrize("key", SMALL_ORDER + NOT_CANONICAL + [b"", bytes(31)])
def test_statement_with_a_key_that_is_none_is_refused(key: bytes) -> None:
    chosen = replace(statement(), receivers=(*statement().receivers[:4], key))
    with pytest.raises(PvssError, match="receiver 5 has no valid PVSS key"):
        check_deal(chosen, honest())
    with pytest.raises(PvssError, match="receiver 5 has no valid PVSS key"):
        KEYS[0].deal(chosen)


@pytest.mark.parametrize("threshold", [0, -1, 6])
def test_impossible_threshold_is_refused(threshold: int) -> None:
    with pytest.raises(PvssError, match="cannot be what recovers"):
        KEYS[0].deal(statement(threshold=threshold))


def test_wrong_numbers_of_coefficients_and_nonces_and_a_share_of_zero_are_refused() -> None:
    with pytest.raises(PvssError, match="3 coefficients and 5 nonces"):
        create_deal(statement(), [1, 2], [1, 2, 3, 4, 5])
    with pytest.raises(PvssError, match="3 coefficients and 5 nonces"):
        create_deal(statement(), [1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(PvssError, match="is 0: choose others"):
        create_deal(statement(), [ORDER - 2, 1, 1], [1, 2, 3, 4, 5])  # p(1) = 0
    with pytest.raises(PvssError, match="is 0: choose others"):
        create_deal(statement(), [1, 2, 3], [1, 2, 0, 4, 5])


# --- reveals ---

ENCRYPTED = honest().encrypted[0]
REVEAL = KEYS[0].reveal(b"dynasty 7", ENCRYPTED)


@pytest.mark.parametrize(
    ("context", "key", "encrypted", "reveal"),
    [
        (b"dynasty 8", KEYS[0].public_key, ENCRYPTED, REVEAL),
        (b"dynasty 7", KEYS[1].public_key, ENCRYPTED, REVEAL),
        (b"dynasty 7", KEYS[0].public_key, honest().encrypted[1], REVEAL),
        (b"dynasty 7", KEYS[0].public_key, ENCRYPTED, replace(REVEAL, share=negated(REVEAL.share))),
        (b"dynasty 7", KEYS[0].public_key, ENCRYPTED, replace(REVEAL, share=IDENTITY)),
        (b"dynasty 7", KEYS[0].public_key, ENCRYPTED, replace(REVEAL, share=NOT_CANONICAL[0])),
        (b"dynasty 7", KEYS[0].public_key, ENCRYPTED, replace(REVEAL, share=b"")),
        (b"dynasty 7", KEYS[0].public_key, ENCRYPTED, replace(REVEAL, challenge=bytes(32))),
        (b"dynasty 7", KEYS[0].public_key, ENCRYPTED, replace(REVEAL, response=ORDER.to_bytes(32, "little"))),
        (b"dynasty 7", KEYS[0].public_key, ENCRYPTED, replace(REVEAL, response=beyond(REVEAL.response))),
        (b"dynasty 7", KEYS[0].public_key, ENCRYPTED, replace(REVEAL, challenge=beyond(REVEAL.challenge))),
        (b"dynasty 7", IDENTITY, ENCRYPTED, REVEAL),
        (b"dynasty 7", KEYS[0].public_key, IDENTITY, REVEAL),
    ],
)
def test_false_reveals_are_refused(context: bytes, key: bytes, encrypted: bytes, reveal: Reveal) -> None:
    check_reveal(b"dynasty 7", KEYS[0].public_key, ENCRYPTED, REVEAL)
    with pytest.raises(PvssError):
        check_reveal(context, key, encrypted, reveal)


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.sampled_from(["share", "challenge", "response"]))
def test_random_bytes_in_a_reveal_raise_only_the_typed_error(data: bytes, field: str) -> None:
    with pytest.raises(PvssError):
        check_reveal(b"dynasty 7", KEYS[0].public_key, ENCRYPTED, replace(REVEAL, **{field: data}))


def test_nothing_is_decrypted_from_what_is_no_share() -> None:
    for point in SMALL_ORDER + NOT_CANONICAL:
        with pytest.raises(PvssError, match="encrypted share"):
            create_reveal(b"", 5, point, 7)
        with pytest.raises(PvssError, match="share"):
            recover_secret({1: point}, 1)


def test_shares_that_are_no_points_are_not_added() -> None:
    for bad in (b"\x02" + bytes(31), b"", bytes(31)):
        with pytest.raises(PvssError, match="no point"):
            add_shares((ENCRYPTED,), (bad,))
    with pytest.raises(PvssError):
        add_shares((ENCRYPTED,), ())


# --- the group ---


@settings(max_examples=10, deadline=None)
@given(scalars, scalars)
def test_group_is_the_textbooks(one: int, other: int) -> None:
    first, second = multiply_base(one), multiply_base(other)
    assert textbook.times(one, textbook.B) == textbook.decode(first)
    assert textbook.encode(textbook.add(textbook.decode(first), textbook.decode(second))) == sum_points((first, second))
    assert multiply(other, first) == multiply(one, second) == multiply_base(one * other)


def test_second_generator_is_of_the_group_and_not_the_base() -> None:
    assert textbook.times(textbook.L, H) == textbook.ZERO
    assert H not in (textbook.B, textbook.ZERO)


def test_products_with_zero_are_refused() -> None:
    for multiply_by in (multiply_base, lambda scalar: multiply(scalar, pvss._H)):
        with pytest.raises(GroupError):
            multiply_by(ORDER)


def test_key_of_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        PvssKey(bytes(31))
