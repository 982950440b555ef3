"""The authority's directory: made once, certificates kept while they are right."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from microchain.certificates import init_authority, issue_certificates, load_authority_directory
from microchain.crypto.authority import Authority, AuthorityError, create_request, spki_hash
from microchain.keys import Bundle, create_keys

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return init_authority(tmp_path / "ca", "testbed", days=3650, now=NOW)[0]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return create_keys(tmp_path / "keys", "validator-1", signature="ed25519")[0]


def test_authority_is_made_once_and_its_key_is_private(tmp_path: Path) -> None:
    first, made = init_authority(tmp_path / "ca", "testbed", days=10, now=NOW)
    second, made_again = init_authority(tmp_path / "ca", "other", days=20, now=NOW + timedelta(days=1))
    assert (made, made_again, second) == (True, False, first)
    assert load_authority_directory(tmp_path / "ca") == first
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "ca").iterdir()}
    assert modes == {"ca.key": 0o600, "ca.crt": 0o644}
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700


def test_authority_whose_making_was_cut_short_is_made_anew(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "ca" / "ca.crt").unlink()
    again, made = init_authority(tmp_path / "ca", "testbed", days=10, now=NOW)
    assert made
    assert load_authority_directory(tmp_path / "ca") == again != authority


@pytest.mark.parametrize("file", ["ca.key", "ca.crt"])
def test_damaged_or_missing_authority_is_named(tmp_path: Path, authority: Authority, file: str) -> None:
    (tmp_path / "ca" / file).write_bytes(b"damaged")
    with pytest.raises(AuthorityError, match=r"ca: (not an X\.509 certificate|the TLS key is not)"):
        init_authority(tmp_path / "ca", "testbed", days=10, now=NOW)
    (tmp_path / "ca" / file).unlink()
    with pytest.raises(AuthorityError, match=rf"{file}: No such file.*`microchain-node authority init`"):
        load_authority_directory(tmp_path / "ca")


def test_certificate_is_for_the_bundles_key_and_kept(tmp_path: Path, authority: Authority, bundle: Bundle) -> None:
    requests = [(bundle, ["10.0.0.1"])]
    assert issue_certificates(authority, requests, tmp_path / "certs", days=100, now=NOW) == ["validator-1"]
    certificate = (tmp_path / "certs" / "validator-1.crt").read_bytes()
    assert spki_hash(certificate) == bundle.tls_key
    assert issue_certificates(authority, requests, tmp_path / "certs", days=100, now=NOW) == []
    assert (tmp_path / "certs" / "validator-1.crt").read_bytes() == certificate


@pytest.mark.parametrize("change", ["host", "near its end", "damaged", "other authority"])
def test_certificate_that_is_no_longer_right_is_made_again(
    tmp_path: Path, authority: Authority, bundle: Bundle, change: str
) -> None:
    issue_certificates(authority, [(bundle, ["10.0.0.1"])], tmp_path, days=100, now=NOW)
    now = NOW + timedelta(days=91) if change == "near its end" else NOW
    if change == "damaged":
        (tmp_path / "validator-1.crt").write_bytes(b"damaged")
    if change == "other authority":
        authority, _ = init_authority(tmp_path / "other", "testbed", days=10, now=NOW)
    hosts = ["10.0.0.2" if change == "host" else "10.0.0.1"]
    assert issue_certificates(authority, [(bundle, hosts)], tmp_path, days=100, now=now) == ["validator-1"]
    assert issue_certificates(authority, [(bundle, hosts)], tmp_path, days=100, now=now) == []


def test_request_for_another_key_than_the_bundles_is_refused(
    tmp_path: Path, authority: Authority, bundle: Bundle
) -> None:
    create_keys(tmp_path / "other", "validator-1", signature="ed25519")
    request = create_request((tmp_path / "other" / "tls.key").read_bytes(), "validator-1").decode()
    forged = msgspec.structs.replace(bundle, csr=request)
    with pytest.raises(AuthorityError, match="bundle validator-1: the signing request is for another key than tls_key"):
        issue_certificates(authority, [(forged, [])], tmp_path / "certs", days=100, now=NOW)
    assert list((tmp_path / "certs").iterdir()) == []
