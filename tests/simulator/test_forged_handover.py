"""A hand-over whose signatures are wrong changes nobody's dynasty."""

from __future__ import annotations

import msgspec
import pytest
from microchain.consensus.engine import MicrochainEngine
from microchain.consensus.handover import decode_handover
from microchain.consensus.interface import Action, MessageReceived, Misbehaviour, Work, WorkDone
from microchain.consensus.messages import Votes
from microchain.consensus.types import Nanoseconds
from microchain.consensus.work import perform
from microchain.simulator.node import SimulatedNode
from microchain.simulator.simulation import Simulation
from microchain.simulator.world import SECOND

from tests.simulator.test_restarts import create


def _hear(simulation: Simulation, node: SimulatedNode, votes: tuple[bytes, ...]) -> list[Action]:
    now, keyring = Nanoseconds(2**60), simulation._keyrings[node.index]
    peer = next(other.id for other in simulation.network.nodes if other is not node)
    waiting, seen = node.engine.handle(MessageReceived(peer, Votes(votes)), now), list[Action]()
    while waiting:
        action = waiting.pop(0)
        seen.append(action)
        if isinstance(action, Work):
            results = perform(action.jobs, simulation.suite, keyring)
            waiting += node.engine.handle(WorkDone(action.token, results), now)
    return seen


@pytest.mark.parametrize("forged", [True, False])
def test_a_handover_counts_only_with_right_signatures(forged: bool) -> None:
    scenario = create(0, 1).scenario
    parameters = msgspec.structs.replace(scenario.parameters, dynasty_epochs=10)
    simulation = Simulation(msgspec.structs.replace(scenario, parameters=parameters, heal_at=20 * SECOND))
    check, heard = simulation.checker.on_actions, list[tuple[int, bool]]()

    def watch(node: SimulatedNode, actions: list[Action]) -> None:
        check(node, actions)
        if heard or node.engine.status().dynasty != 2:
            return
        assert isinstance(node.engine, MicrochainEngine)
        handover = node.engine._core.certificate
        if forged:
            handover = (*handover[:-1], handover[-1][:-1] + bytes([handover[-1][-1] ^ 1]))
        decode_handover(handover)
        other = next(n for n in simulation.network.nodes if n.engine.status().dynasty == 1)
        seen = _hear(simulation, other, handover)
        heard.append((other.engine.status().dynasty, any(isinstance(action, Misbehaviour) for action in seen)))
        simulation.checker.report("enough")

    simulation.checker.on_actions = watch  # type: ignore[method-assign]
    simulation.run()
    assert heard == [(1, True) if forged else (2, False)]
