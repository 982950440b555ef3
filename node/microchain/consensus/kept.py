"""The engine's state after a block as the ledger keeps it: what changes with each block, and what seldom does."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from microchain.consensus.branch import BranchState
from microchain.consensus.state import ChainState
from microchain.consensus.types import ProtocolError

__all__ = ["decode_kept", "encode_kept"]

BASE = 4
"""The first fields of a ChainState (rules, registry, snapshot, seats): large, and the same for many blocks."""


class _Kept(Struct, frozen=True, array_like=True):
    branch: BranchState
    moving: list[Any]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Kept)
_base_decoder = msgspec.msgpack.Decoder(list[Any])
_FIELDS = ChainState.__struct_fields__


def encode_kept(branch: BranchState, chain: ChainState) -> tuple[bytes, bytes]:
    """Return (state, base): ``base`` is the same for many blocks, and a ledger keeps it once."""
    moving = [getattr(chain, name) for name in _FIELDS[BASE:]]
    return _encoder.encode(_Kept(branch, moving)), _encode_base(*(getattr(chain, name) for name in _FIELDS[:BASE]))


@lru_cache(maxsize=16)
def _encode_base(*parts: object) -> bytes:
    return _encoder.encode(parts)


def decode_kept(state: bytes, base: bytes) -> tuple[BranchState, ChainState]:
    """Decode what `encode_kept` gave; ProtocolError if it is damaged."""
    try:
        kept = _decoder.decode(state)
        return kept.branch, msgspec.convert([*_base_decoder.decode(base), *kept.moving], ChainState)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"the kept state of a block is damaged: {error}") from None
