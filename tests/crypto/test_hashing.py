"""Tagged hashes."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st
from microchain.crypto.hashing import tag_prefix, tagged_hash


@given(st.text(max_size=20), st.lists(st.binary(max_size=50), max_size=4))
def test_hash_is_that_of_the_doubled_tag_and_the_parts(tag: str, parts: list[bytes]) -> None:
    digest = hashlib.sha256(tag.encode()).digest()
    assert tagged_hash(tag, *parts) == hashlib.sha256(digest + digest + b"".join(parts)).digest()


@given(st.text(max_size=20), st.text(max_size=20), st.binary(max_size=50))
def test_tags_keep_equal_bytes_apart(first: str, second: str, data: bytes) -> None:
    assert (tagged_hash(first, data) == tagged_hash(second, data)) == (first == second)


def test_prefix_fills_one_block_of_sha256() -> None:
    assert len(tag_prefix("microchain/vote")) == 64
