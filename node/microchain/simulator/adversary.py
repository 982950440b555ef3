"""The directed adversary: members with two faces, and a network on their side.

Each such member runs two engines with one key, one for each side of a split of the honest members, and so votes for
both branches. It commands the network: it moves honest members from one side to the other when it likes. Below a third
of the weight that must never break safety; from a third on it does, which shows that the checker can see it.
"""

from __future__ import annotations

import random

from microchain.consensus.genesis import Parameters
from microchain.simulator.network import LinkModel
from microchain.simulator.node import DiskModel
from microchain.simulator.scenario import Scenario
from microchain.simulator.world import MILLISECOND, SECOND

__all__ = ["create_directed_scenario"]


def create_directed_scenario(seed: int, members: int, two_faced: int) -> Scenario:
    """Return a schedule in which the last ``two_faced`` of the members have two faces; all weights are equal."""
    rng = random.Random(seed)
    honest = range(members - two_faced)
    heal_at = rng.randint(15, 25) * SECOND
    sides = []
    moment = 0
    while moment < heal_at:
        ones = frozenset(rng.sample(honest, rng.randint(1, len(honest) - 1)))
        sides.append((moment, ones))
        moment += rng.randint(1 * SECOND, 8 * SECOND)
    return Scenario(
        seed=seed,
        parameters=Parameters(
            epoch_blocks=rng.choice((1, 2)),
            slot_timeout_ms=rng.choice((250, 1000)),
            block_interval_ms=200,
            idle_interval_ms=1000,
            proposal=rng.choice(("ranked", "eager")),
            signature="simulated",
        ),
        credits=(100,) * members,
        links=LinkModel(latency=(MILLISECOND // 5, 5 * MILLISECOND)),
        disk=DiskModel(),
        rate=4,
        two_faced=tuple(range(members - two_faced, members)),
        sides=tuple(sides),
        heal_at=heal_at,
    )
