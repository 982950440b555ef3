"""A node's private keys on disk, and the public bundle that the operator builds a genesis from.

A key directory holds signing.pem, vrf.key, pvss.key, tls.key and tls.csr, made on the node's own host; the operator
adds the certificate tls.crt and the authority's ca.crt.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from microchain.config import NAME_PATTERN
from microchain.crypto import authority, pvss
from microchain.crypto.signatures import KeyFileError, SigningKey, get_scheme
from microchain.crypto.suite import RealKeyring
from microchain.crypto.vrf import VrfKey

__all__ = ["Bundle", "create_keys", "has_keys", "load_keyring", "load_signing_key", "write_whole"]

SIGNING_KEY = "signing.pem"
VRF_KEY = "vrf.key"
PVSS_KEY = "pvss.key"
TLS_KEY = "tls.key"
TLS_REQUEST = "tls.csr"


class Bundle(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the others may know of a node. Keys are raw bytes (base64 in JSON); ``tls_key`` is a SHA-256 of an SPKI."""

    name: Annotated[str, Meta(pattern=NAME_PATTERN)]
    role: Literal["validator", "device"]
    signature: Literal["rsa-2048", "ed25519"]
    signing_key: bytes
    vrf_key: bytes
    pvss_key: bytes
    tls_key: bytes
    csr: str


def create_keys(
    directory: Path,
    name: str,
    *,
    role: Literal["validator", "device"] = "validator",
    signature: Literal["rsa-2048", "ed25519"] = "rsa-2048",
    hosts: Sequence[str] = (),
) -> tuple[Bundle, list[str]]:
    """Make the keys that ``directory`` lacks; return the bundle and the names of the files made.

    What exists is kept (the signing request is renewed if name or hosts changed), so this can be repeated, also after
    it was interrupted. KeyFileError names a file that cannot be used; OSError as the file system has it.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise KeyFileError(f"{name!r} is no node name: lower-case letters, digits and hyphens, at most 63")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    with _locked(directory):
        try:
            request, made = _create_missing(directory, name, signature, hosts)
        except authority.AuthorityError as error:
            raise KeyFileError(f"{directory}: {error}") from None
    bundle = Bundle(
        name=name,
        role=role,
        signature=signature,
        signing_key=load_signing_key(directory, signature).public_key,
        vrf_key=VrfKey(_read_seed(directory / VRF_KEY)).public_key,
        pvss_key=pvss.derive_public_key(_read_seed(directory / PVSS_KEY)),
        tls_key=authority.request_spki_hash(request),
        csr=request.decode("ascii"),
    )
    return bundle, made


def has_keys(directory: Path, name: str, *, hosts: Sequence[str] = ()) -> bool:
    """Whether ``create_keys`` with the same arguments would find nothing to make."""
    if not all((directory / file).exists() for file in (SIGNING_KEY, VRF_KEY, PVSS_KEY, TLS_KEY, TLS_REQUEST)):
        return False
    request, tls_key = _read(directory / TLS_REQUEST), _read(directory / TLS_KEY)
    return authority.request_matches(request, tls_key, name, hosts)


def _create_missing(directory: Path, name: str, signature: str, hosts: Sequence[str]) -> tuple[bytes, list[str]]:
    """Return the signing request and the names of the files made."""
    made: list[str] = []

    def ensure(file: str, make: Callable[[], bytes]) -> bytes:
        path = directory / file
        if not path.exists():
            write_whole(path, make())
            made.append(file)
        return path.read_bytes()

    ensure(SIGNING_KEY, lambda: get_scheme(signature).generate().to_pem())
    ensure(VRF_KEY, lambda: secrets.token_bytes(32))
    ensure(PVSS_KEY, lambda: secrets.token_bytes(32))
    tls_key = ensure(TLS_KEY, authority.create_tls_key)
    request = ensure(TLS_REQUEST, lambda: authority.create_request(tls_key, name, hosts))
    if not authority.request_matches(request, tls_key, name, hosts):
        request = authority.create_request(tls_key, name, hosts)
        write_whole(directory / TLS_REQUEST, request)
        made.append(TLS_REQUEST)
    return request, made


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep two processes from making one directory's keys at the same time."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def load_signing_key(directory: Path, signature: str) -> SigningKey:
    """Read the signing key of a key directory; KeyFileError if it is missing, corrupt or of another scheme."""
    path = directory / SIGNING_KEY
    try:
        return get_scheme(signature).load(_read(path))
    except ValueError as error:  # KeyFileError, or a scheme that only simulations have
        raise KeyFileError(f"{path}: {error}") from None


def load_keyring(directory: Path, signature: str) -> RealKeyring:
    """Read what a validator signs and proves with; KeyFileError says which file is wrong."""
    return RealKeyring(
        load_signing_key(directory, signature),
        VrfKey(_read_seed(directory / VRF_KEY)),
        pvss.PvssKey(_read_seed(directory / PVSS_KEY)),
    )


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write the whole file or nothing, durable on return; unless ``mode`` says more only its owner may read it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)  # of a run that was killed
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"cannot read it: {error.strerror}; `microchain-node keys` makes what is missing") from None


def _read_seed(path: Path) -> bytes:
    try:
        seed = _read(path)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}") from None
    if len(seed) != 32:
        raise KeyFileError(f"{path}: a key of 32 bytes is expected, this file has {len(seed)}")
    return seed
