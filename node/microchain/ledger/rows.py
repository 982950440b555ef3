"""Records as rows of the ledger's tables, and back."""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, overload

import msgspec
from msgspec import Struct

from microchain.consensus.interface import BlockRecord
from microchain.consensus.types import Digest, Height, TransactionKind

__all__ = [
    "BodyRow",
    "RecentTransactions",
    "check_row",
    "compute_checksum",
    "count_data",
    "decode_block",
    "decode_list",
    "encode_body_row",
    "encode_list",
    "split_ids",
]

ID_BYTES = 32
BLOCK_COLUMNS = (
    "block.checksum, id, block.height, parent, own, slot, transaction_count, size, block.expires, header, "
    "body.checksum, body.state, base, votes, ids, expiries, transactions, "
    "(SELECT state FROM base WHERE base.number = body.base)"
)
"""What `decode_block` takes, of ``block JOIN body USING (number)``."""
_HEAD_COLUMNS = 10

_encoder = msgspec.msgpack.Encoder()
_list_decoder = msgspec.msgpack.Decoder(tuple[bytes, ...])


class _Expiry(Struct, array_like=True):
    """The first fields of a TransactionBody; what follows is skipped, so the payload is never copied."""

    version: msgspec.Raw
    chain_id: msgspec.Raw
    kind: int
    sender: msgspec.Raw
    valid_until: int


class _Envelope(Struct, array_like=True):
    signed: bytes


_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)
_expiry_decoder = msgspec.msgpack.Decoder(_Expiry)


class BodyRow(Struct, frozen=True):
    """The columns of one row of table ``body``; ``expiries`` holds each transaction's valid_until (8 bytes, little)."""

    checksum: int
    state: bytes
    base: int
    votes: bytes
    ids: bytes
    expiries: bytes
    transactions: bytes

    def compute_checksum(self) -> int:
        """CRC-32 over the other columns."""
        checksum = zlib.crc32(self.votes, zlib.crc32(self.state, self.base))
        checksum = zlib.crc32(self.ids, checksum)
        checksum = zlib.crc32(self.expiries, checksum)
        return zlib.crc32(self.transactions, checksum)


def compute_checksum(*values: bytes | str | int | None) -> int:
    """CRC-32 of a row's values."""
    return zlib.crc32(_encoder.encode(values))


def check_row(row: Sequence[Any]) -> Sequence[Any]:
    """Return a row without its checksum, the first column; ValueError if that is not the checksum of the others."""
    if row[0] != compute_checksum(*row[1:]):
        raise ValueError("a row has a wrong checksum")
    return row[1:]


def encode_list(items: Sequence[bytes]) -> bytes:
    """Return byte strings as one msgpack array."""
    return _encoder.encode(items)


def decode_list(data: bytes) -> tuple[bytes, ...]:
    """Undo `encode_list`; msgspec.MsgspecError if ``data`` is something else."""
    return _list_decoder.decode(data)


def get_valid_until(transaction: bytes) -> int:
    """Return a transaction's valid_until; msgspec.MsgspecError if it has none. Checks nothing else."""
    return _expiry_decoder.decode(_envelope_decoder.decode(transaction).signed).valid_until


def count_data(transactions: bytes) -> int:
    """Return how many of a body's transactions clients sent; msgspec.MsgspecError if they are malformed.

    The others are the protocol's own: deals, claims and so on.
    """
    signed = (_envelope_decoder.decode(raw).signed for raw in decode_list(transactions))
    return sum(_expiry_decoder.decode(body).kind == TransactionKind.DATA for body in signed)


def encode_body_row(block: BlockRecord, base: int) -> tuple[BodyRow, int]:
    """Return a body's row and its greatest valid_until; msgspec.MsgspecError if a transaction is malformed.

    ``base`` is the number of its state's base.
    """
    expiries = [get_valid_until(raw) for raw in block.transactions]
    row = BodyRow(
        0,
        block.state,
        base,
        encode_list(block.votes),
        b"".join(block.transaction_ids),
        struct.pack(f"<{len(expiries)}Q", *expiries),
        encode_list(block.transactions),
    )
    return msgspec.structs.replace(row, checksum=row.compute_checksum()), max(expiries, default=0)


def split_ids(ids: bytes) -> tuple[Digest, ...]:
    """Return the transaction ids of a body; ValueError if the length is wrong."""
    if len(ids) % ID_BYTES:
        raise ValueError(f"{len(ids)} bytes of transaction ids, not a multiple of {ID_BYTES}")
    return tuple(Digest(ids[i : i + ID_BYTES]) for i in range(0, len(ids), ID_BYTES))


def decode_block(row: Sequence[Any]) -> BlockRecord:
    """Return the record of a row of BLOCK_COLUMNS; ValueError if it is not as it was written."""
    head, body, base = check_row(row[:_HEAD_COLUMNS]), BodyRow(*row[_HEAD_COLUMNS:-1]), row[-1]
    id, height, parent, own, _, _, _, _, header = head
    if body.compute_checksum() != body.checksum:
        raise ValueError(f"the body of the block at height {height} has a wrong checksum")
    if not isinstance(base, bytes):
        raise ValueError(f"the base of the state of the block at height {height} is missing")
    return BlockRecord(
        Digest(id),
        Height(height),
        Digest(parent),
        header,
        decode_list(body.transactions),
        split_ids(body.ids),
        decode_list(body.votes),
        body.state,
        bool(own),
        base,
    )


class RecentTransactions(Sequence[tuple[Digest, int]]):
    """(id, valid_until) of many transactions, 40 bytes each; the pairs come into being as they are looked at."""

    def __init__(self) -> None:
        self._ids = bytearray()
        self._expiries = array("Q")

    def extend(self, ids: bytes, expiries: bytes, least: int) -> None:
        """Add a block's transactions whose valid_until is at least ``least``."""
        values = array("Q", struct.unpack(f"<{len(ids) // ID_BYTES}Q", expiries))
        if values and min(values) >= least:
            self._ids += ids
            self._expiries += values
            return
        for index, value in enumerate(values):
            if value >= least:
                self._ids += ids[index * ID_BYTES : (index + 1) * ID_BYTES]
                self._expiries.append(value)

    def __len__(self) -> int:
        return len(self._expiries)

    @overload
    def __getitem__(self, index: int) -> tuple[Digest, int]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[Digest, int]]: ...

    def __getitem__(self, index: int | slice) -> tuple[Digest, int] | Sequence[tuple[Digest, int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        valid_until = self._expiries[index]
        start = (index % len(self)) * ID_BYTES
        return Digest(bytes(self._ids[start : start + ID_BYTES])), valid_until

    def __iter__(self) -> Iterator[tuple[Digest, int]]:
        ids = self._ids
        for index, valid_until in enumerate(self._expiries):
            yield Digest(bytes(ids[index * ID_BYTES : (index + 1) * ID_BYTES])), valid_until
