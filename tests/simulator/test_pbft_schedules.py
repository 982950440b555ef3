"""Schedules of PBFT: no rule is ever broken, and after healing everything goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from microchain.consensus.genesis import Genesis
from microchain.consensus.interface import Record
from microchain.consensus.pbft.core import ReplicaCore
from microchain.simulator.pbft_byzantine import PBFT_BEHAVIOURS
from microchain.simulator.scenario import create_scenario
from microchain.simulator.simulation import Report, Simulation, run_scenario
from microchain.simulator.store import Store

from tests.simulator.ledger_store import LedgerStore

SCHEDULES = 300

pytestmark = pytest.mark.timeout(900)


def _run(seed: int) -> Report:
    return run_scenario(seed, engine="pbft")


@pytest.fixture(scope="module")
def reports() -> Iterator[list[Report]]:
    workers = min(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield list(pool.map(_run, range(SCHEDULES), chunksize=10))


def test_no_schedule_breaks_a_rule_or_stalls(reports: list[Report]) -> None:
    bad = [(report.seed, report.violations, report.stall) for report in reports if not report.is_good]
    assert not bad, bad[:3]


def test_the_schedules_are_worth_it(reports: list[Report]) -> None:
    described = " ".join(report.description for report in reports)
    for word in ("crash", "powerloss", "pause", "partition", "wipe", "late starts", "lossy", *PBFT_BEHAVIOURS):
        assert word in described
    assert sum(report.finalized for report in reports) > 20 * SCHEDULES


@pytest.mark.parametrize(
    "seed",
    [
        3,  # late starts: some had taken part before others knew whether they may
        26,  # a replica that gave up waiting for a view was no longer counted as having reached it
        42,  # a wiped replica took part in a view that it had left before
        45,  # a view change was shown before it was durable
        56,
        82,
        261,  # an expired transaction waited for a block that never comes
    ],
)
def test_what_was_found_once_stays_mended(seed: int) -> None:
    report = _run(seed)
    assert report.is_good, report


def test_the_checker_sees_what_is_sent_before_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    persist = ReplicaCore.persist

    def careless(
        self: ReplicaCore, records: tuple[Record, ...], *, durable: bool, then: Callable[[], None] | None = None
    ) -> None:
        persist(self, records, durable=False, then=then)

    monkeypatch.setattr(ReplicaCore, "persist", careless)
    assert any("durable" in violation for violation in _run(0).violations)


@pytest.mark.parametrize("seed", range(1000, 1004))
def test_the_real_ledger_serves_as_well(seed: int, tmp_path: Path) -> None:
    stores: list[LedgerStore] = []

    def make_store(genesis: Genesis, name: str) -> Store:
        stores.append(LedgerStore(tmp_path / f"{name}.db", genesis.chain_id(), genesis.committee()))
        return stores[-1]

    report = Simulation(create_scenario(seed, 4, "pbft"), make_store=make_store).run()
    assert report.is_good, report
    for store in stores:
        assert store.ledger.verify() == []
        store.ledger.close()
