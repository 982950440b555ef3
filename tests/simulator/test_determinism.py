"""One seed, one trace: in one process, in another, and whatever Python's hash seed is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from microchain.simulator.scenario import create_scenario
from microchain.simulator.simulation import Simulation, run_scenario

SEEDS = (3, 17)


def test_scenarios_depend_on_the_seed_only() -> None:
    assert create_scenario(5) == create_scenario(5)
    assert len({create_scenario(seed).describe() for seed in range(40)}) == 40


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    first, second = run_scenario(seed), run_scenario(seed)
    assert (first.trace, first.events, first.recovery_s) == (second.trace, second.events, second.recovery_s)


def test_other_seeds_give_other_traces() -> None:
    assert run_scenario(SEEDS[0]).trace != run_scenario(SEEDS[1]).trace


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_trace_does_not_depend_on_the_process(hash_seed: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "microchain.simulator", "--seed", str(SEEDS[1])]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
    assert f"trace {run_scenario(SEEDS[1]).trace}" in told


def test_narration_changes_nothing() -> None:
    lines: list[str] = []
    simulation = Simulation(create_scenario(SEEDS[0]))
    simulation.world.narrate = lines.append
    assert simulation.run().trace == run_scenario(SEEDS[0]).trace
    assert len(lines) > 100
