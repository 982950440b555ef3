"""Signature schemes behind one interface: ``rsa-2048`` (PKCS#1 v1.5 with SHA-256) and ``ed25519``.

Both are deterministic: one key gives one signature of a message. RSA is the cheapest to verify, which every validator
does for each signature that is made once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)
from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign_open
from nacl.exceptions import BadSignatureError

__all__ = ["SCHEMES", "KeyFileError", "SignatureScheme", "SigningKey", "get_scheme"]

_RSA_BITS = 2048
_RSA_EXPONENT = 65537
_RSA_PUBLIC_BYTES = 294
_RSA_PUBLIC_START = bytes.fromhex("30820122300d06092a864886f70d01010105000382010f003082010a0282010100")
_RSA_PUBLIC_END = bytes.fromhex("0203010001")
"""Length, start and end of every DER SubjectPublicKeyInfo of 2048 bits and exponent 65537; the modulus lies between."""
_CACHED_KEYS = 1024


class KeyFileError(ValueError):
    """A private key that cannot be read, or is not of the scheme that it should be."""


class SigningKey(Protocol):
    """A private signing key."""

    @property
    def public_key(self) -> bytes:
        """The public key as the registry has it."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature of ``message`` (in the protocol always a 32-byte object id)."""
        ...

    def to_pem(self) -> bytes:
        """Return the private key as unencrypted PKCS#8 PEM."""
        ...


class SignatureScheme(Protocol):
    """One way to sign."""

    @property
    def name(self) -> str:
        """The name that genesis parameters use."""
        ...

    def generate(self) -> SigningKey:
        """Make a new key."""
        ...

    def load(self, pem: bytes) -> SigningKey:
        """Read a key that ``to_pem`` wrote; KeyFileError says why not."""
        ...

    def is_public_key(self, public_key: bytes) -> bool:
        """Whether it is a public key in the one encoding that this scheme has for it."""
        ...

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is the key's over ``message``; False, too, for a malformed key or signature."""
        ...


class _RsaKey:
    def __init__(self, key: RSAPrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message, PKCS1v15(), SHA256())

    def to_pem(self) -> bytes:
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class _RsaScheme:
    name = "rsa-2048"

    def generate(self) -> SigningKey:
        return _RsaKey(generate_private_key(_RSA_EXPONENT, _RSA_BITS))

    def load(self, pem: bytes) -> SigningKey:
        key = _load_private_key(pem, self.name)
        if not isinstance(key, RSAPrivateKey) or not _is_standard(key.public_key()):
            raise KeyFileError(f"not an {self.name} key with exponent 65537; name its own scheme or make another")
        return _RsaKey(key)

    def is_public_key(self, public_key: bytes) -> bool:
        return _parse_rsa(public_key) is not None

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        key = _parse_rsa(public_key)
        if key is None:
            return False
        try:
            key.verify(signature, message, PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True


class _Ed25519Key:
    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    def to_pem(self) -> bytes:
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class _Ed25519Scheme:
    name = "ed25519"

    def generate(self) -> SigningKey:
        return _Ed25519Key(Ed25519PrivateKey.generate())

    def load(self, pem: bytes) -> SigningKey:
        key = _load_private_key(pem, self.name)
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"not an {self.name} key; name its own scheme or make another")
        return _Ed25519Key(key)

    def is_public_key(self, public_key: bytes) -> bool:
        return len(public_key) == 32 and crypto_core_ed25519_is_valid_point(public_key)

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        if len(public_key) != 32 or len(signature) != 64:
            return False
        try:
            # libsodium: half of OpenSSL's time, and it refuses small-order keys and encodings that are not canonical.
            crypto_sign_open(signature + message, public_key)
        except BadSignatureError:
            return False
        return True


def _load_private_key(pem: bytes, scheme: str) -> object:
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError(f"not an unencrypted PEM private key (expected a {scheme} key)") from None


def _is_standard(key: RSAPublicKey) -> bool:
    return key.key_size == _RSA_BITS and key.public_numbers().e == _RSA_EXPONENT


def _parse_rsa(der: bytes) -> RSAPublicKey | None:
    """Return the key, or None if it is no standard key in DER; what is none by its frame alone is never cached."""
    framed = der.startswith(_RSA_PUBLIC_START) and der.endswith(_RSA_PUBLIC_END)
    return _parse_framed_rsa(der) if framed and len(der) == _RSA_PUBLIC_BYTES else None


@lru_cache(maxsize=_CACHED_KEYS)
def _parse_framed_rsa(der: bytes) -> RSAPublicKey | None:
    """Parse once for each key: that costs as much as a verification."""
    try:
        key = load_der_public_key(der)
    except ValueError:
        return None
    return key if isinstance(key, RSAPublicKey) else None


SCHEMES: dict[str, SignatureScheme] = {scheme.name: scheme for scheme in (_RsaScheme(), _Ed25519Scheme())}


def get_scheme(name: str) -> SignatureScheme:
    """Return the scheme of that name; ValueError lists the names there are."""
    try:
        return SCHEMES[name]
    except KeyError:
        raise ValueError(f"no signature scheme {name!r}; there are: {', '.join(SCHEMES)}") from None
