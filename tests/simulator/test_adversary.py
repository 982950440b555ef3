"""Safety against a directed adversary: it holds below a third of the weight and breaks above; so do weaker rules."""

from __future__ import annotations

import pytest
from microchain.consensus.genesis import Committee
from microchain.simulator.adversary import create_directed_scenario
from microchain.simulator.simulation import Simulation

SEEDS = range(15)


def count_conflicts(members: int, two_faced: int) -> int:
    reports = [Simulation(create_directed_scenario(seed, members, two_faced)).run() for seed in SEEDS]
    return sum(any("is final" in violation for violation in report.violations) for report in reports)


@pytest.mark.parametrize(("members", "two_faced"), [(4, 1), (5, 1), (7, 2)])
def test_below_a_third_no_direction_of_the_network_breaks_safety(members: int, two_faced: int) -> None:
    for seed in SEEDS:
        report = Simulation(create_directed_scenario(seed, members, two_faced)).run()
        assert report.is_good, (seed, report)


def test_two_of_four_break_safety() -> None:
    assert count_conflicts(4, 2) >= 12


def test_a_majority_rule_would_break_with_one_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Committee, "is_supermajority", lambda self, mask: 2 * self.weight_of(mask) > self.total)
    assert count_conflicts(5, 1) >= 3
