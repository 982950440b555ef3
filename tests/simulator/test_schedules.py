"""Hundreds of schedules: no rule is ever broken, and after healing everything goes on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec
import pytest
from microchain.consensus.genesis import Genesis
from microchain.simulator.cli import main, summarize
from microchain.simulator.scenario import create_scenario
from microchain.simulator.simulation import Report, Simulation, run_scenario
from microchain.simulator.store import Store

from tests.simulator.ledger_store import LedgerStore

SCHEDULES = 200

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def reports() -> Iterator[list[Report]]:
    workers = min(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield list(pool.map(run_scenario, range(SCHEDULES), chunksize=10))


def test_no_schedule_breaks_a_rule_or_stalls(reports: list[Report]) -> None:
    bad = [(report.seed, report.violations, report.stall) for report in reports if not report.is_good]
    assert not bad, bad[:3]


def test_the_schedules_are_worth_it(reports: list[Report]) -> None:
    described = " ".join(report.description for report in reports)
    for word in (
        "crash",
        "powerloss",
        "pause",
        "partition",
        "disturbance",
        "wipe",
        "late starts",
        "eager",
        "full",
        "lossy",
        "epoch_blocks 4",
        "(drawn)",
        "partition at the end of dynasty",
        "powerloss at the end of dynasty",
        "crash at the end of dynasty",
    ):
        assert word in described
    for behaviour in ("equivocating-proposer", "equivocating-voter", "withholding", "late", "babbling", "tampering"):
        assert behaviour in described
    assert sum(report.dynasties for report in reports) > 2 * SCHEDULES
    assert sum(report.finalized for report in reports) > 20 * SCHEDULES
    assert sum(report.expired for report in reports) > 0
    assert sum(report.excused for report in reports) > 0
    assert "recovery    p50" in summarize(reports)


@pytest.mark.parametrize("seed", range(1000, 1006))
def test_the_real_ledger_serves_as_well(seed: int, tmp_path: Path) -> None:
    stores: list[LedgerStore] = []

    def make_store(genesis: Genesis, name: str) -> Store:
        stores.append(LedgerStore(tmp_path / f"{name}.db", genesis.chain_id(), genesis.committee()))
        return stores[-1]

    report = Simulation(create_scenario(seed, nodes=4), make_store=make_store).run()
    assert report.is_good, report
    for store in stores:
        assert store.ledger.verify() == []
        store.ledger.close()


def test_the_command_reports_failures_and_how_to_replay_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = run_scenario(0)
    bad = msgspec.structs.replace(good, seed=1, violations=["at 1 s: something"])
    monkeypatch.setattr("microchain.simulator.cli.run_scenario", lambda seed, *rest: bad if seed == 1 else good)
    assert main(["--seeds", "0:3"]) == 1
    told = capsys.readouterr().out
    assert "VIOLATION at 1 s: something" in told
    assert "python -m microchain.simulator --seed 1 --trace" in told
    assert re.search(r"violations +1\n", told)
    assert re.search(r"recovery +p50 \d", told)


@pytest.mark.parametrize("text", ["5:5", "x", "1:y"])
def test_the_command_refuses_a_strange_range(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--seeds", text])
    assert "seed" in capsys.readouterr().err
