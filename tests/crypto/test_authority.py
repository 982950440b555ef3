"""The TLS authority: its certificates carry a mutual TLS 1.3 handshake, and nobody else's do."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from microchain.crypto.authority import (
    Authority,
    AuthorityError,
    create_authority,
    create_request,
    create_tls_key,
    is_issued,
    load_authority,
    request_matches,
    request_spki_hash,
    sign_request,
    spki_hash,
)

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
AUTHORITY = create_authority("testbed", not_before=NOW - DAY, not_after=NOW + DAY)
STRANGER = create_authority("testbed", not_before=NOW - DAY, not_after=NOW + DAY)


def issue(
    key: bytes, issuer: Authority = AUTHORITY, *, name: str = "validator-1", hosts: tuple[str, ...] = ("127.0.0.1",),
    not_before: datetime = NOW - DAY, not_after: datetime = NOW + DAY,
) -> bytes:  # fmt: skip
    request = create_request(key, name, hosts)
    return sign_request(request, issuer, name=name, hosts=hosts, not_before=not_before, not_after=not_after)


def make_context(
    folder: Path, protocol: ssl._SSLMethod, key: bytes, certificate: bytes | None, trusted: Authority = AUTHORITY
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=trusted.certificate.decode())
    if certificate:
        path = folder / f"{protocol}.pem"
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
    return context


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Do a handshake in memory and pass one byte each way; ssl.SSLError as either side raises it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    )

    def until_done(step: Callable[[ssl.SSLObject], object]) -> None:
        waiting = list(ends)
        for _ in range(10):
            for end in list(waiting):
                try:
                    step(end)
                    waiting.remove(end)
                except ssl.SSLWantReadError:
                    pass
        assert not waiting

    until_done(lambda end: end.do_handshake())
    for end in ends:
        end.write(b"!")
    until_done(lambda end: end.read(1))
    return ends


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    return create_tls_key(), create_tls_key()


def test_mutual_handshake_of_tls_1_3_shows_each_side_the_others_key(tmp_path: Path, keys: tuple[bytes, bytes]) -> None:
    certificates = [issue(key) for key in keys]
    client, server = shake_hands(
        make_context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, keys[0], certificates[0]),
        make_context(tmp_path, ssl.PROTOCOL_TLS_SERVER, keys[1], certificates[1]),
        "127.0.0.1",
    )
    assert client.version() == server.version() == "TLSv1.3"
    for end, other in ((client, certificates[1]), (server, certificates[0])):
        shown = end.getpeercert(binary_form=True)
        assert shown is not None
        assert spki_hash(shown) == spki_hash(other)


@pytest.mark.parametrize("host", ["validator-1", "127.0.0.1", "::1", "board.lan"])
def test_certificate_is_good_for_its_name_and_each_host(tmp_path: Path, keys: tuple[bytes, bytes], host: str) -> None:
    server = issue(keys[1], hosts=("127.0.0.1", "::1", "board.lan"))
    shake_hands(
        make_context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, keys[0], issue(keys[0])),
        make_context(tmp_path, ssl.PROTOCOL_TLS_SERVER, keys[1], server),
        host,
    )


def test_certificate_is_refused_for_another_host(tmp_path: Path, keys: tuple[bytes, bytes]) -> None:
    client = make_context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, keys[0], issue(keys[0]))
    server = make_context(tmp_path, ssl.PROTOCOL_TLS_SERVER, keys[1], issue(keys[1]))
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        shake_hands(client, server, "127.0.0.2")


def test_server_of_another_authority_with_the_same_name_is_refused(tmp_path: Path, keys: tuple[bytes, bytes]) -> None:
    client = make_context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, keys[0], issue(keys[0]))
    server = make_context(tmp_path, ssl.PROTOCOL_TLS_SERVER, keys[1], issue(keys[1], STRANGER))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client, server, "127.0.0.1")


@pytest.mark.parametrize("shown", ["another authority's", "expired", "none"])
def test_client_without_a_valid_certificate_is_refused(tmp_path: Path, keys: tuple[bytes, bytes], shown: str) -> None:
    certificate = {
        "another authority's": issue(keys[0], STRANGER),
        "expired": issue(keys[0], not_before=NOW - 2 * DAY, not_after=NOW - DAY),
        "none": None,
    }[shown]
    client = make_context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, keys[0], certificate)
    server = make_context(tmp_path, ssl.PROTOCOL_TLS_SERVER, keys[1], issue(keys[1]))
    with pytest.raises(ssl.SSLError):
        shake_hands(client, server, "127.0.0.1")


def test_issued_certificate_cannot_issue_another(tmp_path: Path, keys: tuple[bytes, bytes]) -> None:
    impostor = Authority(issue(keys[0]), keys[0])
    client = make_context(tmp_path, ssl.PROTOCOL_TLS_CLIENT, keys[0], issue(keys[0]))
    server = make_context(tmp_path, ssl.PROTOCOL_TLS_SERVER, keys[1], issue(keys[1], impostor) + impostor.certificate)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(client, server, "127.0.0.1")


def test_what_a_certificate_is_for_is_the_issuers_choice_not_the_requests(keys: tuple[bytes, bytes]) -> None:
    request = create_request(keys[0], "validator-9", ["10.0.0.9"])
    pem = sign_request(request, AUTHORITY, name="validator-1", hosts=[], not_before=NOW, not_after=NOW + DAY)
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names == x509.SubjectAlternativeName([x509.DNSName("validator-1")])
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert certificate.subject.rfc4514_string() == "CN=validator-1"
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (NOW, NOW + DAY)


def test_key_hash_is_the_same_in_request_pem_and_der(keys: tuple[bytes, bytes]) -> None:
    pem = issue(keys[0])
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    assert spki_hash(pem) == spki_hash(der) == request_spki_hash(create_request(keys[0], "other"))
    assert spki_hash(pem) != spki_hash(issue(keys[1]))


def test_request_is_recognized_by_key_name_and_hosts(keys: tuple[bytes, bytes]) -> None:
    request = create_request(keys[0], "validator-1", ["127.0.0.1"])
    assert request_matches(request, keys[0], "validator-1", ["127.0.0.1"])
    assert not request_matches(request, keys[1], "validator-1", ["127.0.0.1"])
    assert not request_matches(request, keys[0], "validator-2", ["127.0.0.1"])
    assert not request_matches(request, keys[0], "validator-1", ["127.0.0.2"])
    assert not request_matches(b"damaged", keys[0], "validator-1", ["127.0.0.1"])


def test_issued_certificate_is_recognized(keys: tuple[bytes, bytes]) -> None:
    request, pem = create_request(keys[0], "validator-1"), issue(keys[0])

    def recognized(
        certificate: bytes = pem, issuer: Authority = AUTHORITY, host: str = "127.0.0.1", until: datetime = NOW + DAY
    ) -> bool:
        return is_issued(certificate, request, issuer, name="validator-1", hosts=[host], until=until)

    assert recognized()
    assert not recognized(issuer=STRANGER)
    assert not recognized(host="127.0.0.2")
    assert not recognized(until=NOW + 2 * DAY)
    assert not recognized(certificate=issue(keys[1]))
    assert not recognized(certificate=b"damaged")


def test_request_that_its_own_key_did_not_sign_is_refused(keys: tuple[bytes, bytes]) -> None:
    request = x509.load_pem_x509_csr(create_request(keys[0], "validator-1"))
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(AuthorityError, match="not signed by its own key"):
        sign_request(forged, AUTHORITY, name="v", hosts=[], not_before=NOW, not_after=NOW + DAY)


def test_request_with_a_key_on_another_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(key, SHA256()).public_bytes(Encoding.PEM)
    with pytest.raises(AuthorityError, match="not on P-256"):
        sign_request(request, AUTHORITY, name="v", hosts=[], not_before=NOW, not_after=NOW + DAY)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(AuthorityError, match="not an ECDSA key on P-256"):
        create_request(pem, "v")


@pytest.mark.parametrize("request_pem", [b"", b"x", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END"])
def test_malformed_request_is_a_clear_error(request_pem: bytes) -> None:
    with pytest.raises(AuthorityError, match="not a PEM certificate signing request"):
        request_spki_hash(request_pem)


@pytest.mark.parametrize("certificate", [b"", b"x", b"\x30\x03\x02\x01\x01", b"-----BEGIN CERTIFICATE-----\nAA"])
def test_malformed_certificate_is_a_clear_error(certificate: bytes) -> None:
    with pytest.raises(AuthorityError, match=r"not an X\.509 certificate"):
        spki_hash(certificate)


@pytest.mark.parametrize("host", ["", "_x", "a..b", "-a", "a" * 64, "10.0.0.256/8", "münchen", "a\x00b", "*.lan"])
def test_host_that_is_no_host_is_a_clear_error(host: str, keys: tuple[bytes, bytes]) -> None:
    with pytest.raises(AuthorityError, match="neither an IP address nor a DNS name"):
        issue(keys[0], hosts=(host,))


@pytest.mark.parametrize("name", ["", "a" * 65])
def test_name_that_no_certificate_can_have_is_a_clear_error(name: str) -> None:
    with pytest.raises(AuthorityError, match="cannot be a certificate's name"):
        create_authority(name, not_before=NOW, not_after=NOW + DAY)


def test_period_that_ends_before_it_begins_is_a_clear_error(keys: tuple[bytes, bytes]) -> None:
    with pytest.raises(AuthorityError, match="no certificate from"):
        issue(keys[0], not_before=NOW, not_after=NOW - DAY)


def test_authority_of_mixed_parts_is_refused() -> None:
    assert load_authority(*AUTHORITY) == AUTHORITY
    with pytest.raises(AuthorityError, match="do not belong together"):
        load_authority(AUTHORITY.certificate, STRANGER.key)
    with pytest.raises(AuthorityError, match="not an unencrypted PEM private key"):
        load_authority(AUTHORITY.certificate, b"damaged")
