"""The real ledger in the place of the simulator's own store."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from microchain.consensus.genesis import Committee
from microchain.consensus.interface import BlockRecord, Record, Restored
from microchain.consensus.types import Digest, Height
from microchain.ledger.ledger import Ledger


class LedgerStore:
    """A SQLite ledger that is opened anew at each restart. Power loss takes nothing: SQLite's own commits are real."""

    def __init__(self, path: Path, chain_id: Digest, committee: Committee) -> None:
        self._path, self._chain_id, self._committee = path, chain_id, committee
        self.ledger = self._open()

    def _open(self) -> Ledger:
        return Ledger(self._path, self._chain_id, committee=self._committee)

    def write(self, records: Sequence[Record], *, durable: bool) -> None:
        self.ledger.write(records, durable=durable)

    def restore(self) -> Restored:
        self.ledger.close()
        self.ledger = self._open()
        return self.ledger.restore()

    def blocks_from(self, height: Height, max_bytes: int) -> list[BlockRecord]:
        return self.ledger.blocks_from(height, max_bytes)

    def certificate_for(self, height: Height) -> tuple[bytes, ...] | None:
        return self.ledger.certificate_for(height)

    def lose_power(self, rng: random.Random) -> None:
        pass
