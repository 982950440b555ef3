"""Four real validator processes under load are killed a hundred times: finality holds, nobody contradicts itself."""

from __future__ import annotations

import asyncio
import itertools
import random
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import pytest
from microchain.consensus.objects import Vote, decode_vote
from microchain.consensus.types import Height, NodeId
from microchain.ledger.ledger import Ledger

from tests.cluster import TOKEN, Cluster, make_cluster

KILLS = 100
VALIDATORS = 4
UNREACHABLE = (aiohttp.ClientError, OSError, asyncio.TimeoutError)


@dataclass
class Witness:
    """What was ever seen of the cluster and may never change."""

    final: dict[int, str] = field(default_factory=dict)
    """Height → id of every block that any node ever called final."""
    votes: dict[tuple[NodeId, int, int], str] = field(default_factory=dict)
    """(voter, dynasty, target epoch) → id of every vote that any node ever stored."""

    def saw_final(self, height: int, id: str) -> None:
        if height > 0:
            assert self.final.setdefault(height, id) == id, f"two finalized blocks at height {height}"

    def saw_vote(self, vote: Vote) -> None:
        key = (vote.voter, vote.body.dynasty, vote.target_epoch)
        assert self.votes.setdefault(key, vote.id.hex()) == vote.id.hex(), f"two votes for epoch {vote.target_epoch}"


class Harness:
    """The cluster, its load, its watchers and its murderer."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.witness = Witness()
        self.processes = [cluster.spawn(index) for index in range(VALIDATORS)]
        self.kills = 0
        self.settled = 0
        self.accepted = 0
        self._context = ssl.create_default_context(cafile=str(cluster.config(0).node.keys / "ca.crt"))

    def url(self, index: int, path: str) -> str:
        return f"https://{self.cluster.config(index).listen.api}{path}"

    def open_ledger(self, index: int) -> Ledger:
        genesis = self.cluster.genesis
        return Ledger(self.cluster.config(index).ledger_path, genesis.chain_id(), read_only=True)

    # --- life and death ---

    def kill(self, victims: list[int]) -> None:
        """Kill validators; check that nobody has a vote of theirs that goes beyond the journals that they leave."""
        for victim in victims:
            self.processes[victim].kill()
            self.processes[victim].wait()
            self.kills += 1
        members = {entry.name: entry.node_id for entry in self.cluster.genesis.registry}
        votes = [vote for index in range(VALIDATORS) for vote in self.read_votes(index)]
        for victim in victims:
            voter = members[self.cluster.names[victim]]
            journal = max((v.target_epoch for v in self.read_votes(victim) if v.voter == voter), default=0)
            sent = max((v.target_epoch for v in votes if v.voter == voter), default=0)
            assert sent <= journal, f"a vote for epoch {sent} was sent, the journal ends at {journal}"

    def read_votes(self, index: int) -> list[Vote]:
        """All recent votes in a validator's ledger, its own and those inside blocks; the witness sees them."""
        if not self.cluster.config(index).ledger_path.exists():
            return []
        ledger = self.open_ledger(index)
        restored = ledger.restore()
        height, id = ledger.finalized()
        ledger.close()
        self.witness.saw_final(height, id.hex())
        raws = [record.raw for record in (*restored.votes, *restored.own_votes)]
        raws += [raw for block in restored.blocks for raw in block.votes]
        votes = [decode_vote(raw) for raw in raws]
        for vote in votes:
            self.witness.saw_vote(vote)
        return votes

    def start(self, index: int) -> None:
        self.processes[index] = self.cluster.spawn(index)

    async def murder(self, rng: random.Random) -> None:
        """Kill one validator after the other; now and then a second before the first is back, or all at once."""
        while self.kills < KILLS:
            chance = rng.random()
            victims = [rng.randrange(VALIDATORS)]
            if chance < 0.2:
                victims = list(range(VALIDATORS))
            elif chance < 0.3:
                victims = rng.sample(range(VALIDATORS), 2)
            self.kill(victims)
            await asyncio.sleep(rng.uniform(0, 0.2))
            for victim in victims:
                self.start(victim)
            if rng.random() < 0.8:
                await self.wait_until_up(victims)
            await asyncio.sleep(rng.uniform(0, 0.6))

    async def wait_until_up(self, indexes: list[int]) -> None:
        for index in indexes:
            await self.cluster.wait_ready(index)

    # --- load and watching ---

    async def load(self) -> None:
        """Offer transactions to one validator after the other, whether it lives or not."""
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
            for number in itertools.count():
                raws = [self.cluster.transaction(b"%d.%d" % (number, i), valid_until=9000) for i in range(10)]
                with suppress(*UNREACHABLE):
                    async with session.post(
                        self.url(number % VALIDATORS, "/v1/transactions"),
                        data=msgspec.msgpack.encode(raws),
                        headers={"Content-Type": "application/msgpack"},
                        ssl=self._context,
                        timeout=aiohttp.ClientTimeout(1),
                    ) as response:
                        if response.status == 200:
                            self.accepted += (await response.json())["accepted"]
                await asyncio.sleep(0.05)

    async def watch(self, index: int) -> None:
        """Note every block that a validator calls final, over all of its lives."""
        async with aiohttp.ClientSession() as session:
            while True:
                with suppress(*UNREACHABLE):
                    async with session.ws_connect(
                        self.url(index, "/v1/events?types=block"), ssl=self._context
                    ) as events:
                        async for message in events:
                            event = message.json()
                            if event.get("event") == "finalized":
                                self.witness.saw_final(event["height"], event["id"])
                await asyncio.sleep(0.05)

    async def finalized_height(self, index: int) -> int:
        _, status = await self.cluster.request(index, "GET", "/v1/status")
        self.witness.saw_final(status["finalized"]["height"], status["finalized"]["id"])
        return int(status["finalized"]["height"])

    async def wait_for_progress(self) -> None:
        """Wait until every validator has finalized blocks beyond all that was final before."""
        self.settled = max(self.witness.final) + 3
        behind = set(range(VALIDATORS))
        async with asyncio.timeout(60):
            while behind:
                await asyncio.sleep(0.2)
                behind = {index for index in behind if await self.finalized_height(index) < self.settled}

    # --- afterwards ---

    def check_ledgers(self) -> None:
        """All ledgers are sound, agree with each other and with all that was seen, and hold no evidence."""
        for index in range(VALIDATORS):
            ledger = self.open_ledger(index)
            assert ledger.verify() == []
            assert ledger.evidence() == []
            height, _ = ledger.finalized()
            for block in (ledger.block_at(Height(h)) for h in range(1, height + 1)):
                assert block is not None
                self.witness.saw_final(block.height, block.id.hex())
                for raw in block.votes:
                    self.witness.saw_vote(decode_vote(raw))
            ledger.close()
            self.read_votes(index)
            assert height >= self.settled, "a validator lost blocks that were final"


@pytest.mark.timeout(600)
async def test_killed_validators_keep_what_is_final_and_never_equivocate(tmp_path: Path) -> None:
    parameters = {"slot_timeout_ms": 500, "block_interval_ms": 50, "idle_interval_ms": 500}
    cluster = make_cluster(tmp_path, VALIDATORS, parameters=parameters)
    harness = Harness(cluster)
    try:
        await harness.wait_until_up(list(range(VALIDATORS)))
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(harness.load())]
            helpers += [group.create_task(harness.watch(index)) for index in range(VALIDATORS)]
            await harness.murder(random.Random(3))
            await harness.wait_until_up(list(range(VALIDATORS)))
            await harness.wait_for_progress()
            for helper in helpers:
                helper.cancel()
        for process in harness.processes:
            process.terminate()
        assert [await asyncio.to_thread(process.wait, 20) for process in harness.processes] == [0] * VALIDATORS
    finally:
        cluster.terminate()
    harness.check_ledgers()
    assert harness.kills >= KILLS
    assert harness.accepted > 0
