"""Both signature schemes behind the one interface."""

from __future__ import annotations

from functools import lru_cache

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from hypothesis import given
from hypothesis import strategies as st
from microchain.crypto import signatures
from microchain.crypto.signatures import SCHEMES, KeyFileError, SigningKey, get_scheme

MESSAGE = bytes(range(32))
NAMES = st.sampled_from(sorted(SCHEMES))
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493


@lru_cache
def key_of(name: str, number: int = 0) -> SigningKey:
    return get_scheme(name).generate()


@given(NAMES, st.binary(min_size=32, max_size=32))
def test_signature_verifies_and_signing_is_deterministic(name: str, message: bytes) -> None:
    key = key_of(name)
    signature = key.sign(message)
    assert get_scheme(name).verify(key.public_key, message, signature)
    assert key.sign(message) == signature


@given(NAMES, st.data())
def test_any_changed_bit_is_refused(name: str, data: st.DataObject) -> None:
    key, verify = key_of(name), get_scheme(name).verify
    signature = key.sign(MESSAGE)

    def flip(whole: bytes) -> bytes:
        place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
        return whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :]

    assert not verify(key.public_key, flip(MESSAGE), signature)
    assert not verify(key.public_key, MESSAGE, flip(signature))
    assert not verify(flip(key.public_key), MESSAGE, signature)


@given(NAMES, st.binary(max_size=400), st.binary(max_size=64), st.binary(max_size=400))
def test_random_bytes_are_refused_without_an_exception(
    name: str, public_key: bytes, message: bytes, signature: bytes
) -> None:
    scheme, key = get_scheme(name), key_of(name)
    assert not scheme.verify(public_key, message, signature)
    assert not scheme.verify(key.public_key, message, signature)
    assert not scheme.verify(public_key, MESSAGE, key.sign(MESSAGE))
    assert not scheme.is_public_key(public_key)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("change", [lambda s: s + b"\x00", lambda s: s[:-1], lambda s: b"\x00" + s, lambda s: b""])
def test_signature_of_another_length_is_refused(name: str, change: object) -> None:
    assert callable(change)
    key = key_of(name)
    assert not get_scheme(name).verify(key.public_key, MESSAGE, change(key.sign(MESSAGE)))


@pytest.mark.parametrize("name", SCHEMES)
def test_another_key_and_another_scheme_are_refused(name: str) -> None:
    signature = key_of(name).sign(MESSAGE)
    assert not get_scheme(name).verify(key_of(name, 1).public_key, MESSAGE, signature)
    for other in set(SCHEMES) - {name}:
        assert not get_scheme(other).verify(key_of(name).public_key, MESSAGE, signature)


@pytest.mark.parametrize("name", SCHEMES)
def test_key_survives_its_file(name: str) -> None:
    key = key_of(name)
    again = get_scheme(name).load(key.to_pem())
    assert again.public_key == key.public_key
    assert again.sign(MESSAGE) == key.sign(MESSAGE)
    assert get_scheme(name).is_public_key(key.public_key)


def test_rsa_signature_is_pkcs1_v15_with_sha256() -> None:
    key = key_of("rsa-2048")
    public = load_der_public_key(key.public_key)
    assert isinstance(public, rsa.RSAPublicKey)
    public.verify(key.sign(MESSAGE), MESSAGE, PKCS1v15(), SHA256())


def test_ed25519_signature_with_s_above_the_order_is_refused() -> None:
    key = key_of("ed25519")
    signature = key.sign(MESSAGE)
    s = int.from_bytes(signature[32:], "little") + ED25519_ORDER
    assert not get_scheme("ed25519").verify(key.public_key, MESSAGE, signature[:32] + s.to_bytes(32, "little"))


def test_ed25519_signature_does_not_share_bytes_with_the_message() -> None:
    key, verify = key_of("ed25519"), get_scheme("ed25519").verify
    longer = key.sign(b"!" + MESSAGE) + b"!"
    assert not verify(key.public_key, MESSAGE, longer)
    signature = key.sign(MESSAGE[1:])
    assert not verify(key.public_key, signature[63:] + MESSAGE[1:], signature[:63])


def test_ed25519_key_of_small_order_signs_nothing() -> None:
    identity = bytes([1]) + bytes(31)
    assert not get_scheme("ed25519").verify(identity, MESSAGE, identity + bytes(32))
    assert not get_scheme("ed25519").is_public_key(identity)


@pytest.mark.parametrize(("bits", "exponent"), [(1024, 65537), (3072, 65537), (2048, 3)])
def test_rsa_key_of_another_kind_is_refused(bits: int, exponent: int) -> None:
    weak = rsa.generate_private_key(exponent, bits)
    der = weak.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert not get_scheme("rsa-2048").verify(der, MESSAGE, weak.sign(MESSAGE, PKCS1v15(), SHA256()))
    with pytest.raises(KeyFileError, match="not an rsa-2048 key"):
        get_scheme("rsa-2048").load(weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_rsa_key_of_the_right_length_with_another_exponent_is_refused() -> None:
    standard = load_der_public_key(key_of("rsa-2048").public_key)
    assert isinstance(standard, rsa.RSAPublicKey)
    other = rsa.RSAPublicNumbers(65539, standard.public_numbers().n).public_key()
    der = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert len(der) == len(key_of("rsa-2048").public_key)
    assert not get_scheme("rsa-2048").is_public_key(der)


@pytest.mark.parametrize(
    "identifier", ["2a864886f70d01010a", "2a864886f70d010301"], ids=["RSASSA-PSS", "Diffie-Hellman"]
)
def test_rsa_key_under_the_name_of_another_algorithm_is_refused(identifier: str) -> None:
    key = key_of("rsa-2048")
    plain = bytes.fromhex("2a864886f70d010101")
    assert plain in key.public_key
    other = key.public_key.replace(plain, bytes.fromhex(identifier))
    assert not get_scheme("rsa-2048").is_public_key(other)
    assert not get_scheme("rsa-2048").verify(other, MESSAGE, key.sign(MESSAGE))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"no key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
    ],
    ids=["empty", "text", "truncated", "other kind", "encrypted"],
)
def test_unusable_key_file_is_a_clear_error(name: str, pem: bytes) -> None:
    with pytest.raises(KeyFileError, match=name):
        get_scheme(name).load(pem)


@pytest.mark.parametrize("name", SCHEMES)
def test_key_file_of_the_other_scheme_is_a_clear_error(name: str) -> None:
    other = next(iter(set(SCHEMES) - {name}))
    with pytest.raises(KeyFileError, match=f"not an {name} key"):
        get_scheme(name).load(key_of(other).to_pem())


def test_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no signature scheme 'dsa'; there are: rsa-2048, ed25519"):
        get_scheme("dsa")


@pytest.mark.parametrize("modulus", [0, 1, 2**2047, 2**2047 + 1, 2**2048 - 1, 2**2047 - 1])
def test_rsa_key_with_a_nonsensical_modulus_verifies_nothing(modulus: int) -> None:
    standard = key_of("rsa-2048").public_key
    other = standard[:33] + modulus.to_bytes(256, "big") + standard[289:]
    assert not get_scheme("rsa-2048").verify(other, MESSAGE, key_of("rsa-2048").sign(MESSAGE))


def test_cache_of_parsed_keys_is_bounded() -> None:
    verify, standard = get_scheme("rsa-2048").verify, key_of("rsa-2048").public_key
    for number in range(1100):
        verify(standard[:33] + number.to_bytes(256, "big") + standard[289:], MESSAGE, b"")
    information = signatures._parse_framed_rsa.cache_info()
    assert information.maxsize is not None
    assert information.currsize == information.maxsize == 1024
    for strange in (bytes(294), standard + b"!", standard[:-1], b"!" + standard[1:], bytes(1 << 20)):
        verify(strange, MESSAGE, b"")
    assert signatures._parse_framed_rsa.cache_info() == information
