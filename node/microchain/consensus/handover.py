"""From one dynasty to the next: the proof that a dynasty's last block, L, is final (protocol, section 7).

The proof, a *hand-over*, is a list of envelopes: the headers of the closing blocks above the finalized checkpoint c ≥ L
up to the target T of the link c → T, then the votes of more than two thirds of the old committee for that link (and,
where T is two epochs above c, for the checkpoint between). Each closing header names L in the place of its root of
transactions, for it has none: so the proof is short, however long the closing lasted, and needs no block but L.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from microchain.consensus.genesis import Committee, Parameters
from microchain.consensus.objects import Header, MalformedObject, Vote, decode_header, decode_vote
from microchain.consensus.tree import epoch_of, is_checkpoint
from microchain.consensus.types import Digest, Dynasty, Height, ProtocolError

__all__ = ["Boundary", "Handover", "check_handover", "decode_handover", "is_handover", "list_votes"]


class Boundary(Struct, frozen=True):
    """L, the last block of ``dynasty``, and who decides about its finality."""

    id: Digest
    height: Height
    dynasty: Dynasty
    committee: Committee


class Handover(Struct, frozen=True):
    """A decoded hand-over; ``boundary`` is the id of the L that it is about."""

    boundary: Digest
    headers: tuple[Header, ...]
    votes: tuple[Vote, ...]


def is_handover(raws: Sequence[bytes]) -> bool:
    """Whether envelopes, of votes otherwise, begin with a header."""
    if not raws:
        return False
    try:
        decode_header(raws[0])
    except MalformedObject:
        return False
    return True


def list_votes(raws: Sequence[bytes]) -> list[Vote]:
    """Return the votes of a block, a certificate or a hand-over; MalformedObject where one is none."""
    return [decode_vote(raw) for raw in raws] if not is_handover(raws) else list(decode_handover(raws).votes)


def decode_handover(raws: Sequence[bytes]) -> Handover:
    """Decode a hand-over; MalformedObject says why it is none."""
    headers: list[Header] = []
    for raw in raws:
        try:
            headers.append(decode_header(raw))
        except MalformedObject:
            break
    if not headers:
        raise MalformedObject("a hand-over without closing headers")
    votes = tuple(decode_vote(raw) for raw in raws[len(headers) :])
    return Handover(Digest(headers[0].body.tx_root), tuple(headers), votes)


def check_handover(
    handover: Handover, boundary: Boundary, chain_id: Digest, parameters: Parameters
) -> tuple[tuple[bytes, bytes, bytes], ...]:
    """Check all but the signatures: ProtocolError, or (key, id, signature) of each vote, still to be verified.

    That more than two thirds vote c → T shows that c is justified, for honest members name no other source. The
    headers show that c is L or a closing block above it, and need no signatures: T's id, that is voted for, fixes them.
    """
    headers, committee = handover.headers, boundary.committee
    _check_headers(headers, boundary, chain_id, parameters)
    source, source_epoch = headers[0].parent, epoch_of(headers[0].height - 1, parameters)
    masks = {header.id: 0 for header in headers if is_checkpoint(header.height, parameters)}
    top = headers[-1]
    items = []
    for vote in handover.votes:
        body, member = vote.body, committee.by_id.get(vote.voter)
        if member is None or body.chain_id != chain_id or body.dynasty != boundary.dynasty:
            raise ProtocolError("a hand-over with a vote by no member of the old committee")
        if vote.target not in masks or masks[vote.target] >> member.index & 1:
            raise ProtocolError("a hand-over with a vote that proves nothing")
        if vote.target == top.id and (vote.source, vote.source_epoch) != (source, source_epoch):
            raise ProtocolError("a hand-over with a vote for another link")
        masks[vote.target] |= 1 << member.index
        items.append((member.signing_key, bytes(vote.id), vote.signature))
    if not masks or not all(committee.is_supermajority(mask) for mask in masks.values()):
        raise ProtocolError("a hand-over without votes of more than two thirds of the weight")
    return tuple(items)


def _check_headers(headers: tuple[Header, ...], boundary: Boundary, chain_id: Digest, parameters: Parameters) -> None:
    first, top = headers[0], headers[-1]
    if not is_checkpoint(first.height - 1, parameters) or not is_checkpoint(top.height, parameters):
        raise ProtocolError("a hand-over that does not reach from a checkpoint to a checkpoint")
    if epoch_of(top.height, parameters) - epoch_of(first.height - 1, parameters) > 2:
        raise ProtocolError("a hand-over whose link is too long")
    if first.height <= boundary.height or (first.height == boundary.height + 1 and first.parent != boundary.id):
        raise ProtocolError("a hand-over whose headers do not stand above the dynasty's last block")
    height, parent = first.height, first.parent
    for header in headers:
        body = header.body
        if (header.height, header.parent) != (height, parent):
            raise ProtocolError("a hand-over whose headers are no chain")
        if body.chain_id != chain_id or body.dynasty != boundary.dynasty or body.tx_root != boundary.id:
            raise ProtocolError("a hand-over with a header that does not close this dynasty")
        height, parent = Height(height + 1), header.id
