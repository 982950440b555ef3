"""Members whose ledger is gone: they contradict nothing that others know of them, and are not silent for ever."""

from __future__ import annotations

import pytest
from microchain.consensus.interface import Action, PeerConnected, PeerDisconnected, Send, VoteTrace
from microchain.consensus.messages import Status, Votes
from microchain.simulator.node import SimulatedNode
from microchain.simulator.scenario import Crash, Partition
from microchain.simulator.simulation import Report, run_scenario
from microchain.simulator.world import MILLISECOND, SECOND

from tests.consensus.harness import Scene
from tests.simulator.test_restarts import create


def _wipe_early(seed: int) -> Report:
    """Wipe a member right after its first vote, while one of the others can't be reached, so that nothing is final."""
    simulation = create(seed, 4)
    check, wiped = simulation.checker.on_actions, list[int]()

    def watch(node: SimulatedNode, actions: list[Action]) -> None:
        check(node, actions)
        now = simulation.world.now
        has_voted = any(isinstance(action, VoteTrace) and action.event == "sent" for action in actions)
        if node.index == 2 and has_voted and not wiped:
            assert len(simulation.checker.chain) == 1
            at = now + (10 + 15 * seed) * MILLISECOND
            wiped.append(at)
            simulation._schedule(Crash(at=at, until=at + SECOND // 2, node=2, power=True, wipe=True))
            pairs = tuple(pair for other in (1, 3) for pair in ((0, other), (other, 0)))
            simulation._schedule(Partition(at=now, until=at + SECOND, pairs=pairs, detection=(0, MILLISECOND)))

    simulation.checker.on_actions = watch  # type: ignore[method-assign]
    report = simulation.run()
    assert wiped
    return report


@pytest.mark.parametrize("seed", range(4))
def test_a_node_wiped_before_anything_was_final_does_not_vote_twice(seed: int) -> None:
    report = _wipe_early(seed)
    assert report.is_good, report


def test_a_member_is_shown_its_vote_before_it_hears_how_far_others_are() -> None:
    scene = Scene()
    first = scene.forge.block(scene.forge.genesis)
    raw = scene.forge.vote(scene.liar, first)
    scene.hear(scene.honest, Votes((raw,)))
    scene.victim.feed(PeerDisconnected(scene.liar))
    scene.victim.actions.clear()
    scene.victim.feed(PeerConnected(scene.liar))
    told = [action.message for action in scene.victim.actions if isinstance(action, Send) and action.peer == scene.liar]
    assert told[0] == Votes((raw,))
    assert isinstance(told[1], Status)


def test_who_hears_of_a_vote_that_its_journal_lacks_only_observes() -> None:
    """A card that was restored from an old copy: the journal is there, and not whole."""
    scene = Scene()
    first = scene.forge.block(scene.forge.genesis)
    second = scene.forge.block(first, (), scene.forge.votes(first)[:2])
    scene.hear(scene.liar, Votes((scene.forge.vote(scene.victim_id, second),)))
    assert scene.victim.engine.status().observing


def test_nobody_makes_an_observer_with_a_forged_vote() -> None:
    scene = Scene()
    first = scene.forge.block(scene.forge.genesis)
    scene.hear(scene.liar, Votes((scene.forge.vote(scene.victim_id, first, signer=scene.liar),)))
    assert not scene.victim.engine.status().observing
    assert scene.accused() == {scene.liar}


@pytest.mark.parametrize(
    "seed",
    [
        1611,  # a member that crashed before its first vote looked on like a wiped one: together they were a third
        1899,  # a wiped member voted once more when it had heard of one other only
        2285,
    ],
)
def test_what_was_found_once_stays_mended(seed: int) -> None:
    report = run_scenario(seed)
    assert report.is_good, report
