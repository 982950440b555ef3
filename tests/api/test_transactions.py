"""Client-side transactions: exact sizes, real readings, and what a node makes of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.client.schedule import make_fixed_schedule, make_poisson_schedule
from microchain.client.sensors import SensorReader
from microchain.client.signing import SigningPlan, sign_ahead, sign_range
from microchain.client.transactions import (
    SizeError,
    compute_payload_size,
    encode_reading,
    make_transaction,
)
from microchain.consensus.genesis import node_id
from microchain.consensus.objects import TransactionBody, decode_transaction, encode_body, seal
from microchain.consensus.types import Digest, Height, TransactionKind
from microchain.crypto.signatures import SCHEMES, get_scheme

CHAIN = Digest(bytes(range(32)))


def make_plan(scheme: str = "ed25519", size: int = 1024) -> SigningPlan:
    return SigningPlan(CHAIN, scheme, get_scheme(scheme).generate().to_pem(), Height(1000), size)


def test_transaction_decodes_to_what_was_signed() -> None:
    key = get_scheme("ed25519").generate()
    signed = make_transaction(CHAIN, key, node_id(key.public_key), Height(7), b"payload")
    decoded = decode_transaction(signed.raw)
    assert decoded.id == signed.id
    assert decoded.body == TransactionBody(1, CHAIN, TransactionKind.DATA, node_id(key.public_key), 7, b"payload")
    assert get_scheme("ed25519").verify(key.public_key, signed.id, decoded.signature)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("size", [1024, 4096, 65_536, 131_072])
def test_signed_reading_has_exactly_the_size_asked_for(scheme: str, size: int) -> None:
    signed = sign_range(make_plan(scheme, size), 0, 3)
    assert [len(transaction.raw) for transaction in signed] == [size] * 3
    assert len({transaction.id for transaction in signed}) == 3
    assert all(decode_transaction(transaction.raw).id == transaction.id for transaction in signed)


@given(
    payload=st.integers(0, 70_000),
    valid_until=st.integers(0, 2**63 - 1),
    signature=st.sampled_from([64, 256]),
)
def test_payload_size_is_the_inverse_of_encoding(payload: int, valid_until: int, signature: int) -> None:
    body = TransactionBody(1, CHAIN, 0, bytes(32), valid_until, bytes(payload))
    size = len(seal(encode_body(body), bytes(signature)))
    found = compute_payload_size(size, Height(valid_until), signature)
    again = TransactionBody(1, CHAIN, 0, bytes(32), valid_until, bytes(found))
    assert len(seal(encode_body(again), bytes(signature))) == size


def test_sizes_that_do_not_exist_are_refused_with_a_way_out() -> None:
    for size in range(320, 70_000):
        try:
            compute_payload_size(size, Height(1000), 64)
        except SizeError as error:
            other = int(str(error).rpartition(" ")[2])
            assert compute_payload_size(other, Height(1000), 64) > 0
    with pytest.raises(SizeError, match="as small as 100"):
        compute_payload_size(100, Height(1000), 64)


def test_reading_is_json_of_this_host_and_says_what_it_lacks() -> None:
    reading = SensorReader().read()
    document = json.loads(encode_reading(reading, 5, 900))
    assert document["nonce"] == 5
    assert document["at"] > 1_600_000_000 * 10**9
    assert document["memory_total_bytes"] > document["memory_available_bytes"] > 0
    assert document["load1"] >= 0
    assert document["temperature_c"] is None or -40 < document["temperature_c"] < 150
    assert document["frequency_hz"] is None or document["frequency_hz"] > 1e6


def test_reading_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SizeError, match="the payload has only 10"):
        encode_reading({"at": 1}, 123_456_789, 10)


def test_sensors_are_read_at_most_once_in_the_given_time() -> None:
    lasting, fresh = SensorReader(max_age_s=3600), SensorReader(max_age_s=0)
    assert lasting.read() is lasting.read()
    assert fresh.read() is not fresh.read()


async def test_signing_ahead_in_processes_gives_distinct_valid_transactions() -> None:
    plan = make_plan()
    signed = await sign_ahead(plan, 600, first_nonce=10)
    nonces = [json.loads(decode_transaction(transaction.raw).body.payload)["nonce"] for transaction in signed]
    assert nonces == list(range(10, 610))
    key = get_scheme(plan.scheme).load(plan.pem)
    assert all(
        get_scheme(plan.scheme).verify(key.public_key, t.id, decode_transaction(t.raw).signature) for t in signed
    )
    assert await sign_ahead(plan, 0) == []


def test_fixed_schedule_is_even() -> None:
    assert make_fixed_schedule(100, 4) == [0, 10_000_000, 20_000_000, 30_000_000]
    assert make_fixed_schedule(3, 301)[-1] == 100 * 10**9


def test_poisson_schedule_follows_its_seed_and_rate() -> None:
    schedule = make_poisson_schedule(1000, 20_000, seed=4)
    assert schedule == make_poisson_schedule(1000, 20_000, seed=4)
    assert schedule != make_poisson_schedule(1000, 20_000, seed=5)
    assert schedule == sorted(schedule)
    assert schedule[-1] / 1e9 == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="must be more than 0"):
        make_fixed_schedule(rate, 3)
