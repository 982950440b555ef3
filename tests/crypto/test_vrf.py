"""ECVRF-EDWARDS25519-SHA512-TAI: the RFC's vectors, and what must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from microchain.crypto import vrf
from microchain.crypto.vrf import OUTPUT_BYTES, PROOF_BYTES, VrfKey, is_valid_key, verify_proof
from nacl.bindings import crypto_core_ed25519_add, crypto_scalarmult_ed25519_base_noclamp

VECTORS = json.loads((Path(__file__).parent / "vectors" / "rfc9381_ecvrf_edwards25519_sha512_tai.json").read_text())[
    "vectors"
]
SEEDS = st.binary(min_size=32, max_size=32)
KEY = VrfKey(bytes(range(32)))
ALPHA = b"alpha"
PROOF, OUTPUT = KEY.prove(ALPHA)
ORDER = 2**252 + 27742317777372353535851937790883648493
PRIME = 2**255 - 19
SMALL_ORDER = [
    (1).to_bytes(32, "little"),
    (PRIME - 1).to_bytes(32, "little"),
    bytes(32),
    bytes(31) + b"\x80",
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]
ORDER_8 = SMALL_ORDER[4]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["alpha"] or "empty")
def test_vectors_of_rfc_9381(vector: dict[str, str]) -> None:
    key, alpha = VrfKey(bytes.fromhex(vector["sk"])), bytes.fromhex(vector["alpha"])
    assert key.public_key.hex() == vector["pk"]
    assert vrf._encode_to_curve(key.public_key, alpha).hex() == vector["h"]
    proof, output = key.prove(alpha)
    assert (proof.hex(), output.hex()) == (vector["pi"], vector["beta"])
    assert verify_proof(key.public_key, alpha, proof) == output


@settings(max_examples=30)
@given(SEEDS, st.binary(max_size=100))
def test_proof_verifies_to_its_output_and_is_the_only_one(seed: bytes, alpha: bytes) -> None:
    key = VrfKey(seed)
    proof, output = key.prove(alpha)
    assert (len(proof), len(output)) == (PROOF_BYTES, OUTPUT_BYTES)
    assert verify_proof(key.public_key, alpha, proof) == output
    assert VrfKey(seed).prove(alpha) == (proof, output)


@settings(max_examples=30)
@given(SEEDS, SEEDS, st.binary(max_size=40), st.binary(max_size=40))
def test_outputs_of_other_keys_and_inputs_differ(first: bytes, second: bytes, alpha: bytes, beta: bytes) -> None:
    outputs = {VrfKey(seed).prove(message)[1] for seed in (first, second) for message in (alpha, beta)}
    assert len(outputs) == len({first, second}) * len({alpha, beta})


@settings(max_examples=150)
@given(st.integers(0, 8 * PROOF_BYTES - 1))
def test_any_changed_bit_of_the_proof_is_refused(bit: int) -> None:
    changed = int.from_bytes(PROOF, "little") ^ (1 << bit)
    assert verify_proof(KEY.public_key, ALPHA, changed.to_bytes(PROOF_BYTES, "little")) is None


@settings(max_examples=50)
@given(st.integers(0, 255), st.binary(max_size=20))
def test_changed_key_or_input_is_refused(bit: int, alpha: bytes) -> None:
    changed = (int.from_bytes(KEY.public_key, "little") ^ (1 << bit)).to_bytes(32, "little")
    assert verify_proof(changed, ALPHA, PROOF) is None
    assert verify_proof(KEY.public_key, alpha, PROOF) == (OUTPUT if alpha == ALPHA else None)


@given(st.binary(max_size=40), st.binary(max_size=100))
def test_random_bytes_are_refused_without_an_exception(key: bytes, proof: bytes) -> None:
    assert verify_proof(key, ALPHA, PROOF) is None
    assert verify_proof(KEY.public_key, ALPHA, proof) is None


@settings(max_examples=50)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=48, max_size=48))
def test_random_bytes_of_the_right_length_are_refused_without_an_exception(key: bytes, rest: bytes) -> None:
    assert verify_proof(key, ALPHA, PROOF) is None
    assert verify_proof(KEY.public_key, ALPHA, key + rest) is None
    assert verify_proof(KEY.public_key, ALPHA, PROOF[:32] + rest) is None


def test_scalar_that_is_not_reduced_is_refused() -> None:
    s = int.from_bytes(PROOF[48:], "little") + ORDER
    assert verify_proof(KEY.public_key, ALPHA, PROOF[:48] + s.to_bytes(32, "little")) is None


@pytest.mark.parametrize("challenge", [PROOF[32:48], bytes(16)])
@pytest.mark.parametrize("s", [PROOF[48:], bytes(32)])
def test_zero_scalars_are_refused(challenge: bytes, s: bytes) -> None:
    expected = OUTPUT if challenge + s == PROOF[32:] else None
    assert verify_proof(KEY.public_key, ALPHA, PROOF[:32] + challenge + s) == expected


@pytest.mark.parametrize("point", SMALL_ORDER, ids=bytes.hex)
def test_key_or_point_of_small_order_is_refused(point: bytes) -> None:
    assert not is_valid_key(point)
    assert verify_proof(point, ALPHA, PROOF) is None
    assert verify_proof(KEY.public_key, ALPHA, point + PROOF[32:]) is None


def test_key_or_point_outside_the_prime_order_subgroup_is_refused() -> None:
    assert not is_valid_key(crypto_core_ed25519_add(KEY.public_key, ORDER_8))
    mixed = crypto_core_ed25519_add(PROOF[:32], ORDER_8)
    assert verify_proof(KEY.public_key, ALPHA, mixed + PROOF[32:]) is None


@pytest.mark.parametrize("y", range(PRIME, 2**255, 3))
def test_encoding_that_is_not_canonical_is_refused(y: int) -> None:
    encoded = y.to_bytes(32, "little")
    assert not is_valid_key(encoded)
    assert verify_proof(KEY.public_key, ALPHA, encoded + PROOF[32:]) is None


def test_inputs_are_hashed_into_the_prime_order_subgroup() -> None:
    for number in range(50):
        assert is_valid_key(vrf._encode_to_curve(KEY.public_key, bytes([number])))


def test_candidates_that_are_no_point_or_become_the_identity_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """No input is known whose hash is one of these, so a scripted hash stands in for SHA-512."""
    not_canonical, off_curve = (PRIME + 3).to_bytes(32, "little"), (2).to_bytes(32, "little")
    base = crypto_scalarmult_ed25519_base_noclamp((1).to_bytes(32, "little"))
    candidates = [not_canonical, off_curve, *SMALL_ORDER, base]

    class Script:
        def __init__(self, data: bytes = b"") -> None:
            self.data = data

        def copy(self) -> Script:
            return Script()

        def update(self, data: bytes) -> None:
            self.data += data

        def digest(self) -> bytes:
            return candidates[self.data[0]] + bytes(32)

    monkeypatch.setattr(vrf, "sha512", Script)
    assert vrf._encode_to_curve(KEY.public_key, ALPHA) == vrf._times_cofactor(base)


def test_multiplication_by_the_cofactor_is_eight_additions() -> None:
    base = crypto_scalarmult_ed25519_base_noclamp((1).to_bytes(32, "little"))
    assert vrf._times_cofactor(base) == crypto_scalarmult_ed25519_base_noclamp((8).to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_key_of_another_length_is_a_clear_error(length: int) -> None:
    with pytest.raises(ValueError, match=f"a VRF key has 32 bytes, not {length}"):
        VrfKey(bytes(length))
