"""A writer is killed at any moment: whatever it acknowledged is there, and it never contradicts itself afterwards."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from microchain.consensus.interface import Restored
from microchain.consensus.objects import decode_vote
from microchain.ledger.ledger import Ledger

from tests.ledger.chain import CHAIN_ID

ROOT = Path(__file__).resolve().parents[2]
LEDGERS = 10
KILLS = 10


class Writers:
    """Starts writers and kills them; see crash_child."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'node'}:{ROOT}"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ledger.crash_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run_and_kill(self, path: Path, seed: int, delay: float) -> list[dict[str, Any]]:
        """Let a writer work until ``delay`` seconds after its first acknowledgement; return all acknowledgements."""
        assert self._process.stdin is not None
        fifo = path.with_name("acknowledgements")
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo)
        self._process.stdin.write(f"{path} {seed} {fifo}\n")
        self._process.stdin.flush()
        child = int(self._read())
        with fifo.open("rb") as stream:
            first = stream.readline()
            time.sleep(delay)
            assert first, "the writer failed before its first acknowledgement"
            os.kill(child, signal.SIGKILL)
            assert self._read() == "ended"
            lines = [first, *stream.read().splitlines()]
        return [json.loads(line) for line in lines if line]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    writers = Writers()
    yield writers
    writers.close()


class Memory:
    """All that was ever acknowledged or seen, and may never change."""

    def __init__(self) -> None:
        self.votes: dict[int, str] = {}
        self.final: dict[int, str] = {}
        self.last_vote = 0

    def check(self, ledger: Ledger, acknowledged: list[dict[str, Any]]) -> None:
        assert ledger.verify() == []
        restored = ledger.restore()
        digest = ledger.digest()
        chain = {height: id for height, id, _, _ in digest["blocks"]}
        ids = {block.id.hex() for block in restored.blocks} | set(chain.values())
        for facts in acknowledged:
            if "vote" in facts:
                assert facts["block"] in ids
                assert self.votes.setdefault(facts["height"], facts["vote"]) == facts["vote"]
            else:
                assert self.final.setdefault(facts["finalized"], facts["id"]) == facts["id"]
        assert {height: chain.get(height) for height in self.final} == self.final
        self.final = chain
        self._check_votes(restored)
        assert all(block.height > len(chain) for block in restored.blocks)

    def _check_votes(self, restored: Restored) -> None:
        for record in restored.votes:
            assert record.own
            assert self.votes.setdefault(record.target_epoch, record.id.hex()) == record.id.hex()
        (last,) = restored.own_votes
        assert last.target_epoch >= max(self.votes)
        assert decode_vote(last.raw).id == last.id
        assert last.target_epoch >= self.last_vote
        self.last_vote = last.target_epoch


def lose_power(path: Path, acknowledged: list[dict[str, Any]], rng: random.Random) -> None:
    """Cut what the log holds after the last durable acknowledgement at a random place."""
    log = path.with_name(path.name + "-wal")
    least = max(facts["log"] for facts in acknowledged if facts["durable"])
    os.truncate(log, rng.randint(least, log.stat().st_size))


@pytest.mark.parametrize("number", range(LEDGERS))
def test_what_was_acknowledged_survives_kill_and_power_loss(writers: Writers, tmp_path: Path, number: int) -> None:
    rng = random.Random(number)
    memory = Memory()
    path = tmp_path / "ledger.db"
    for kill in range(KILLS):
        acknowledged = writers.run_and_kill(path, 100 * number + kill, rng.uniform(0, 0.1))
        if rng.random() < 0.4:
            lose_power(path, acknowledged, rng)
            acknowledged = [facts for facts in acknowledged if facts["durable"]]
        # A reader leaves the log as the crash left it: the next writer has to recover it.
        ledger = Ledger(path, CHAIN_ID, read_only=True)
        memory.check(ledger, acknowledged)
        ledger.close()
    assert len(memory.final) > KILLS
