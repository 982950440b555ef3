"""The suite that engines see is the real thing, and pvss keys are points of the group."""

from __future__ import annotations

import pytest
from microchain.crypto.pvss import PvssKey, derive_public_key
from microchain.crypto.signatures import SCHEMES, get_scheme
from microchain.crypto.suite import Keyring, RealKeyring, RealSuite, Suite
from microchain.crypto.vrf import VrfKey, is_valid_key


@pytest.mark.parametrize("name", SCHEMES)
def test_suite_accepts_what_the_keyring_makes(name: str) -> None:
    key, vrf_key = get_scheme(name).generate(), VrfKey(bytes(32))
    suite: Suite = RealSuite(name)
    keyring: Keyring = RealKeyring(key, vrf_key, PvssKey(bytes(32)))
    assert suite.verify(key.public_key, bytes(32), keyring.sign(bytes(32)))
    assert not suite.verify(key.public_key, bytes([1]) * 32, keyring.sign(bytes(32)))
    proof, output = keyring.prove(b"alpha")
    assert suite.verify_proof(vrf_key.public_key, b"alpha", proof) == output
    assert suite.verify_proof(vrf_key.public_key, b"beta", proof) is None


def test_suite_of_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="simulated"):
        RealSuite("simulated")


def test_pvss_key_is_a_point_of_the_group_and_not_the_vrf_key_of_the_same_seed() -> None:
    seed = bytes(range(32))
    assert is_valid_key(derive_public_key(seed))
    assert derive_public_key(seed) != VrfKey(seed).public_key
    with pytest.raises(ValueError, match="a PVSS key has 32 bytes, not 31"):
        derive_public_key(seed[:31])
