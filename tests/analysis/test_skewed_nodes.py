"""Real validators whose clocks are wrong on purpose: corrected times and figures against the truth, which is known.

tests/wrong_clocks.py says how.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from microchain.client.node_client import NodeClient
from microchain.telemetry.line_protocol import split_line

from analysis import Run, load
from analysis.rounds import measure_rounds
from analysis.timeline import Timeline, build_timeline
from tests.analysis.synthetic import write
from tests.cluster import TOKEN, Cluster, make_cluster
from tests.wrong_clocks import Truth, write_hook

VALIDATORS = 4
BLOCKS = 12
PATIENCE_S = 90.0
S = 10**9
WRONG = {"pi-1": (0, 0.0), "pi-2": (86_400 * S, 45.0), "pi-3": (-3 * S, -45.0), "pi-4": (250_000, 20.0)}
"""How far each host's clock is ahead (ns), and its drift (ppm)."""


async def run_cluster(cluster: Cluster, truth: Truth, hook: Path) -> None:
    """Run all validators until a dozen blocks are final on each; then end them in order."""
    for index, host in enumerate(WRONG):
        config = cluster.config_path(index)
        config.write_text(config.read_text().replace('host = "localhost"', f'host = "{host}"'))
    processes = [cluster.spawn(index, environment=truth.environment(host, hook)) for index, host in enumerate(WRONG)]
    for index in range(VALIDATORS):
        await cluster.wait_ready(index, PATIENCE_S)
    for number in range(BLOCKS):
        await submit(cluster, number % VALIDATORS, cluster.transaction(b"%d" % number, size=1024))
        await asyncio.sleep(0.15)
    async with asyncio.timeout(PATIENCE_S):
        for index in range(VALIDATORS):
            await wait_final(cluster, index)
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(20)


async def wait_final(cluster: Cluster, index: int) -> None:
    while True:
        _, status = await cluster.request(index, "GET", "/v1/status")
        if status["finalized_transactions_total"] >= BLOCKS:
            return
        await asyncio.sleep(0.1)


async def submit(cluster: Cluster, index: int, raw: bytes) -> None:
    config = cluster.config(index)
    async with NodeClient(f"https://{config.listen.api}", ca_file=config.node.keys / "ca.crt", token=TOKEN) as client:
        await client.submit_many([raw])


def make_run(root: Path, cluster: Cluster, truth: Truth | None) -> Path:
    """A run directory of what the validators wrote; with ``truth``, all of it on one host whose clock is right."""
    cell = root / "run" / "cells" / "test"
    names = cluster.names
    for name, host in zip(names, WRONG, strict=True):
        target = cell / "nodes" / name / "spool"
        target.mkdir(parents=True)
        for segment in sorted((cluster.root / name / "data" / "spool").iterdir()):
            lines = segment.read_text().splitlines()
            if truth is not None:
                lines = [correct(line, host, truth) for line in lines]
            (target / segment.name).write_text("\n".join(lines) + "\n")
    workload = {"kind": "rounds", "rounds": BLOCKS, "transactions": 1, "transaction_bytes": 1024}
    document = {"id": "test", "run": "test", "validators": names, "parameters": {"max_block_bytes": 1 << 20}}
    write(cell / "cell.json", document | {"workload": workload, "telemetry": {"interval_s": 0.2}})
    blocks = load(root / "run").blocks
    final = blocks[(blocks["event"] == "finalized") & (blocks["transactions"] > 0)].drop_duplicates("id")
    records = [
        f'{{"round":{number},"transaction_ids":[],"bytes":1024,"block":"{id}","status":"ok"}}'
        for number, id in enumerate(final["id"])
    ]
    (cell / "rounds.jsonl").write_text("\n".join(records) + "\n")
    return root / "run"


def correct(line: str, host: str, truth: Truth) -> str:
    series, fields, shown = split_line(line)
    return f"{series.replace(f'host={host},', 'host=one,')} {fields} {truth.right(host, shown)}"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, Run, Run]:
    """The truth, the run as its wrong clocks saw it, and as a right one would have."""
    root = tmp_path_factory.mktemp("skewed")
    hook = write_hook(root / "hook")
    cluster, truth = make_cluster(root / "cluster", VALIDATORS, parameters={"propose": "pool"}), Truth(WRONG)
    try:
        asyncio.run(run_cluster(cluster, truth, hook))
    finally:
        cluster.terminate()
    return truth, load(make_run(root / "wrong", cluster, None)), load(make_run(root / "right", cluster, truth))


def timeline_of(run: Run) -> Timeline:
    return build_timeline(run, run.cells["test"])


def test_every_corrected_time_lies_within_its_bound_of_the_truth(measured: tuple[Truth, Run, Run]) -> None:
    truth, wrong, _ = measured
    timeline = timeline_of(wrong)
    assert set(timeline.hosts.values()) == set(WRONG) and timeline.unreachable == ()
    assert timeline.clocks.contradictions == {}
    points = pd.concat([timeline.transactions, timeline.blocks, timeline.votes])
    assert len(points) > 100
    reference = timeline.clocks.reference
    for host, of_host in points.groupby("host", observed=True):
        right = [truth.right(str(host), int(shown)) for shown in of_host["time"]]
        expected = np.array([truth.shows(reference, moment) - timeline.origin for moment in right], dtype=np.float64)
        error = np.abs(of_host["at"].to_numpy() - expected)
        # 20 µs: two readings of this machine's clocks are never made at once.
        assert (error <= of_host["bound"].to_numpy() + 20_000).all(), (host, error.max())
        assert of_host["bound"].max() < 50e6, "the bounds say something"


def test_figures_are_right_within_their_bounds(measured: tuple[Truth, Run, Run]) -> None:
    _, wrong, right = measured
    corrected, true = measure_rounds(timeline_of(wrong)).frame, measure_rounds(timeline_of(right)).frame
    assert len(true) == len(corrected) > 3
    for phase in ("T_bp", "T_cf"):
        assert (true[f"{phase}_bound"] == 0).all()
        known = true[phase].notna()
        assert known.sum() > 3 and corrected.loc[known, phase].notna().all()
        error = (corrected[phase] - true[phase])[known].abs()
        assert (error <= corrected.loc[known, f"{phase}_bound"] + 0.04).all(), (phase, error.max())


def test_without_correction_they_would_be_off_by_a_day(measured: tuple[Truth, Run, Run]) -> None:
    _, wrong, _ = measured
    raw = wrong.blocks[wrong.blocks["event"] == "finalized"].groupby("id")["time"].agg(lambda t: int(t.max() - t.min()))
    assert raw.max() > 86_000 * S
