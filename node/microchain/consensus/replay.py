"""Which transactions are final already: compact enough for a board, exact enough for a protocol rule."""

from __future__ import annotations

from array import array
from bisect import bisect_left

from microchain.consensus.types import Digest, Height

__all__ = ["ReplayIndex"]

_BUCKET_HEIGHTS = 64
_MERGE_AT = 128


class _Bucket:
    """Eight bytes of each id: a sorted array, and a small set of the newest, merged when it fills up."""

    __slots__ = ("recent", "sorted")

    def __init__(self) -> None:
        self.sorted = array("Q")
        self.recent: set[int] = set()

    def add(self, prefix: int) -> None:
        self.recent.add(prefix)
        if len(self.recent) >= _MERGE_AT + len(self.sorted) // 8:
            self.sorted = array("Q", sorted([*self.sorted, *self.recent]))
            self.recent.clear()

    def __contains__(self, prefix: int) -> bool:
        if prefix in self.recent:
            return True
        at = bisect_left(self.sorted, prefix)
        return at < len(self.sorted) and self.sorted[at] == prefix


class ReplayIndex:
    """Ids of finalized transactions, kept until no block may contain them any more.

    A transaction counts as a repeat of another if both have the same ``valid_until // 64`` and the first 64 bits of
    their ids agree. All nodes apply the same rule, so it is exact; that two honest transactions meet by accident has a
    probability below 1e-5 for 20 million remembered ids, and the sender's next attempt has another id.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}

    def add(self, id: Digest, valid_until: int) -> None:
        self._buckets.setdefault(valid_until // _BUCKET_HEIGHTS, _Bucket()).add(int.from_bytes(id[:8], "big"))

    def contains(self, id: Digest, valid_until: int) -> bool:
        bucket = self._buckets.get(valid_until // _BUCKET_HEIGHTS)
        return bucket is not None and int.from_bytes(id[:8], "big") in bucket

    def expire(self, height: Height) -> None:
        """Forget what may not be in a block above ``height`` any more."""
        for bucket in [b for b in self._buckets if (b + 1) * _BUCKET_HEIGHTS <= height]:
            del self._buckets[bucket]
