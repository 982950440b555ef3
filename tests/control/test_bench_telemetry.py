"""``bench telemetry``: who plays which role, and what the shares are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from microchain.telemetry.spool import spool_segments

from control.bench.silent_node import SilentRecorder
from control.bench.telemetry import ROLES, Role, assign_roles, compute_shares
from tests.cluster import make_cluster


def test_over_three_turns_each_validator_has_every_role_and_each_turn_two_of_each() -> None:
    names = [f"validator-{number}" for number in range(6)]
    turns = [assign_roles(names, turn) for turn in range(3)]
    assert all(Counter(roles.values()) == dict.fromkeys(ROLES, 2) for roles in turns)
    assert all({roles[name] for roles in turns} == set(ROLES) for name in names)


def test_a_share_compares_validators_of_one_turn_only() -> None:
    quiet: dict[Role, list[float]] = {"silent": [0.9, 0.9], "spool": [1.0, 1.0], "streaming": [1.0, 1.25]}
    busy: dict[Role, list[float]] = {"silent": [9.0, 9.0], "spool": [10.0, 10.0], "streaming": [12.0, 12.0]}
    shares = compute_shares([quiet, busy, busy])
    assert shares == {"spool": pytest.approx(0.1), "streaming": pytest.approx(0.25)}


async def test_a_silent_node_takes_part_and_records_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microchain.runtime.node.Recorder", SilentRecorder)
    cluster = make_cluster(tmp_path, 4)
    async with cluster.nodes() as nodes:
        await nodes[0].submit([cluster.transaction(b"heard by nobody")])
        assert nodes[0].status()["telemetry"] == {"points": 0, "dropped": 0}
    assert spool_segments(cluster.config(0).spool_path) == []
