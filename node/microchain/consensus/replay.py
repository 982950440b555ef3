"""Which transactions are final already: compact enough for a board, exact enough for a protocol rule."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import groupby

from microchain.consensus.types import Digest, Height

__all__ = ["ReplayIndex"]

_BUCKET_HEIGHTS = 64
_MERGE_AT = 1024


class ReplayIndex:
    """Ids of finalized transactions, kept until no block may contain them any more.

    A transaction counts as a repeat of another if both have the same ``valid_until // 64`` and the first 64 bits of
    their ids agree. All nodes apply the same rule, so it is exact; that two honest transactions meet by accident has a
    probability below 1e-5 for 20 million remembered ids, and the sender's next attempt has another id.

    Eight bytes of each id stand in a sorted array for each bucket of ``valid_until``. The newest ids of all buckets are
    in one set, merged when it fills up: a set for each bucket would cost a light load ten times the arrays' memory.
    """

    def __init__(self) -> None:
        self._sorted: dict[int, array[int]] = {}
        self._recent: set[int] = set()
        """bucket << 64 | first 64 bits."""
        self._largest = 0
        self._first = 0
        """Buckets below this one are expired."""

    def add(self, id: Digest, valid_until: int) -> None:
        bucket = valid_until // _BUCKET_HEIGHTS
        if bucket < self._first:
            return
        self._recent.add(bucket << 64 | int.from_bytes(id[:8], "big"))
        # In proportion to the largest array, so that each id is moved a bounded number of times.
        if len(self._recent) >= _MERGE_AT + self._largest // 8:
            self._merge()

    def contains(self, id: Digest, valid_until: int) -> bool:
        bucket, prefix = valid_until // _BUCKET_HEIGHTS, int.from_bytes(id[:8], "big")
        if bucket << 64 | prefix in self._recent:
            return True
        ids = self._sorted.get(bucket)
        if ids is None:
            return False
        at = bisect_left(ids, prefix)
        return at < len(ids) and ids[at] == prefix

    def expire(self, height: Height) -> None:
        """Forget what may not be in a block above ``height`` any more."""
        first = height // _BUCKET_HEIGHTS
        if first <= self._first:
            return
        self._first = first
        for bucket in [b for b in self._sorted if b < first]:
            del self._sorted[bucket]
        self._largest = max(map(len, self._sorted.values()), default=0)
        if self._recent and min(self._recent) >> 64 < first:
            self._recent = {key for key in self._recent if key >> 64 >= first}

    def _merge(self) -> None:
        for bucket, keys in groupby(sorted(self._recent), key=lambda key: key >> 64):
            prefixes = (key & 0xFFFFFFFFFFFFFFFF for key in keys)
            ids = self._sorted[bucket] = array("Q", sorted([*self._sorted.get(bucket, ()), *prefixes]))
            self._largest = max(self._largest, len(ids))
        self._recent.clear()
