"""Genesis documents: what a chain id covers, and documents that no chain can start from."""

from __future__ import annotations

import json
from itertools import combinations_with_replacement
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.consensus.genesis import (
    Genesis,
    GenesisError,
    Parameters,
    RegistryEntry,
    Sortition,
    compute_weights,
    decode_genesis,
    encode_genesis,
)

GENESIS = Genesis(
    run_id="0123456789abcdef" * 2,
    parameters=Parameters(),
    registry=tuple(
        RegistryEntry(
            name=f"validator-{n}",
            role="validator",
            signing_key=bytes([n]) * 32,
            vrf_key=bytes([n]) * 32,
            tls_key=bytes([n]) * 32,
            address=f"10.0.0.{n}:9101",
        )
        for n in range(1, 5)
    ),
)
ENCODED = encode_genesis(GENESIS)


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(ENCODED)
    return loaded


def encode(changed: dict[str, Any]) -> bytes:
    return json.dumps(changed).encode()


def test_document_comes_back_and_its_formatting_does_not_matter() -> None:
    assert decode_genesis(ENCODED) == GENESIS
    compact = encode(dict(reversed(document().items())))
    assert compact != ENCODED
    assert decode_genesis(compact).chain_id() == GENESIS.chain_id()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("", "run_id", "f" * 32),
        ("parameters", "epoch_blocks", 2),
        ("parameters", "relay", "full"),
        ("registry", "credit", 99),
        ("registry", "address", "10.0.0.9:9101"),
        ("registry", "signing_key", "AAAA"),
    ],
)
def test_chain_id_covers_everything(section: str, key: str, value: object) -> None:
    changed = document()
    part = changed["registry"][0] if section == "registry" else changed[section] if section else changed
    part[key] = value
    assert decode_genesis(encode(changed)).chain_id() != GENESIS.chain_id()


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("", "version", 2, "version"),
        ("", "run_id", "F" * 32, "run_id"),
        ("", "run_id", "f" * 32 + "\n", "run_id"),
        ("", "surprise", 1, "unknown field `surprise`"),
        ("", "registry", [], "lists no validator"),
        ("parameters", "epoch_blocks", 0, "epoch_blocks"),
        ("parameters", "epoch_block", 1, "unknown field `epoch_block`"),
        ("parameters", "max_pool_bytes", 2**70, "max_pool_bytes"),
        ("parameters", "dynasty_epochs", 10**40, "dynasty_epochs"),
        ("parameters", "stall_epochs", 2**64, "stall_epochs"),
        ("parameters", "signature", "dsa", "signature"),
        ("parameters", "max_block_bytes", 1024, "max_tx_bytes 262144 is more than max_block_bytes 1024"),
        ("registry", "name", "Validator 1", "name"),
        ("registry", "name", "validator-1\n", "name"),
        ("registry", "name", "validator-2", "name validator-2 appears twice"),
        ("registry", "role", "king", "role"),
        ("registry", "credit", -1, "credit"),
        ("registry", "signing_key", "*", "signing_key"),
        ("registry", "signing_key", document()["registry"][1]["signing_key"], "signing key 0202"),
        ("registry", "tls_key", document()["registry"][1]["tls_key"], "TLS key 0202"),
        ("registry", "vrf_key", document()["registry"][1]["vrf_key"], "VRF key 0202"),
        ("registry", "address", "10.0.0.2:9101", "address 10.0.0.2:9101 appears twice"),
    ],
)
def test_corrupt_document_is_a_clear_error(section: str, key: str, value: object, message: str) -> None:
    changed = document()
    part = changed["registry"][0] if section == "registry" else changed[section] if section else changed
    part[key] = value
    with pytest.raises(GenesisError) as caught:
        decode_genesis(encode(changed))
    assert message in str(caught.value)


def test_two_validators_with_one_pvss_key_are_refused() -> None:
    changed = document()
    for entry in changed["registry"][:2]:
        entry["pvss_key"] = "AAAA"
    with pytest.raises(GenesisError, match="PVSS key 000000 appears twice"):
        decode_genesis(encode(changed))


def test_registry_of_devices_only_is_refused() -> None:
    changed = document()
    for entry in changed["registry"]:
        entry["role"] = "device"
    with pytest.raises(GenesisError, match="lists no validator"):
        decode_genesis(encode(changed))


def sortition(validators: int, **parameters: Any) -> bytes:
    """A document with so many validators of credit 100 and a drawn committee."""
    registry = tuple(
        RegistryEntry(name=f"v{n}", role="validator", signing_key=bytes([n]) * 32) for n in range(validators)
    )
    return encode_genesis(Genesis(run_id="0" * 32, parameters=Parameters(**parameters), registry=registry))


def test_small_drawn_committee_is_refused_with_its_probability_unless_the_experiment_wants_it() -> None:
    with pytest.raises(GenesisError, match=r"16 of 16 validators .* probability 0\.048 .* `unsafe_committee: true`"):
        decode_genesis(sortition(16, committee=Sortition(expected_members=16)))
    decode_genesis(sortition(16, committee=Sortition(expected_members=16), unsafe_committee=True))
    decode_genesis(sortition(100, committee=Sortition(expected_members=64)))


def test_drawn_committee_of_too_few_validators_is_refused() -> None:
    with pytest.raises(GenesisError, match=r"3 validators have the credit .* at least 4"):
        decode_genesis(sortition(3, committee=Sortition(expected_members=16), unsafe_committee=True))
    with pytest.raises(GenesisError, match="0 validators have the credit"):
        decode_genesis(sortition(16, committee=Sortition(expected_members=16), minimum_credit=101))


def test_one_crash_never_costs_finality_for_any_median_and_committee_of_four_to_seven() -> None:
    """The worst committee of each median: one member as heavy as the clamp allows, the others as light as it allows."""
    for count in range(4, 8):
        for median in range(1001):
            below = (count - 1) // 2
            credits = [0] * below + [median] * (count - below - 1) + [1000]
            weights = compute_weights(credits)
            assert 3 * (sum(weights) - max(weights)) > 2 * sum(weights), (count, median)


@pytest.mark.parametrize(("count", "highest"), [(4, 24), (5, 16), (6, 11), (7, 9)])
def test_one_crash_never_costs_finality_for_any_credits(count: int, highest: int) -> None:
    for credits in combinations_with_replacement([*range(highest + 1), 100, 1000], count):
        weights = compute_weights(list(credits))
        assert 3 * (sum(weights) - max(weights)) > 2 * sum(weights), credits


@given(st.integers(0, len(ENCODED) - 1), st.integers(1, 255))
def test_changed_byte_is_refused_or_another_chain_or_only_formatting(place: int, mask: int) -> None:
    changed = ENCODED[:place] + bytes([ENCODED[place] ^ mask]) + ENCODED[place + 1 :]
    try:
        genesis = decode_genesis(changed)
    except GenesisError:
        return
    assert (genesis == GENESIS) == (genesis.chain_id() == GENESIS.chain_id())


@given(st.binary(max_size=200))
def test_random_bytes_raise_only_the_typed_error(data: bytes) -> None:
    for attempt in (data, b'{"run_id": "' + data + b'"}', ENCODED[: len(data)], b"[" * 10_000, b'{"a":' * 10_000):
        with pytest.raises(GenesisError):
            decode_genesis(attempt)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_every_weight_lies_within_its_clamp_around_the_median(credits: list[int]) -> None:
    median = sorted(credits)[(len(credits) - 1) // 2]
    for credit, weight in zip(credits, compute_weights(credits), strict=True):
        assert max(1, 3 * median / 5) <= weight <= max(1, 5 * median / 4, -(-3 * median // 5))
        if 3 * median <= 5 * credit and 4 * credit <= 5 * median and credit:
            assert weight == credit
