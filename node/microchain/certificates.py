"""The testbed's certificate authority as a directory on the operator's machine, and the certificates it issues."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from microchain.crypto import authority
from microchain.crypto.authority import Authority, AuthorityError
from microchain.keys import Bundle, write_whole

__all__ = ["init_authority", "issue_certificates", "load_authority_directory"]

AUTHORITY_CERTIFICATE = "ca.crt"
AUTHORITY_KEY = "ca.key"
BACKDATED = timedelta(days=1)
"""Certificates begin that long before they are made: a board's clock may be behind."""
RENEWED_BEFORE = timedelta(days=30)


def init_authority(directory: Path, name: str, *, days: int, now: datetime) -> tuple[Authority, bool]:
    """Make the authority, or return the one that ``directory`` has; also whether it was made.

    AuthorityError if what is there cannot be used.
    """
    if (directory / AUTHORITY_CERTIFICATE).exists():
        return load_authority_directory(directory), False
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    made = authority.create_authority(name, not_before=now - BACKDATED, not_after=now + timedelta(days=days))
    write_whole(directory / AUTHORITY_KEY, made.key)
    # The certificate is written last: without it the next run begins anew.
    write_whole(directory / AUTHORITY_CERTIFICATE, made.certificate, 0o644)
    return made, True


def load_authority_directory(directory: Path) -> Authority:
    """Read ca.crt and ca.key; AuthorityError names what is missing or wrong."""
    try:
        parts = [(directory / file).read_bytes() for file in (AUTHORITY_CERTIFICATE, AUTHORITY_KEY)]
    except OSError as error:
        raise AuthorityError(
            f"{error.filename}: {error.strerror}; `microchain-node authority init` makes an authority"
        ) from None
    try:
        return authority.load_authority(*parts)
    except AuthorityError as error:
        raise AuthorityError(f"{directory}: {error}") from None


def issue_certificates(
    issuer: Authority, requests: Iterable[tuple[Bundle, Sequence[str]]], output: Path, *, days: int, now: datetime
) -> list[str]:
    """Write ``output/NAME.crt`` for each (bundle, hosts); return the names of those that had to be made.

    A certificate is kept while it is for the same key, name and hosts, from this authority, and valid for another month
    (or a tenth of ``days``). AuthorityError names the bundle that was refused.
    """
    output.mkdir(parents=True, exist_ok=True)
    validity = timedelta(days=days)
    made = []
    for bundle, hosts in requests:
        path, request = output / f"{bundle.name}.crt", bundle.csr.encode()
        try:
            if authority.request_spki_hash(request) != bundle.tls_key:
                raise AuthorityError("the signing request is for another key than tls_key")
            until = now + min(RENEWED_BEFORE, validity / 10)
            if path.exists() and authority.is_issued(
                path.read_bytes(), request, issuer, name=bundle.name, hosts=hosts, until=until
            ):
                continue
            certificate = authority.sign_request(
                request, issuer, name=bundle.name, hosts=hosts, not_before=now - BACKDATED, not_after=now + validity
            )
        except AuthorityError as error:
            raise AuthorityError(f"bundle {bundle.name}: {error}") from None
        write_whole(path, certificate, 0o644)
        made.append(bundle.name)
    return made
