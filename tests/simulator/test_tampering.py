"""A member that deals and reveals falsely: found, punished, and no dynasty is late for it."""

from __future__ import annotations

import msgspec
import pytest
from microchain.consensus.interface import Action, EvidenceRecord, Persist
from microchain.simulator.behaviours import TAMPERING
from microchain.simulator.node import SimulatedNode
from microchain.simulator.simulation import Simulation
from microchain.simulator.world import SECOND

from tests.simulator.test_restarts import create


def _run(seed: int) -> tuple[Simulation, list[EvidenceRecord]]:
    scenario = create(seed, 1).scenario
    parameters = msgspec.structs.replace(scenario.parameters, dynasty_epochs=20)
    simulation = Simulation(
        msgspec.structs.replace(
            scenario, parameters=parameters, byzantine={1: (TAMPERING,)}, credits=(100,) * 5, heal_at=20 * SECOND
        )
    )
    found: list[EvidenceRecord] = []
    check = simulation.checker.on_actions

    def watch(node: SimulatedNode, actions: list[Action]) -> None:
        check(node, actions)
        if node.is_honest:
            records = [record for action in actions if isinstance(action, Persist) for record in action.records]
            found.extend(record for record in records if isinstance(record, EvidenceRecord))

    simulation.checker.on_actions = watch  # type: ignore[method-assign]
    report = simulation.run()
    assert report.is_good, report
    assert report.dynasties > 2
    return simulation, found


@pytest.mark.parametrize("seed", range(3))
def test_a_false_reveal_is_punished(seed: int) -> None:
    simulation, found = _run(seed)
    assert found and {record.rule for record in found} == {"false-reveal"}
    state = simulation.checker._final_state()
    assert state is not None
    liar = simulation.network.nodes[1].id
    assert {slash.offender for slash in state.slashes} == {liar}
