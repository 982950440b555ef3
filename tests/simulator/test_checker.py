"""The checker sees what it is there to see; the engines here are wrong on purpose."""

from __future__ import annotations

import msgspec
import pytest
from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import (
    Action,
    Broadcast,
    Event,
    EvidenceRecord,
    Misbehaviour,
    Persist,
    Persisted,
    Restored,
    TransactionsSubmitted,
)
from microchain.consensus.messages import FullBlock, Message, Votes
from microchain.consensus.objects import HEADER_TAG, VOTE_TAG, HeaderBody, VoteBody, encode_body, seal
from microchain.consensus.types import Nanoseconds, NodeId
from microchain.crypto.hashing import tagged_hash
from microchain.simulator.node import SimulatedNode
from microchain.simulator.scenario import Crash, Scenario, create_scenario
from microchain.simulator.simulation import Report, Simulation
from microchain.simulator.world import SECOND

from tests.simulator.naive_engine import NaiveEngine


def quiet_scenario(seed: int) -> Scenario:
    scenario = create_scenario(seed, nodes=4)
    links = msgspec.structs.replace(scenario.links, latency=(100_000, 2_000_000), reliable=True, tail=0)
    return msgspec.structs.replace(scenario, byzantine={}, faults=(), late_starts=(), links=links, rate=3.0)


def run(scenario: Scenario, engine: type[NaiveEngine] = NaiveEngine) -> Report:
    return Simulation(scenario, make_engine=engine).run()


@pytest.mark.parametrize("seed", range(4))
def test_finds_nothing_wrong_where_nothing_goes_wrong(seed: int) -> None:
    report = run(quiet_scenario(seed))
    assert report.is_good, report
    assert report.finalized == report.acknowledged > 10
    assert report.recovery_s is not None


def test_sees_conflicting_blocks() -> None:
    reports = [run(create_scenario(seed)) for seed in range(10)]
    assert sum(any("is final" in v for v in report.violations) for report in reports) >= 5


class Hasty(NaiveEngine):
    """Sends its block before it is stored."""

    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        actions = super().handle(event, now)
        for token in list(self.untold):
            actions += super().handle(Persisted(token), now)
        return actions


class Crashing(NaiveEngine):
    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        if isinstance(event, TransactionsSubmitted) and event.request > 5:
            raise KeyError("lost")
        return super().handle(event, now)


class Slandering(NaiveEngine):
    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        others = [member for member in self.members if member != self.me]
        return [*super().handle(event, now), Misbehaviour(others[0], "looks suspicious")]


class Inventing(NaiveEngine):
    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        evidence = EvidenceRecord("double-vote", self.members[0], b"", b"")
        return [*super().handle(event, now), Persist(0, (evidence,), False)]


class Forgetful(NaiveEngine):
    """Begins at genesis again after a restart."""

    def __init__(self, genesis: Genesis, identity: NodeId, restored: Restored | None) -> None:
        super().__init__(genesis, identity, None)


class Lossy(NaiveEngine):
    """Acknowledges and drops."""

    def handle(self, event: Event, now: Nanoseconds) -> list[Action]:
        actions = super().handle(event, now)
        if isinstance(event, TransactionsSubmitted) and event.request % 7 == 0:
            self.pool.clear()
            return [action for action in actions if not isinstance(action, Broadcast)]
        return actions


class Silent(NaiveEngine):
    """Never proposes."""

    def _propose(self) -> list[Action]:
        return []


@pytest.mark.parametrize(
    ("engine", "complaint"),
    [
        (Hasty, "before it is durable"),
        (Crashing, "raised KeyError: 'lost'"),
        (Slandering, "accuses validator-"),
        (Inventing, "has evidence (double-vote) against validator-"),
    ],
)
def test_sees_a_wrong_engine(engine: type[NaiveEngine], complaint: str) -> None:
    assert complaint in run(quiet_scenario(1), engine).violations[0]


def test_sees_that_finality_is_forgotten_at_a_restart() -> None:
    crash = Crash(at=5 * SECOND, until=6 * SECOND, node=2, power=False)
    scenario = msgspec.structs.replace(quiet_scenario(2), faults=(crash,))
    assert run(scenario).is_good
    assert "starts at height 0, its ledger has" in run(scenario, Forgetful).violations[0]


def test_sees_transactions_that_vanish() -> None:
    report = run(quiet_scenario(3), Lossy)
    assert "neither finalized nor expired" in report.stall or "new transactions" in report.stall


def test_sees_a_stall() -> None:
    assert "finalized nothing new" in run(quiet_scenario(0), Silent).stall


class Liar:
    """Signs with a member's own key what an honest engine would never sign."""

    def __init__(self) -> None:
        self.simulation = Simulation(quiet_scenario(0), make_engine=NaiveEngine)
        self.node: SimulatedNode = self.simulation.network.nodes[0]
        self.chain_id = self.simulation.genesis.chain_id()
        self.keyring = self.simulation.suite.create_keyring(self.node.name)

    def say(self, message: Message) -> list[str]:
        self.simulation.checker.on_actions(self.node, [Broadcast(message)])
        return [v for v in self.simulation.checker.violations if "durable" not in v]

    def vote(self, source_epoch: int, target_epoch: int, target: bytes) -> Votes:
        body = VoteBody(1, self.chain_id, 1, self.chain_id, source_epoch, target * 32, target_epoch, self.node.id)
        signed = encode_body(body)
        return Votes((seal(signed, self.keyring.sign(tagged_hash(VOTE_TAG, signed))),))

    def block(self, parent: bytes, timestamp: int) -> FullBlock:
        zero = bytes(32)
        roots = (zero, zero, zero, zero)
        body = HeaderBody(1, self.chain_id, 5, 3, parent * 32, 1, *roots, self.node.id, b"", timestamp)
        signed = encode_body(body)
        return FullBlock(seal(signed, self.keyring.sign(tagged_hash(HEADER_TAG, signed))), (), ())


def test_sees_a_double_vote() -> None:
    liar = Liar()
    assert not liar.say(liar.vote(0, 1, b"a"))
    assert not liar.say(liar.vote(0, 1, b"a"))
    assert not liar.say(liar.vote(1, 3, b"b"))
    assert "votes 1 → 3" in liar.say(liar.vote(1, 3, b"c"))[0]


def test_sees_a_surround_vote() -> None:
    liar = Liar()
    assert not liar.say(liar.vote(2, 3, b"a"))
    assert "votes 1 → 4" in liar.say(liar.vote(1, 4, b"b"))[0]


def test_sees_a_double_proposal_but_allows_one_on_another_parent() -> None:
    liar = Liar()
    assert not liar.say(liar.block(b"p", 1))
    assert not liar.say(liar.block(b"p", 1))
    assert not liar.say(liar.block(b"q", 1))
    assert "proposes twice in slot 3" in liar.say(liar.block(b"p", 2))[0]


def test_blames_nobody_for_a_forged_vote() -> None:
    liar = Liar()
    forged = msgspec.structs.replace(liar.vote(0, 1, b"b"))
    signed_by_nobody = seal(msgspec.msgpack.decode(forged.votes[0])[0], bytes(32))
    assert not liar.say(liar.vote(0, 1, b"a"))
    assert not liar.say(Votes((signed_by_nobody,)))
