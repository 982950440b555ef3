"""The defects of the authors' public prototype, each with a test that this engine does not have it."""

from __future__ import annotations

import msgspec
import pytest
from microchain.consensus.genesis import Parameters
from microchain.consensus.interface import AdmissionCode
from microchain.consensus.messages import CompactBlock, FullBlock, GetTransactions, Transactions, Votes
from microchain.consensus.objects import HeaderBody, decode_header, decode_transaction, seal, split
from microchain.consensus.types import Digest, NodeId
from microchain.simulator.network import LinkModel
from microchain.simulator.node import DiskModel
from microchain.simulator.scenario import Crash, Partition, Scenario
from microchain.simulator.simulation import Simulation
from microchain.simulator.world import SECOND

from tests.consensus.driver import Driver, Town


class Setting:
    """Four validators; one has proposed a block at height 1, another listens."""

    def __init__(self) -> None:
        self.town = Town()
        self.proposer, self.block = self.town.first_block("a", "b")
        self.header = decode_header(self.block.header)
        self.others = [member for member in self.town.members if member != self.proposer]
        self.listener: Driver = self.town.driver(self.others[0])

    def resigned(self, **changes: object) -> FullBlock:
        """The block with a changed header that its proposer has signed."""
        body: HeaderBody = msgspec.structs.replace(self.header.body, **changes)
        return msgspec.structs.replace(self.block, header=self.town.header(body))

    def is_refused(self, block: FullBlock) -> bool:
        """Whether the listener refuses a block and tells on who sent it."""
        self.listener.hear(self.proposer, block)
        refused = not self.listener.blocks("verified") and self.listener.engine.status().head_height == 0
        return refused and bool(self.listener.accusations())

    def votes(self, target: Digest, target_epoch: int, source_epoch: int = 0) -> Votes:
        voters = self.town.members
        return Votes(tuple(self.town.vote(v, target, target_epoch, source_epoch=source_epoch) for v in voters))


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_the_block_itself_is_accepted(setting: Setting) -> None:
    setting.listener.hear(setting.proposer, setting.block)
    assert setting.listener.engine.status().head == setting.header.id
    assert not setting.listener.accusations()


# --- forged block hash accepted ---


def test_a_block_with_other_transactions_than_it_was_signed_for_is_refused(setting: Setting) -> None:
    swapped = (setting.town.transaction("x"), *setting.block.transactions[1:])
    assert setting.is_refused(msgspec.structs.replace(setting.block, transactions=swapped))


def test_a_changed_header_under_the_old_signature_is_refused(setting: Setting) -> None:
    _, signature = split(setting.block.header)
    changed, _ = split(setting.resigned(timestamp=setting.header.body.timestamp + 1).header)
    assert setting.is_refused(msgspec.structs.replace(setting.block, header=seal(changed, signature)))


@pytest.mark.parametrize("root", ["tx_root", "votes_root", "state_root", "committee_root"])
def test_a_wrong_root_is_refused_though_it_is_signed(setting: Setting, root: str) -> None:
    assert setting.is_refused(setting.resigned(**{root: bytes(32)}))


# --- height not checked ---


@pytest.mark.parametrize("height", [0, 2, 7])
def test_a_block_whose_height_does_not_follow_its_parent_is_not_adopted(setting: Setting, height: int) -> None:
    setting.listener.hear(setting.proposer, setting.resigned(height=height))
    assert setting.listener.engine.status().head_height == 0
    assert not setting.listener.blocks("verified")


# --- vote epochs trusted ---


@pytest.mark.parametrize(("target_epoch", "source_epoch"), [(9, 0), (2, 0), (2, 1)])
def test_votes_with_other_epochs_than_their_checkpoints_have_do_not_count(
    setting: Setting, target_epoch: int, source_epoch: int
) -> None:
    setting.listener.hear(setting.proposer, setting.block)
    setting.listener.hear(setting.others[1], setting.votes(setting.header.id, target_epoch, source_epoch))
    assert not setting.listener.blocks("justified")
    setting.listener.hear(setting.others[1], setting.votes(setting.header.id, 1))
    assert setting.listener.blocks("justified")


# --- the hash lottery grindable ---


def test_what_a_proposer_puts_into_its_block_does_not_change_the_next_lottery() -> None:
    town = Town()
    proposer, first = town.first_block("a")
    _, second = town.first_block("a", "b", "c")
    one, other = decode_header(first.header), decode_header(second.header)
    assert one.id != other.id
    assert (one.proposer, one.slot, one.body.seed_proof) == (proposer, other.slot, other.body.seed_proof)


def test_a_seed_proof_that_the_proposer_chose_is_refused(setting: Setting) -> None:
    assert setting.is_refused(setting.resigned(seed_proof=bytes(80)))


def test_a_member_cannot_choose_its_slot(setting: Setting) -> None:
    assert setting.is_refused(setting.resigned(slot=setting.header.slot + 1))


# --- double votes dropped without evidence ---


def test_two_votes_for_one_epoch_leave_evidence(setting: Setting) -> None:
    voter = setting.others[1]
    votes = [setting.town.vote(voter, Digest(bytes([i]) * 32), 1) for i in (1, 2)]
    setting.listener.hear(setting.others[2], Votes((votes[0],)), Votes((votes[1],)))
    (evidence,) = setting.listener.evidence()
    assert (evidence.rule, evidence.offender) == ("double-vote", voter)
    assert {evidence.first, evidence.second} == set(votes)


def test_two_blocks_in_one_slot_leave_evidence(setting: Setting) -> None:
    twin = setting.resigned(timestamp=setting.header.body.timestamp + 1)
    setting.listener.hear(setting.proposer, setting.block, twin)
    (evidence,) = setting.listener.evidence()
    assert (evidence.rule, evidence.offender) == ("double-proposal", setting.proposer)
    assert {evidence.first, evidence.second} == {setting.block.header, twin.header}


# --- early votes never replayed ---


def test_votes_that_come_before_their_block_count_when_it_comes(setting: Setting) -> None:
    setting.listener.hear(setting.others[1], setting.votes(setting.header.id, 1))
    assert not setting.listener.blocks("justified")
    setting.listener.hear(setting.proposer, setting.block)
    assert [trace.id for trace in setting.listener.blocks("justified")] == [setting.header.id]


# --- blocks with unknown transactions rejected for ever ---


def test_a_block_with_unknown_transactions_waits_for_them(setting: Setting) -> None:
    ids = tuple(decode_transaction(raw).id for raw in setting.block.transactions)
    setting.listener.hear(setting.proposer, CompactBlock(setting.block.header, ids, ()))
    assert [request.ids for request in setting.listener.sent(GetTransactions)] == [ids]
    assert setting.listener.engine.status().head_height == 0
    setting.listener.hear(setting.proposer, Transactions(setting.block.transactions[:1]))
    setting.listener.hear(setting.proposer, Transactions(setting.block.transactions[1:]))
    assert setting.listener.engine.status().head == setting.header.id


def test_a_block_whose_transactions_were_refused_once_is_accepted_from_somebody_else(setting: Setting) -> None:
    bad = msgspec.structs.replace(setting.block, transactions=setting.block.transactions[:1])
    setting.listener.hear(setting.others[1], bad)
    assert setting.listener.engine.status().head_height == 0
    setting.listener.hear(setting.others[2], setting.block)
    assert setting.listener.engine.status().head == setting.header.id


# --- no authentication ---


def test_objects_signed_by_the_wrong_node_are_refused(setting: Setting) -> None:
    town, listener, stranger = setting.town, setting.listener, setting.others[1]
    (outcome,) = listener.submit([town.transaction("z", signer=stranger)])
    assert outcome.code is AdmissionCode.BAD_SIGNATURE
    forged = tuple(town.vote(v, setting.header.id, 1, signer=stranger) for v in town.members if v != stranger)
    listener.hear(setting.proposer, setting.block)
    listener.hear(stranger, Votes(forged))
    assert not listener.blocks("justified")
    assert [accusation.peer for accusation in listener.accusations()] == [stranger]


def test_a_block_signed_by_another_than_its_proposer_is_refused(setting: Setting) -> None:
    header = setting.town.header(setting.header.body, signer=setting.others[1])
    assert setting.is_refused(msgspec.structs.replace(setting.block, header=header))


def test_a_block_by_no_member_is_refused(setting: Setting) -> None:
    assert setting.is_refused(setting.resigned(proposer=NodeId(setting.town.device)))


# --- permanent forks; no catch-up ---


def make_scenario(*faults: Partition | Crash) -> Scenario:
    return Scenario(
        seed=1,
        parameters=Parameters(slot_timeout_ms=500, block_interval_ms=100, idle_interval_ms=1000, signature="simulated"),
        credits=(100,) * 4,
        links=LinkModel(),
        disk=DiskModel(),
        rate=5,
        faults=faults,
        heal_at=30 * SECOND,
    )


def test_two_halves_that_forked_become_one_chain_again() -> None:
    pairs = tuple((a, b) for a in range(4) for b in range(4) if (a < 2) != (b < 2))
    simulation = Simulation(make_scenario(Partition(at=5 * SECOND, until=30 * SECOND, pairs=pairs, detection=None)))
    heads: set[Digest] = set()
    simulation.world.at(29 * SECOND, lambda: heads.update(n.engine.status().head for n in simulation.honest))
    report = simulation.run()
    assert len(heads) > 1, "the halves did not fork, so nothing was shown"
    assert report.is_good, report


def test_a_node_that_was_away_catches_up() -> None:
    simulation = Simulation(make_scenario(Crash(at=2 * SECOND, until=30 * SECOND, node=0, power=False)))
    report = simulation.run()
    assert report.is_good, report
    assert report.height > 80
    heights = {node.engine.status().finalized_height for node in simulation.honest}
    assert max(heights) - min(heights) <= 1
