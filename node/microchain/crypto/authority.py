"""The testbed's certificate authority: TLS keys, signing requests and certificates, all ECDSA on P-256.

It reads no clock: who issues a certificate says from when until when it is valid. What a certificate is for (its name
and hosts) is decided by the issuer, never taken from the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from ipaddress import ip_address
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = [
    "Authority",
    "AuthorityError",
    "create_authority",
    "create_request",
    "create_tls_key",
    "is_issued",
    "load_authority",
    "request_matches",
    "request_spki_hash",
    "sign_request",
    "spki_hash",
]

_DNS_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")


class AuthorityError(ValueError):
    """A key, request or certificate that cannot be used; the message says which and why."""


class Authority(NamedTuple):
    """The authority's certificate and private key, as PEM."""

    certificate: bytes
    key: bytes


def create_tls_key() -> bytes:
    """Return a new private key (P-256) as unencrypted PKCS#8 PEM."""
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def create_authority(name: str, *, not_before: datetime, not_after: datetime) -> Authority:
    """Make a self-signed authority that issues end certificates only; AuthorityError if ``name`` is no common name."""
    key_pem = create_tls_key()
    key = _load_key(key_pem)
    builder = _start(_common_name(name), _common_name(name), key.public_key(), not_before, not_after)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(_authority_key(key), critical=False)
    return Authority(builder.sign(key, SHA256()).public_bytes(Encoding.PEM), key_pem)


def load_authority(certificate: bytes, key: bytes) -> Authority:
    """Check that both belong together; AuthorityError if not."""
    if _load_certificate(certificate).public_key() != _load_key(key).public_key():
        raise AuthorityError("the authority's certificate and key do not belong together")
    return Authority(certificate, key)


def create_request(key_pem: bytes, name: str, hosts: Iterable[str] = ()) -> bytes:
    """Return a signing request (PEM) for the key; ``name`` and ``hosts`` are what its owner would like."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_common_name(name))
    builder = builder.add_extension(_names(name, hosts), critical=False)
    return builder.sign(_load_key(key_pem), SHA256()).public_bytes(Encoding.PEM)


def request_matches(csr_pem: bytes, key_pem: bytes, name: str, hosts: Iterable[str] = ()) -> bool:
    """Whether the request is one that ``create_request`` would make of these arguments."""
    try:
        request = _load_request(csr_pem)
        asked = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        same_key = _request_key(request) == _load_key(key_pem).public_key()
        return same_key and request.subject == _common_name(name) and asked == _names(name, hosts)
    except (ValueError, x509.ExtensionNotFound):
        return False


def sign_request(
    csr_pem: bytes,
    authority: Authority,
    *,
    name: str,
    hosts: Iterable[str],
    not_before: datetime,
    not_after: datetime,
) -> bytes:
    """Return a certificate (PEM), for server and client side of TLS, for the request's key.

    It names ``name`` and ``hosts`` (IP addresses or DNS names). AuthorityError for a request that is malformed, not
    signed by its own key or not on P-256.
    """
    request = _load_request(csr_pem)
    key = _load_key(authority.key)
    issuer = _load_certificate(authority.certificate).subject
    builder = _start(_common_name(name), issuer, _request_key(request), not_before, not_after)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
    )
    builder = builder.add_extension(_names(name, hosts), critical=False)
    builder = builder.add_extension(_authority_key(key), critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def is_issued(
    certificate_pem: bytes, csr_pem: bytes, authority: Authority, *, name: str, hosts: Iterable[str], until: datetime
) -> bool:
    """Whether the certificate is the authority's for the request's key, name and hosts, and valid at ``until``."""
    try:
        certificate = _load_certificate(certificate_pem)
        certificate.verify_directly_issued_by(_load_certificate(authority.certificate))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound, InvalidSignature):
        return False
    same_key = certificate.public_key() == _request_key(_load_request(csr_pem))
    return same_key and names == _names(name, hosts) and until <= certificate.not_valid_after_utc


def spki_hash(certificate: bytes) -> bytes:
    """Return the SHA-256 of a certificate's SubjectPublicKeyInfo (PEM or DER); AuthorityError if it is none."""
    return _hash_key(_load_certificate(certificate).public_key())


def request_spki_hash(csr_pem: bytes) -> bytes:
    """Return the SHA-256 of the SubjectPublicKeyInfo that a certificate for this request will have."""
    return _hash_key(_request_key(_load_request(csr_pem)))


def _hash_key(key: CertificatePublicKeyTypes) -> bytes:
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _start(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePublicKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    try:
        builder = builder.not_valid_before(not_before).not_valid_after(not_after)
    except ValueError as error:
        raise AuthorityError(f"no certificate from {not_before} until {not_after}: {error}") from None
    builder = builder.serial_number(x509.random_serial_number())
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _authority_key(key: EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError as error:
        raise AuthorityError(f"{name!r} cannot be a certificate's name: {error}") from None


def _names(name: str, hosts: Iterable[str]) -> x509.SubjectAlternativeName:
    """The name itself and each host once, in the order given."""
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys([name, *hosts]):
        try:
            names.append(x509.IPAddress(ip_address(host)))
        except ValueError:
            if len(host) > 253 or not _DNS_NAME.fullmatch(host):
                raise AuthorityError(f"{host!r} is neither an IP address nor a DNS name") from None
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _load_key(pem: bytes) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise AuthorityError("the TLS key is not an unencrypted PEM private key") from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise AuthorityError("the TLS key is not an ECDSA key on P-256")
    return key


def _load_request(pem: bytes) -> x509.CertificateSigningRequest:
    try:
        return x509.load_pem_x509_csr(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise AuthorityError("the signing request is not a PEM certificate signing request") from None


def _request_key(request: x509.CertificateSigningRequest) -> EllipticCurvePublicKey:
    try:
        key, signed = request.public_key(), request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        raise AuthorityError("the signing request has a key of an unknown kind") from None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise AuthorityError("the signing request's key is not on P-256")
    if not signed:
        raise AuthorityError("the signing request is not signed by its own key")
    return key


def _load_certificate(certificate: bytes) -> x509.Certificate:
    try:
        if certificate.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(certificate)
        return x509.load_der_x509_certificate(certificate)
    except (ValueError, UnsupportedAlgorithm):
        raise AuthorityError("not an X.509 certificate (PEM or DER)") from None
