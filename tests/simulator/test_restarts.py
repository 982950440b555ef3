"""Schedules of restarts that once broke a rule, as scenarios of their own."""

from __future__ import annotations

import pytest
from microchain.consensus.genesis import Parameters
from microchain.consensus.interface import Action, VoteTrace
from microchain.simulator.network import LinkModel
from microchain.simulator.node import DiskModel, SimulatedNode
from microchain.simulator.scenario import Crash, Fault, Partition, PowerLoss, Scenario
from microchain.simulator.simulation import Simulation
from microchain.simulator.world import MILLISECOND, SECOND


def create(seed: int, epoch_blocks: int, *faults: Fault) -> Simulation:
    scenario = Scenario(
        seed=seed,
        parameters=Parameters(
            epoch_blocks=epoch_blocks,
            slot_timeout_ms=300,
            block_interval_ms=100,
            idle_interval_ms=500,
            signature="simulated",
        ),
        credits=(100,) * 4,
        links=LinkModel(latency=(MILLISECOND, 5 * MILLISECOND)),
        disk=DiskModel(),
        rate=5,
        faults=faults,
        heal_at=8 * SECOND,
    )
    return Simulation(scenario)


@pytest.mark.parametrize("seed", range(8))
def test_a_proposal_whose_ancestors_were_not_stored_is_not_made_twice(seed: int) -> None:
    """Between two checkpoints nobody votes, so only a proposal brings its ancestors to the disk."""
    at = 2 * SECOND + seed * 150 * MILLISECOND
    restarts = tuple(at + 50 * MILLISECOND * (1 + node) for node in range(4))
    report = create(seed, 4, PowerLoss(at=at, until=restarts[-1], restarts=restarts)).run()
    assert report.is_good, report


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pause", [5, 60, 400])
def test_a_wiped_node_that_crashes_again_only_observes(seed: int, pause: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wiped_at, restart = 3 * SECOND + seed * 90 * MILLISECOND, 4 * SECOND
    crash_at = restart + pause * MILLISECOND
    # It meets one peer alone at first, whose word is not enough to be silenced by.
    pairs = tuple(pair for other in (0, 1) for pair in ((2, other), (other, 2)))
    simulation = create(
        seed,
        1,
        Crash(at=wiped_at, until=restart, node=2, power=True, wipe=True),
        Crash(at=crash_at, until=crash_at + SECOND, node=2, power=False),
        Partition(at=restart, until=restart + 3 * SECOND, pairs=pairs, detection=(0, MILLISECOND)),
    )
    votes: list[VoteTrace] = []
    check = simulation.checker.on_actions

    def watch(node: SimulatedNode, actions: list[Action]) -> None:
        check(node, actions)
        if node.index == 2 and simulation.world.now > wiped_at:
            votes.extend(a for a in actions if isinstance(a, VoteTrace) and a.event == "sent")

    monkeypatch.setattr(simulation.checker, "on_actions", watch)
    report = simulation.run()
    assert report.is_good, report
    assert not votes
