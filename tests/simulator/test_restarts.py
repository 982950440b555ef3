"""Schedules of restarts that once broke a rule, as scenarios of their own."""

from __future__ import annotations

import pytest
from microchain.consensus.genesis import Parameters
from microchain.simulator.network import LinkModel
from microchain.simulator.node import DiskModel
from microchain.simulator.scenario import Crash, Fault, PowerLoss, Scenario
from microchain.simulator.simulation import Report, Simulation
from microchain.simulator.world import MILLISECOND, SECOND


def run(seed: int, epoch_blocks: int, *faults: Fault) -> Report:
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
    return Simulation(scenario).run()


@pytest.mark.parametrize("seed", range(8))
def test_a_proposal_whose_ancestors_were_not_stored_is_not_made_twice(seed: int) -> None:
    """Between two checkpoints nobody votes, so only a proposal brings its ancestors to the disk."""
    at = 2 * SECOND + seed * 150 * MILLISECOND
    restarts = tuple(at + 50 * MILLISECOND * (1 + node) for node in range(4))
    report = run(seed, 4, PowerLoss(at=at, until=restarts[-1], restarts=restarts))
    assert report.is_good, report


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pause", [5, 60, 400])
def test_a_wiped_node_that_crashes_again_does_not_vote_twice(seed: int, pause: int) -> None:
    wiped_at, restart = 3 * SECOND + seed * 90 * MILLISECOND, 4 * SECOND
    crash_at = restart + pause * MILLISECOND
    report = run(
        seed,
        1,
        Crash(at=wiped_at, until=restart, node=2, power=True, wipe=True),
        Crash(at=crash_at, until=crash_at + SECOND, node=2, power=False),
    )
    assert report.is_good, report
