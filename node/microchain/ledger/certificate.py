"""Finality certificates of old blocks, found again in the votes that later blocks carry (protocol, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from microchain.consensus.genesis import Committee
from microchain.consensus.handover import is_handover
from microchain.consensus.objects import Vote, decode_vote
from microchain.consensus.types import Digest, Height

__all__ = ["find_certificate"]


class _Link:
    """The votes found for one link source → target."""

    def __init__(self, vote: Vote) -> None:
        self.source, self.target = vote.source, vote.target
        self.source_epoch, self.target_epoch = vote.source_epoch, vote.target_epoch
        self.mask = 0
        self.votes: list[bytes] = []


def find_certificate(
    bodies: Iterable[tuple[bytes, ...]],
    committee: Committee,
    height: Height,
    get_height: Callable[[Digest], Height | None],
) -> tuple[bytes, ...] | None:
    """Return votes that finalize a checkpoint at ``height`` or above, or None if ``bodies`` do not hold them.

    The hand-over of a dynasty's first block is a certificate of all below it.

    ``bodies`` are the votes of finalized blocks in order of height; ``get_height`` maps the ids of finalized blocks. A
    link c → T of more than two thirds of the weight finalizes c if T is the next checkpoint, or the one after it and
    the one between is justified by such a link too (whose votes are part of the certificate then).
    """
    open_links: dict[tuple[Digest, Digest], _Link] = {}
    justifying: dict[int, _Link] = {}
    for votes in bodies:
        if is_handover(votes):
            return votes
        for vote in map(decode_vote, votes):
            member = committee.by_id.get(vote.voter)
            link = open_links.setdefault((vote.source, vote.target), _Link(vote))
            if member is None or link.mask >> member.index & 1:
                continue
            link.mask |= 1 << member.index
            link.votes.append(vote.raw)
            if committee.is_supermajority(link.mask) and get_height(link.target) is not None:
                justifying.setdefault(link.target_epoch, link)
        for link in justifying.values():
            source_height = get_height(link.source)
            if source_height is None or source_height < height:
                continue
            distance = link.target_epoch - link.source_epoch
            middle = justifying.get(link.target_epoch - 1)
            if distance == 1:
                return tuple(link.votes)
            if distance == 2 and middle is not None:
                return tuple(link.votes + middle.votes)
    return None
