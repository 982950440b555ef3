"""TLS of the peer links: mutual, 1.3 only; who the peer is follows from its key, not from a host name."""

from __future__ import annotations

import ssl
from pathlib import Path

from msgspec import Struct

from microchain.crypto.authority import spki_hash

__all__ = ["TlsContexts", "TlsFilesError", "load_tls_contexts", "peer_key"]


class TlsFilesError(ValueError):
    """Certificate files that are missing or do not belong together."""


class TlsContexts(Struct, frozen=True):
    """The contexts of the two ends of peer links."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def load_tls_contexts(keys: Path) -> TlsContexts:
    """Load ca.crt, tls.crt and tls.key of a key directory; TlsFilesError says which is missing or wrong."""
    for name in ("tls.key", "tls.crt", "ca.crt"):
        if not (keys / name).is_file():
            raise TlsFilesError(f"{keys / name} is missing: deploy signs the node's request and puts the file there")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(keys / "ca.crt")
            context.load_cert_chain(keys / "tls.crt", keys / "tls.key")
        except (ssl.SSLError, OSError) as error:
            raise TlsFilesError(
                f"the TLS files in {keys} cannot be used ({error}): is tls.crt for this tls.key? deploy again"
            ) from None
    server.num_tickets = 0
    return TlsContexts(server, client)


def peer_key(connection: ssl.SSLObject | None) -> bytes:
    """Return the SHA-256 of the SPKI in the peer's (already verified) certificate; empty if it has none."""
    certificate = connection.getpeercert(binary_form=True) if connection is not None else None
    return spki_hash(certificate) if certificate else b""
