"""A process that writes its ledger for ever, to be killed: `python -m tests.ledger.crash_child`.

It reads lines ``PATH SEED FIFO`` and forks a writer for each, whose process id it answers; the writer puts one line of
JSON into the FIFO for each acknowledgement. Forking spares the start of an interpreter for each kill.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path

from microchain.consensus.interface import BlockRecord, DiscardRecord, Persist, Record
from microchain.consensus.objects import decode_header
from microchain.consensus.types import Digest, Height
from microchain.ledger.ledger import Ledger, LedgerError
from microchain.ledger.writer import LedgerWriter

from tests.ledger.chain import CHAIN_ID, finalize, make_block, make_evidence, make_link, make_transaction, make_vote

IN_FLIGHT = 4


class Writer:
    """Extends the chain by one block an epoch: block and own vote durably, finality of the parent not."""

    def __init__(self, path: Path, seed: int, acknowledge: int) -> None:
        self._ledger = Ledger(path, CHAIN_ID)
        self._log = path.with_name(path.name + "-wal")
        self._rng = random.Random(seed)
        self._acknowledge = acknowledge
        self._token = 0
        self._waiting: dict[int, dict[str, object]] = {}

    async def run(self) -> None:
        def fail(error: LedgerError) -> None:
            sys.stderr.write(f"{error}\n")
            os._exit(3)

        writer = LedgerWriter(self._ledger, asyncio.get_running_loop(), fail)
        room = asyncio.Semaphore(IN_FLIGHT)

        def submit(records: list[Record], durable: bool, **facts: object) -> None:
            self._token += 1
            self._waiting[self._token] = {"durable": durable, **facts}
            writer.submit(Persist(self._token, tuple(records), durable), done)

        def done(token: int) -> None:
            facts = {**self._waiting.pop(token), "log": self._log.stat().st_size}
            os.write(self._acknowledge, json.dumps(facts).encode() + b"\n")
            room.release()

        grandparent, parent = self._get_tips()
        while True:
            block, rival, records = self._extend(grandparent, parent)
            vote = make_vote(0, *_get_link(parent), block.id, block.height, own=True)
            await room.acquire()
            submit(
                [*records, vote],
                True,
                height=block.height,
                block=block.id.hex(),
                vote=vote.id.hex(),
            )
            if parent is not None:
                await room.acquire()
                dead = [DiscardRecord((rival.id,))] if rival else []
                submit([finalize([parent], block), *dead], False, finalized=parent.height, id=parent.id.hex())
            grandparent, parent = parent, block

    def _extend(
        self, grandparent: BlockRecord | None, parent: BlockRecord | None
    ) -> tuple[BlockRecord, BlockRecord | None, list[Record]]:
        height = parent.height + 1 if parent else 1
        count = self._rng.choice((0, 1, 3, 40))
        raws = [make_transaction(height * 1000 + i, valid_until=height + 9, payload_bytes=1000) for i in range(count)]
        block = make_block(parent, raws, votes=make_link(grandparent, parent) if parent else (), own=height % 2 == 0)
        rival = make_block(parent, slot=5) if self._rng.random() < 0.3 else None
        records: list[Record] = [block, *([rival] if rival else ())]
        if self._rng.random() < 0.05:
            records.append(make_evidence(height))
        return block, rival, records

    def _get_tips(self) -> tuple[BlockRecord | None, BlockRecord | None]:
        """Return the last two blocks of what was stored; finality that was lost in the crash follows at once."""
        restored = self._ledger.restore()
        final = self._ledger.block_at(self._ledger.finalized()[0])
        below = self._ledger.block_at(Height(final.height - 1)) if final else None
        chain = [below, final]
        for block in restored.blocks:
            header = decode_header(block.header)
            if header.slot == 0 and block.parent == (chain[-1].id if chain[-1] else CHAIN_ID):
                chain.append(block)
        behind = [block for block in chain[2:-1] if block]
        if behind:
            self._ledger.write([finalize(behind, chain[-1])], durable=False)
        return chain[-2], chain[-1]


def _get_link(parent: BlockRecord | None) -> tuple[Digest, int]:
    return (parent.id, parent.height) if parent else (CHAIN_ID, 0)


def main() -> None:
    for line in sys.stdin:
        path, seed, fifo = line.split()
        child = os.fork()
        if child == 0:
            asyncio.run(Writer(Path(path), int(seed), os.open(fifo, os.O_WRONLY)).run())
        print(child, flush=True)
        os.waitpid(child, 0)
        print("ended", flush=True)


if __name__ == "__main__":
    main()
