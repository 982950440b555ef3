"""What replicas sign: prepares, view changes and new views; a commit is a `Vote` for the link parent → block.

The envelope, id and canonical form are those of every signed object (`microchain.consensus.objects`).
"""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from microchain.consensus.objects import VERSION, Bytes32, MalformedObject, Natural, Vote, VoteBody, split
from microchain.consensus.types import Digest, Height, NodeId
from microchain.crypto.hashing import tagged_hash

__all__ = [
    "MAX_MEMBERS",
    "NEW_VIEW_TAG",
    "PREPARE_TAG",
    "VIEW_CHANGE_TAG",
    "NewViewBody",
    "PrepareBody",
    "Prepared",
    "Statement",
    "ViewChangeBody",
    "commit_body",
    "decode_new_view",
    "decode_prepare",
    "decode_view_change",
    "encode",
]

PREPARE_TAG = "microchain/pbft-prepare"
VIEW_CHANGE_TAG = "microchain/pbft-view-change"
NEW_VIEW_TAG = "microchain/pbft-new-view"
MAX_MEMBERS = 1024

Version = Annotated[int, Meta(ge=VERSION, le=VERSION)]
Raws = Annotated[tuple[Annotated[bytes, Meta(max_length=1024)], ...], Meta(max_length=MAX_MEMBERS)]


class _Body(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    pass


class PrepareBody(_Body, frozen=True):
    """⟨PREPARE, v, n, d, i⟩: this replica accepted block ``block`` at ``height`` in ``view``."""

    version: Version
    chain_id: Bytes32
    view: Natural
    height: Natural
    block: Bytes32
    replica: Bytes32


class Prepared(_Body, frozen=True):
    """A prepared certificate: prepares of a quorum for one block in one view."""

    view: Natural
    block: Bytes32
    prepares: Raws


class ViewChangeBody(_Body, frozen=True):
    """⟨VIEW-CHANGE, v, h, C, P, i⟩: ``finalized`` at ``height`` with its commits C, and what is prepared above it."""

    version: Version
    chain_id: Bytes32
    view: Natural
    height: Natural
    finalized: Bytes32
    commits: Raws
    prepared: Prepared | None
    replica: Bytes32


class NewViewBody(_Body, frozen=True):
    """⟨NEW-VIEW, v, V⟩: view changes of a quorum. What the view begins with follows from them."""

    version: Version
    chain_id: Bytes32
    view: Natural
    view_changes: Annotated[tuple[bytes, ...], Meta(max_length=MAX_MEMBERS)]
    replica: Bytes32


Body = TypeVar("Body", PrepareBody, ViewChangeBody, NewViewBody)


class Statement(Struct, Generic[Body], frozen=True):
    """A decoded statement with its envelope; ``id`` is what was signed."""

    id: Digest
    raw: bytes
    body: Body
    signature: bytes

    @property
    def replica(self) -> NodeId:
        return NodeId(self.body.replica)


_encoder = msgspec.msgpack.Encoder()
_prepare_decoder = msgspec.msgpack.Decoder(PrepareBody)
_view_change_decoder = msgspec.msgpack.Decoder(ViewChangeBody)
_new_view_decoder = msgspec.msgpack.Decoder(NewViewBody)


def encode(body: PrepareBody | ViewChangeBody | NewViewBody) -> tuple[bytes, Digest]:
    """Return (the bytes to seal, the id to sign)."""
    tags = {PrepareBody: PREPARE_TAG, ViewChangeBody: VIEW_CHANGE_TAG, NewViewBody: NEW_VIEW_TAG}
    signed = _encoder.encode(body)
    return signed, tagged_hash(tags[type(body)], signed)


def decode_prepare(raw: bytes) -> Statement[PrepareBody]:
    """Decode an envelope; MalformedObject says why not. Signatures and contents are not checked here."""
    return _decode(_prepare_decoder, PREPARE_TAG, raw)


def decode_view_change(raw: bytes) -> Statement[ViewChangeBody]:
    """As `decode_prepare`."""
    return _decode(_view_change_decoder, VIEW_CHANGE_TAG, raw)


def decode_new_view(raw: bytes) -> Statement[NewViewBody]:
    """As `decode_prepare`."""
    return _decode(_new_view_decoder, NEW_VIEW_TAG, raw)


def _decode(decoder: msgspec.msgpack.Decoder[Body], tag: str, raw: bytes) -> Statement[Body]:
    signed, signature = split(raw)
    try:
        body = decoder.decode(signed)
    except msgspec.MsgspecError as error:
        raise MalformedObject(f"malformed statement: {error}") from None
    if _encoder.encode(body) != signed:
        raise MalformedObject("the signed bytes are not canonically encoded")
    return Statement(tagged_hash(tag, signed), raw, body, signature)


def commit_body(chain_id: bytes, view: int, height: Height, parent: bytes, block: bytes, replica: bytes) -> VoteBody:
    """⟨COMMIT, v, n, d, i⟩ as the vote parent → block, with the view in the place of the dynasty.

    So ledger, interface and light clients know one kind of certificate: votes of a quorum for one link.
    """
    return VoteBody(VERSION, chain_id, view, parent, height - 1, block, height, replica)


def view_of(commit: Vote) -> int:
    """The view of a commit."""
    return commit.body.dynasty
