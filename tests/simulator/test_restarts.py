"""Schedules of restarts that once broke a rule, as scenarios of their own."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from microchain.consensus.genesis import Parameters
from microchain.consensus.interface import Action, VoteTrace
from microchain.simulator.network import LinkModel
from microchain.simulator.node import DiskModel, SimulatedNode
from microchain.simulator.scenario import Crash, Fault, Partition, PowerLoss, Scenario
from microchain.simulator.simulation import Simulation, run_scenario
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


def _stop_all_when_one_begins_a_dynasty(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Whoever begins dynasty 2 first goes on alone until it has voted there; then it is wiped, and all return.

    The last of the others comes so late that the wiped one has caught up with them before dynasty 1 ends for them too.
    """
    check, lonely, wiped_at, voted = simulation.checker.on_actions, -1, 0, 0

    def watch(node: SimulatedNode, actions: list[Action]) -> None:
        nonlocal lonely, wiped_at, voted
        check(node, actions)
        now = simulation.world.now
        if lonely < 0 and node.engine.status().dynasty == 2:
            lonely = node.index
            for place, other in enumerate(sorted(set(range(4)) - {lonely})):
                until = now + (50 if place == 2 else 40) * SECOND
                simulation._schedule(Crash(at=now, until=until, node=other, power=False))
            wiped = Crash(at=now + 39 * SECOND, until=now + 41 * SECOND, node=lonely, power=True, wipe=True)
            simulation._schedule(wiped)
            wiped_at = wiped.at
        if node.index == lonely and simulation.world.now < wiped_at:
            voted += any(isinstance(a, VoteTrace) and a.event == "sent" for a in actions)

    monkeypatch.setattr(simulation.checker, "on_actions", watch)
    return lambda: voted


@pytest.mark.parametrize("seed", range(6))
def test_a_node_wiped_after_it_alone_began_a_dynasty_does_not_vote_there_again(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = create(seed, 1).scenario
    parameters = msgspec.structs.replace(scenario.parameters, dynasty_epochs=10)
    simulation = Simulation(msgspec.structs.replace(scenario, parameters=parameters, heal_at=70 * SECOND))
    count_votes = _stop_all_when_one_begins_a_dynasty(simulation, monkeypatch)
    report = simulation.run()
    assert report.is_good, report
    assert count_votes() and report.dynasties > 2


def test_who_was_not_drawn_for_the_first_committee_takes_part_in_the_next() -> None:
    """Six of ten never voted in dynasty 1; looking on in dynasty 2 too, they stopped the chain for good."""
    report = run_scenario(33)
    assert "(drawn)" in report.description
    assert report.is_good, report
