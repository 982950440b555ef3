"""The conductor against small servers: what it measures, and that whatever fails becomes a reason, never a hang."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from microchain.genesis_file import load_genesis

from control.cells import Cell, CellRate
from control.conductor.rate import percentile, run_rate
from control.conductor.run import Outcome, conduct
from control.conductor.session import open_session
from control.conductor.summary import RateSummary, RoundsSummary
from control.conductor.watch import Expectation, FinalityLog
from control.genesis import write_genesis
from control.inventory import read_deployment
from control.plan import plan
from control.project import ROOT
from control.rundir import read_cell
from tests.cluster import TOKEN
from tests.control.deployment import SPEC, endpoints, make_project, write_spec
from tests.control.fake_nodes import FakeChain

RATE = (
    SPEC[: SPEC.index("workload")] + "workload: {kind: rate, rate: 200, duration_s: 0.5, warmup_s: 0.1, drain_s: 5}\n"
)


class Stage:
    """A planned cell on running fake validators."""

    def __init__(self, project: Path, chain: FakeChain, directory: Path) -> None:
        self.project = project
        self.chain = chain
        self.directory = directory

    @property
    def cell(self) -> Cell:
        return read_cell(self.directory)

    def change(self, **workload: Any) -> None:
        """Change the cell's workload."""
        cell = self.cell
        changed = msgspec.structs.replace(cell, workload=msgspec.structs.replace(cell.workload, **workload))
        (self.directory / "cell.json").write_bytes(msgspec.json.encode(changed))

    async def conduct(self, ready_timeout_s: float = 10.0) -> Outcome:
        deployment = read_deployment(endpoints(self.project))
        async with asyncio.timeout(30):
            return await conduct(self.cell, self.directory, deployment, ready_timeout_s=ready_timeout_s)

    def rounds(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / "rounds.jsonl").read_text().splitlines()]

    def phases(self) -> list[str]:
        lines = (self.directory.parent.parent / "progress.jsonl").read_text().splitlines()
        return [json.loads(line)["phase"] for line in lines]

    async def until(self, phase: str) -> None:
        """Wait until the progress has come to a phase."""
        async with asyncio.timeout(30):
            while phase not in self.phases():  # noqa: ASYNC110 - another process may write the file
                await asyncio.sleep(0.02)


@asynccontextmanager
async def make_stage(tmp_path: Path, spec: str = SPEC, **options: Any) -> AsyncIterator[Stage]:
    async with FakeChain(4, **options).running() as chain:
        project = make_project(tmp_path, 4, [node.url for node in chain.nodes])
        run = plan(write_spec(project, spec), "local", root=project)
        directory = run.cell(run.cells()[0].id)
        chain.id = load_genesis(write_genesis(directory, endpoints(project))).chain_id().hex()
        yield Stage(project, chain, directory)


async def test_rounds_fill_one_block_each_and_are_written_down(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        outcome = await stage.conduct()
        assert (outcome.status, outcome.drained, outcome.message) == ("ok", True, "")
        assert outcome.summary == RoundsSummary(measured=3, warmup=1, transactions=32, retries=0)
        rounds = stage.rounds()
        assert [(r["round"], r["warmup"], r["status"]) for r in rounds] == [
            (1, True, "ok"),
            (2, False, "ok"),
            (3, False, "ok"),
            (4, False, "ok"),
        ]
        assert stage.chain.blocks == [8, 8, 8, 8]
        for height, round_ in enumerate(rounds, 1):
            assert round_["bytes"] == 8 * 1024
            assert len(set(round_["transaction_ids"])) == 8
            assert round_["submitted_ns"] < round_["accepted_ns"] < round_["released_ns"] < round_["finalized_ns"]
            assert round_["block"] == f"{height:064x}"
        assert json.loads((stage.directory / "outcome.json").read_text())["status"] == "ok"
        assert stage.phases()[-6:] == ["ready", "warmup", "round", "round", "round", "drained"]


@pytest.mark.parametrize("lack", ["jobs", "deals"])
async def test_the_load_waits_for_what_validators_calculate_and_send_at_the_start(tmp_path: Path, lack: str) -> None:
    async with make_stage(tmp_path) as stage:
        slow = stage.chain.nodes[2]
        setattr(slow, lack, 1)
        task = asyncio.create_task(stage.conduct())
        while slow.statuses_asked < 10:  # noqa: ASYNC110 - the fake only counts
            await asyncio.sleep(0.02)
        assert "ready" not in stage.phases() and not task.done()
        setattr(slow, lack, 0)
        assert (await task).status == "ok"


async def test_a_release_goes_to_all_validators_and_names_the_height_it_is_above(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        await stage.conduct()
        assert stage.chain.releases == [height for height in range(4) for _ in range(4)]


async def test_no_two_transactions_of_a_cell_have_one_nonce(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        await stage.conduct()
        assert len(set(stage.chain.nonces)) == len(stage.chain.nonces) == 32


async def test_the_load_is_spread_evenly_over_all_validators_if_so_asked(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        stage.change(entry="spread")
        await stage.conduct()
        assert [node.submissions for node in stage.chain.nodes] == [[2, 2, 2, 2]] * 4


async def test_the_load_goes_to_one_validator_at_a_time(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        await stage.conduct()
        assert [node.submissions for node in stage.chain.nodes] == [[8]] * 4


async def test_leases_are_extended_to_the_cells_own(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        await stage.conduct()
        assert [node.leases for node in stage.chain.nodes] == [[stage.cell.lease_s]] * 4


async def test_the_client_spool_has_each_transactions_points(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        await stage.conduct()
        text = "".join(path.read_text() for path in sorted((stage.directory / "client").glob("*.lp")))
        for event in ("scheduled", "submitted", "accepted"):
            assert text.count(f"event={event},") == 32 or text.count(f"event={event} ") == 32
        assert "validator=client" in text


async def test_a_busy_validator_is_asked_again(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        stage.chain.nodes[1].busy = 2
        outcome = await stage.conduct()
        assert outcome.status == "ok"
        assert isinstance(outcome.summary, RoundsSummary)
        assert outcome.summary.retries == 2


async def test_a_validator_that_is_never_ready_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        stage.chain.nodes[2].ready = False
        outcome = await stage.conduct(ready_timeout_s=0.3)
        assert outcome.status == "failed"
        assert outcome.message.startswith(
            "4 of 4 validators are not ready after 0.3 s: "
            "validator-1, validator-2, validator-4: is connected to 2 of 3 peers, not to validator-3; validator-3: is"
        )
        assert stage.phases()[-1] == "failed"


async def test_a_validator_that_does_not_answer_is_named(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        await stage.chain.nodes[3].stop()
        outcome = await stage.conduct(ready_timeout_s=0.3)
        assert "1 of 4 validators are not ready" in outcome.message
        assert "; validator-4: no answer" in outcome.message or ": validator-4: no answer" in outcome.message


async def test_a_validator_on_another_chain_is_not_ready(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        stage.chain.id = "ab" * 32
        outcome = await stage.conduct(ready_timeout_s=0.3)
        assert "runs chain abababababababab, not this cell's" in outcome.message


async def test_a_round_that_is_not_accepted_by_all_times_out_and_says_by_whom(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        stage.change(timeout_s=0.4)
        stage.chain.nodes[2].deaf = True
        outcome = await stage.conduct()
        assert outcome.message == (
            "round 1 timed out after 0.4 s of waiting until all had accepted: validator-3 lacks 8"
        )
        (round_,) = stage.rounds()
        assert (round_["status"], round_["accepted_ns"], round_["finalized_ns"]) == ("timeout", None, None)


async def test_a_round_that_is_not_final_on_all_times_out_and_says_where(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        stage.change(timeout_s=0.4)
        stage.chain.nodes[0].stall = True
        outcome = await stage.conduct()
        assert outcome.message.endswith("of waiting until all had finalized: validator-1 lacks 8")
        assert outcome.summary == RoundsSummary()


async def test_a_validator_that_dies_in_a_round_fails_the_cell_at_once(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        stage.chain.nodes[1].die_at_submission = True
        outcome = await stage.conduct()
        assert outcome.status == "failed"
        assert outcome.message.startswith("validator-2 is lost: ")
        assert outcome.seconds < stage.cell.workload.timeout_s  # type: ignore[union-attr]
        assert "error" in outcome.statuses["validator-2"]
        assert outcome.statuses["validator-1"]["ready"]


async def test_refused_transactions_fail_the_cell_with_the_reasons(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        stage.chain.nodes[0].refuse = "unknown_sender"
        stage.change(entry="spread")
        outcome = await stage.conduct()
        assert outcome.message == "round 1: 8 transactions submitted, not accepted were 2 unknown_sender"


async def test_an_event_that_makes_no_sense_fails_the_cell(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        stage.chain.nodes[0].rubbish = True
        outcome = await stage.conduct()
        assert outcome.message.startswith("validator-1 sent an event that makes no sense")


@pytest.mark.parametrize("damage", ["genesis.json", "token", "key"])
async def test_what_the_conductor_needs_and_lacks_is_named(tmp_path: Path, damage: str) -> None:
    async with make_stage(tmp_path) as stage:
        path = {
            "genesis.json": stage.directory / "genesis.json",
            "token": endpoints(stage.project).parent / "token",
            "key": tmp_path / "nowhere" / "signing.pem",
        }[damage]
        if damage == "key":
            text = endpoints(stage.project).read_bytes()
            deployment = msgspec.json.decode(text)
            deployment["devices"][0]["keys"] = str(path.parent)
            endpoints(stage.project).write_bytes(msgspec.json.encode(deployment))
        else:
            path.unlink()
        outcome = await stage.conduct()
        assert outcome.status == "failed"
        assert path.name in outcome.message


async def test_an_interruption_is_an_outcome_too(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        stage.chain.nodes[0].stall = True
        task = asyncio.create_task(stage.conduct())
        await stage.until("ready")
        task.cancel()
        outcome = await task
        assert (outcome.status, outcome.message) == ("failed", "interrupted by the operator")
        assert (stage.directory / "outcome.json").exists()


async def test_an_open_loop_runs_until_it_is_drained(tmp_path: Path) -> None:
    async with make_stage(tmp_path, RATE, pool_is_proposed=True) as stage:
        outcome = await stage.conduct()
        assert outcome.status == "ok", outcome.message
        summary = outcome.summary
        assert isinstance(summary, RateSummary)
        assert (summary.submitted, summary.accepted, summary.finalized) == (120, 120, 120)
        assert summary.finalized_in_window <= 120
        assert summary.all_p50_ms is not None
        assert summary.first_p50_ms is not None
        assert 0 < summary.first_p50_ms <= summary.all_p50_ms
        assert stage.phases()[-2:] == ["draining", "drained"]


async def test_an_open_loop_that_is_not_drained_fails_and_keeps_its_figures(tmp_path: Path) -> None:
    async with make_stage(tmp_path, RATE, pool_is_proposed=True) as stage:
        stage.change(drain_s=0.3)
        stage.chain.nodes[0].stall = True
        outcome = await stage.conduct()
        assert outcome.message.startswith("not drained 0.3 s after the load ended: of 120 accepted transactions 0 are")
        assert isinstance(outcome.summary, RateSummary)
        assert (outcome.summary.accepted, outcome.summary.finalized) == (120, 0)
        assert outcome.summary.all_p50_ms is None


async def test_a_long_load_is_signed_in_segments_and_none_is_missing(tmp_path: Path) -> None:
    async with make_stage(tmp_path, RATE, pool_is_proposed=True) as stage:
        cell, deployment = stage.cell, read_deployment(endpoints(stage.project))
        genesis = load_genesis(stage.directory / "genesis.json")
        assert isinstance(cell.workload, CellRate)
        async with open_session(cell, stage.directory, genesis, deployment, TOKEN) as session, asyncio.timeout(20):
            followers = [asyncio.create_task(session.watch.follow(name)) for name in session.nodes]
            await session.watch.wait_subscribed()
            await run_rate(session, cell.workload, segment_s=0.17)
            session.watch.stop()
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)
        assert isinstance(session.summary, RateSummary)
        assert (session.summary.submitted, session.summary.finalized) == (120, 120)
        assert sum(stage.chain.blocks) == 120


async def test_the_command_ends_with_1_and_the_reason_when_a_cell_fails(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        await stage.chain.nodes[3].stop()
        process = await _spawn(stage, "--ready-timeout", "0.2")
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 1
        assert b"k4-b8K-t1K-r1: failed: 1 of 4 validators are not ready" in errors
        assert (stage.directory / "conductor.log").exists()


async def test_the_command_is_ended_in_order_by_a_signal(tmp_path: Path) -> None:
    async with make_stage(tmp_path) as stage:
        stage.chain.nodes[0].stall = True
        process = await _spawn(stage)
        await stage.until("ready")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 1
        assert json.loads((stage.directory / "outcome.json").read_text())["message"] == "interrupted by the operator"


def test_the_command_refuses_a_directory_that_is_no_cell(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    arguments = ["--cell", str(tmp_path), "--endpoints", str(endpoints(project))]
    command = [sys.executable, "-m", "control.conductor", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=_environment(), check=False)
    assert done.returncode == 2
    assert "is no planned cell" in done.stderr


async def _spawn(stage: Stage, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "control.conductor",
        "--cell",
        str(stage.directory),
        "--endpoints",
        str(endpoints(stage.project)),
        *arguments,
        cwd=ROOT,
        env=_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'node'}"}


def test_an_expectation_is_met_when_every_validator_reported_every_id() -> None:
    expectation = Expectation(["a", "b"], ["1", "2"])
    expectation.report("a", ["1", "2", "9"], 30, "x")
    expectation.report("stranger", ["1", "2"], 99, "y")
    expectation.report("b", ["1"], 10, "x")
    assert expectation.lacking() == "b lacks 1"
    expectation.report("b", ["9"], 99, "z")
    expectation.report("b", ["2"], 20, "x")
    assert expectation.lacking() == ""
    assert (expectation.latest, expectation.blocks) == (30, {"x"})


def test_finality_is_on_the_first_and_on_all_validators() -> None:
    log = FinalityLog(["a", "b"], ["1", "2"])
    log.report("b", ["1"], 50, "")
    log.report("a", ["1", "9"], 40, "")
    log.report("a", ["1"], 70, "")
    assert (log.first[0], log.last[0], log.complete) == (40, 50, 1)
    assert log.is_complete(0)
    assert not log.is_complete(1)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (1.0, 4.0)])
def test_a_percentile_is_a_sample(share: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == expected


def test_no_samples_have_no_percentile() -> None:
    assert percentile([], 0.5) is None
