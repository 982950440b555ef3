"""Signed objects: one encoding each; whatever differs is refused, is another object, or is not signed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from microchain.consensus.objects import (
    HEADER_TAG,
    TRANSACTION_TAG,
    VOTE_TAG,
    Header,
    HeaderBody,
    MalformedObject,
    Transaction,
    TransactionBody,
    Vote,
    VoteBody,
    decode_header,
    decode_transaction,
    decode_vote,
    encode_body,
    seal,
    split,
)
from microchain.consensus.types import ProtocolError
from microchain.crypto.hashing import tagged_hash
from microchain.crypto.signatures import get_scheme

Signed = Transaction | Header | Vote
Body = TransactionBody | HeaderBody | VoteBody
Decode = Callable[[bytes], Signed]

IDS = st.binary(min_size=32, max_size=32)
NATURALS = st.integers(0, 2**63 - 1)
TRANSACTIONS = st.builds(
    TransactionBody, version=st.just(1), chain_id=IDS, kind=st.integers(0, 6), sender=IDS, valid_until=NATURALS,
    payload=st.binary(max_size=300),
)  # fmt: skip
HEADERS = st.builds(
    HeaderBody, version=st.just(1), chain_id=IDS, height=NATURALS, slot=NATURALS, parent=IDS, dynasty=NATURALS,
    tx_root=IDS, votes_root=IDS, state_root=IDS, committee_root=IDS, proposer=IDS,
    seed_proof=st.binary(max_size=128), timestamp=NATURALS,
)  # fmt: skip
VOTES = st.builds(
    VoteBody, version=st.just(1), chain_id=IDS, dynasty=NATURALS, source=IDS, source_epoch=NATURALS, target=IDS,
    target_epoch=NATURALS, voter=IDS,
)  # fmt: skip
KINDS: list[tuple[Decode, str, st.SearchStrategy[Any]]] = [
    (decode_transaction, TRANSACTION_TAG, TRANSACTIONS),
    (decode_header, HEADER_TAG, HEADERS),
    (decode_vote, VOTE_TAG, VOTES),
]
DECODERS: list[Decode] = [decode for decode, _, _ in KINDS]
every_kind = pytest.mark.parametrize(("decode", "tag", "bodies"), KINDS, ids=[tag for _, tag, _ in KINDS])
every_decoder = pytest.mark.parametrize("decode", DECODERS, ids=[tag for _, tag, _ in KINDS])

SCHEME = get_scheme("ed25519")
KEY = SCHEME.generate()


def sign(body: Body, tag: str) -> bytes:
    signed = encode_body(body)
    return seal(signed, KEY.sign(tagged_hash(tag, signed)))


def is_signed(signed: Signed) -> bool:
    return SCHEME.verify(KEY.public_key, signed.id, signed.signature)


def plain(body: Body) -> list[Any]:
    """The body as a list of its values."""
    values: list[Any] = msgspec.msgpack.decode(encode_body(body))
    return values


@every_kind
@given(data=st.data())
def test_object_comes_back_as_it_was_signed(
    decode: Decode, tag: str, bodies: st.SearchStrategy[Body], data: st.DataObject
) -> None:
    body = data.draw(bodies)
    raw = sign(body, tag)
    signed = decode(raw)
    assert (signed.body, signed.raw) == (body, raw)
    assert signed.id == tagged_hash(tag, encode_body(body))
    assert is_signed(signed)


@every_kind
@given(data=st.data())
def test_changed_byte_is_refused_or_makes_another_id_or_breaks_the_signature(
    decode: Decode, tag: str, bodies: st.SearchStrategy[Body], data: st.DataObject
) -> None:
    raw = sign(data.draw(bodies), tag)
    place, mask = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(1, 255))
    try:
        changed = decode(raw[:place] + bytes([raw[place] ^ mask]) + raw[place + 1 :])
    except MalformedObject:
        return
    assert not is_signed(changed)
    assert changed.id != decode(raw).id or changed.signature != decode(raw).signature


@every_kind
@given(data=st.data())
def test_signed_object_has_no_second_envelope(
    decode: Decode, tag: str, bodies: st.SearchStrategy[Body], data: st.DataObject
) -> None:
    raw = sign(data.draw(bodies), tag)
    signed, signature = split(raw)

    def long_form(value: bytes) -> bytes:
        return b"\xc6" + len(value).to_bytes(4, "big") + value

    for other in (
        b"\x92" + long_form(signed) + long_form(signature),
        b"\xdc\x00\x02" + raw[1:],
        b"\xdd\x00\x00\x00\x02" + raw[1:],
        raw + b"\xc0",
        b"\x93" + raw[1:] + b"\xc0",
        raw[:-1],
        msgspec.msgpack.encode([signed.hex(), signature.hex()]),
        msgspec.msgpack.encode({"signed": signed, "signature": signature}),
    ):
        with pytest.raises(MalformedObject):
            decode(other)


@every_kind
@given(data=st.data())
def test_signed_bytes_have_one_encoding(
    decode: Decode, tag: str, bodies: st.SearchStrategy[Body], data: st.DataObject
) -> None:
    signed = encode_body(data.draw(bodies))
    count = signed[0] & 0x0F
    for other in (
        b"\xdc" + count.to_bytes(2, "big") + signed[1:],
        signed[:1] + b"\xcc\x01" + signed[2:],  # the version as a two-byte integer
        signed[:1] + b"\xd3" + (1).to_bytes(8, "big") + signed[2:],
        signed + b"\x00",
    ):
        with pytest.raises(MalformedObject):
            decode(seal(other, KEY.sign(tagged_hash(tag, other))))


@every_kind
@given(data=st.data())
def test_field_missing_added_or_of_another_type_is_refused(
    decode: Decode, tag: str, bodies: st.SearchStrategy[Body], data: st.DataObject
) -> None:
    values = plain(data.draw(bodies))
    place = data.draw(st.integers(0, len(values) - 1))
    wrong: Any = data.draw(st.sampled_from([None, "text", 1.5, -1, [], {}, True]))
    for other in (values[:-1], [*values, 0], [*values[:place], wrong, *values[place + 1 :]]):
        with pytest.raises(MalformedObject):
            decode(seal(msgspec.msgpack.encode(other), bytes(64)))


@every_kind
@given(data=st.data())
def test_id_of_another_length_is_refused(
    decode: Decode, tag: str, bodies: st.SearchStrategy[Body], data: st.DataObject
) -> None:
    values = plain(data.draw(bodies))
    values[1] = data.draw(st.sampled_from([b"", values[1][:31], values[1] + b"\x00"]))
    with pytest.raises(MalformedObject, match="length"):
        decode(seal(msgspec.msgpack.encode(values), bytes(64)))


@every_kind
@given(data=st.data())
@pytest.mark.parametrize("version", [0, 2, 2**63])
def test_other_version_is_refused(
    decode: Decode, tag: str, bodies: st.SearchStrategy[Body], version: int, data: st.DataObject
) -> None:
    values = plain(data.draw(bodies))
    with pytest.raises(MalformedObject):
        decode(seal(msgspec.msgpack.encode([version, *values[1:]]), bytes(64)))


@given(TRANSACTIONS, st.sampled_from([7, 255, 2**32]))
def test_unknown_kind_of_transaction_is_refused(body: TransactionBody, kind: int) -> None:
    values = plain(body)
    values[2] = kind
    with pytest.raises(MalformedObject):
        decode_transaction(seal(msgspec.msgpack.encode(values), bytes(64)))


@given(HEADERS)
def test_number_that_the_ledger_could_not_store_is_refused(body: HeaderBody) -> None:
    values = plain(body)
    values[2] = 2**63
    with pytest.raises(MalformedObject):
        decode_header(seal(msgspec.msgpack.encode(values), bytes(64)))


@given(HEADERS)
def test_oversized_seed_proof_is_refused(body: HeaderBody) -> None:
    values = plain(body)
    values[11] = bytes(129)
    with pytest.raises(MalformedObject, match="length <= 128"):
        decode_header(seal(msgspec.msgpack.encode(values), bytes(64)))


@every_kind
@given(data=st.data())
def test_oversized_signature_is_refused(
    decode: Decode, tag: str, bodies: st.SearchStrategy[Body], data: st.DataObject
) -> None:
    with pytest.raises(MalformedObject, match="length <= 512"):
        decode(seal(encode_body(data.draw(bodies)), bytes(513)))


@given(st.data())
def test_one_kind_does_not_pass_for_another(data: st.DataObject) -> None:
    for decode, tag, bodies in KINDS:
        raw = sign(data.draw(bodies), tag)
        for other in DECODERS:
            if other is not decode:
                with pytest.raises(MalformedObject):
                    other(raw)


@every_decoder
@given(raw=st.binary(max_size=400))
def test_random_bytes_raise_only_the_typed_error(decode: Decode, raw: bytes) -> None:
    for attempt in (raw, seal(raw, bytes(64)), b"\x92\xc4" + raw, b"\x92\xc6\xff\xff\xff\xff" + raw):
        with pytest.raises(ProtocolError):
            decode(attempt)


@every_decoder
def test_deep_nesting_is_refused(decode: Decode) -> None:
    for attempt in (b"\x91" * 100_000, seal(b"\x91" * 100_000, b""), b"\x92" * 100_000, b"\x81" * 100_000):
        with pytest.raises(MalformedObject):
            decode(attempt)
