"""Tagged SHA-256: every kind of object is hashed under a tag of its own."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NewType

__all__ = ["Digest", "tag_prefix", "tagged_hash"]

Digest = NewType("Digest", bytes)
"""A 32-byte SHA-256 output."""


@lru_cache(maxsize=64)
def tag_prefix(tag: str) -> bytes:
    """Return the 64-byte prefix of ``tag``: SHA-256 of the tag, twice, as BIP 340 does it."""
    digest = hashlib.sha256(tag.encode()).digest()
    return digest + digest


def tagged_hash(tag: str, *parts: bytes) -> Digest:
    """Return SHA-256(prefix(tag) ‖ parts…); a digest under one tag never equals one under another."""
    return Digest(hashlib.sha256(tag_prefix(tag) + b"".join(parts)).digest())
