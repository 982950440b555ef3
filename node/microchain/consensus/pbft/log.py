"""The message log: verified prepares and commits above the last final block, bounded for each member."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from microchain.consensus.types import Digest, Height, NodeId

__all__ = ["Entry", "Log"]

MAX_VIEWS = 3


class Entry(Struct, frozen=True):
    """One member's word for a block."""

    signer: NodeId
    height: Height
    view: int
    block: Digest
    raw: bytes


class Log:
    """One kind of statement. For each member and height its newest few views; the first word in a view counts."""

    def __init__(self) -> None:
        self._entries: dict[Height, dict[NodeId, dict[int, Entry]]] = {}

    def get(self, signer: NodeId, height: Height, view: int) -> Entry | None:
        return self._entries.get(height, {}).get(signer, {}).get(view)

    def has(self, entry: Entry) -> bool:
        """Whether this member said just that."""
        known = self.get(entry.signer, entry.height, entry.view)
        return known is not None and known.block == entry.block

    def add(self, entry: Entry) -> bool:
        """Take a verified statement; return whether it is kept and new."""
        views = self._entries.setdefault(entry.height, {}).setdefault(entry.signer, {})
        if entry.view in views:
            return False
        views[entry.view] = entry
        if len(views) > MAX_VIEWS:
            del views[min(views)]
        return entry.view in views

    def at(self, height: Height) -> dict[tuple[int, Digest], list[Entry]]:
        """Return the statements at a height by (view, block)."""
        found: dict[tuple[int, Digest], list[Entry]] = {}
        for entry in self._at(height):
            found.setdefault((entry.view, entry.block), []).append(entry)
        return found

    def for_block(self, height: Height, view: int, block: Digest) -> list[Entry]:
        """Return the statements for one block in one view."""
        return [entry for entry in self._at(height) if (entry.view, entry.block) == (view, block)]

    def _at(self, height: Height) -> Iterator[Entry]:
        for views in self._entries.get(height, {}).values():
            yield from views.values()

    def prune(self, height: Height) -> None:
        """Drop what is at or below the final height."""
        self._entries = {h: entries for h, entries in self._entries.items() if h > height}
