"""A member that knows genesis alone catches up across several dynasties, and then takes part."""

from __future__ import annotations

import msgspec
import pytest
from microchain.consensus.interface import Action, VoteTrace
from microchain.simulator.node import SimulatedNode
from microchain.simulator.simulation import Simulation
from microchain.simulator.world import SECOND

from tests.simulator.test_restarts import create


@pytest.mark.parametrize("epoch_blocks", [1, 3])
def test_joining_from_genesis_across_dynasties(epoch_blocks: int) -> None:
    scenario = create(1, epoch_blocks).scenario
    parameters = msgspec.structs.replace(scenario.parameters, dynasty_epochs=10)
    late = (0, 0, 0, 30 * SECOND)
    simulation = Simulation(
        msgspec.structs.replace(scenario, parameters=parameters, late_starts=late, heal_at=50 * SECOND)
    )
    check, met, voted = simulation.checker.on_actions, list[int](), list[int]()

    def watch(node: SimulatedNode, actions: list[Action]) -> None:
        check(node, actions)
        if node.index == 3:
            met[:] = met or [simulation.checker.dynasties]
            if any(isinstance(action, VoteTrace) and action.event == "sent" for action in actions):
                voted.append(node.engine.status().dynasty)

    simulation.checker.on_actions = watch  # type: ignore[method-assign]
    report = simulation.run()
    assert report.is_good, report
    assert met[0] >= 3
    assert voted and voted[0] > met[0]
