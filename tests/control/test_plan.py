"""Planning: run directories, cells, and continuing a run."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import msgspec
import pytest
from microchain.genesis_file import load_genesis

from control.cells import CellRounds
from control.errors import UsageError
from control.genesis import write_genesis
from control.inventory import Deployment, HostKind
from control.live import RunView
from control.plan import main, plan
from control.project import ROOT
from control.rundir import RunDirectory, read_cell
from tests.control.deployment import SPEC, endpoints, make_project, write_spec

SWEEP = SPEC.replace("[4]", "[4, 5]").replace("8K", "[8K, 128K]") + "repeats: 2\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path, 5)


def test_a_sweep_is_the_product_of_its_lists_with_readable_ids(project: Path) -> None:
    run = plan(write_spec(project, SWEEP), "local", root=project)
    assert [cell.id for cell in run.cells()] == [
        "k4-b8K-t1K-r1",
        "k4-b128K-t1K-r1",
        "k5-b8K-t1K-r1",
        "k5-b128K-t1K-r1",
        "k4-b8K-t1K-r2",
        "k4-b128K-t1K-r2",
        "k5-b8K-t1K-r2",
        "k5-b128K-t1K-r2",
    ]


def test_a_cell_settles_every_number(project: Path) -> None:
    run = plan(write_spec(project), "local", root=project)
    (cell,) = run.cells()
    assert cell == read_cell(run.cell(cell.id))
    assert cell.workload == CellRounds(
        rounds=3, warmup=1, transactions=8, transaction_bytes=1024, timeout_s=20, entry="one"
    )
    assert cell.validators == ("validator-1", "validator-2", "validator-3", "validator-4")
    assert (cell.parameters.max_block_bytes, cell.parameters.max_tx_bytes) == (8192, 1024)
    assert (cell.parameters.propose, cell.parameters.signature) == ("release", "ed25519")
    assert cell.lease_s >= cell.planned_s + 900


def test_repeats_have_seeds_of_their_own_and_the_same_ones_each_time(project: Path) -> None:
    first = plan(write_spec(project, SWEEP), "local", root=project).cells()
    second = plan(write_spec(project, SWEEP), "local", project / "again", root=project).cells()
    assert len({cell.seed for cell in first}) == len(first)
    assert [cell.seed for cell in first] == [cell.seed for cell in second]


def test_the_run_directory_holds_what_the_run_ran_with(project: Path) -> None:
    run = plan(write_spec(project), "local", root=project)
    assert re.fullmatch(r"\d{8}-\d{6}-small-[0-9a-f]{6}", run.name)
    assert run.path.parent == project / "runs"
    assert (run.path / "spec.yml").read_text() == SPEC
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["host"]["cores"] >= 1
    assert environment["host"]["memory_bytes"] > 1 << 20
    assert environment["versions"]["aiohttp"]
    inventory = json.loads((run.path / "inventory.json").read_text())
    assert (inventory["name"], len(inventory["validators"])) == ("local", 5)
    assert [p["phase"] for p in map(json.loads, run.progress.read_text().splitlines())] == ["planned"]


def test_the_command_prints_the_run_directory(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.plan.plan", functools.partial(plan, root=project))
    assert main([str(write_spec(project)), "--inventory", "local"]) == 0
    assert RunDirectory(Path(capsys.readouterr().out.strip())).cells()


def test_the_command_reports_a_wrong_file_with_exit_code_2(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write_spec(project, "name: x\n")), "--inventory", "local"]) == 2
    assert "key 'validators' is missing" in capsys.readouterr().err


def test_a_cell_without_enough_validators_is_refused_with_the_arithmetic_and_the_others_run(project: Path) -> None:
    run = plan(write_spec(project, SPEC.replace("[4]", "[4, 20]")), "local", root=project)
    small, large = run.cells()
    assert (small.refused, large.refused) == (
        "",
        "it needs 20 validators and the deployment's boards have 5: 15 are missing",
    )
    assert not (run.cell(small.id) / "outcome.json").exists()
    outcome = json.loads((run.cell(large.id) / "outcome.json").read_text())
    assert (outcome["status"], outcome["refused"], outcome["message"]) == ("failed", True, large.refused)
    progress = [(p["cell"], p["phase"]) for p in map(json.loads, run.progress.read_text().splitlines())]
    assert progress == [(small.id, "planned"), (large.id, "planned"), (large.id, "failed")]
    view = RunView(run.name, run.cells())
    assert view.failures() == [f"{large.id} failed: {large.refused}"] and " 1/2 cells" in view.headline(view.began)


def test_a_refused_cell_is_not_continued(project: Path) -> None:
    spec = write_spec(project, SPEC.replace("[4]", "[4, 20]"))
    run = plan(spec, "local", root=project)
    plan(spec, "local", run.path, root=project)
    continued = [p for p in map(json.loads, run.progress.read_text().splitlines()) if p["message"] == "continued"]
    assert [p["cell"] for p in continued] == ["k4-b8K-t1K-r1"]


def test_without_a_cell_that_can_run_there_is_no_run(project: Path) -> None:
    spec = write_spec(project, SPEC.replace("[4]", "[20, 8]"))
    with pytest.raises(UsageError, match=r"8 validators on boards are asked for.* has 5 deployed.*Deploy 3 more$"):
        plan(spec, "local", root=project)
    assert not (project / "runs").exists()


def with_desktops(project: Path, count: int) -> None:
    """Let the first ``count`` of the validators be a desktop's."""
    deployment = msgspec.json.decode(endpoints(project).read_bytes(), type=Deployment)
    kinds: list[HostKind] = ["desktop" if index < count else "board" for index in range(len(deployment.endpoints))]
    changed = tuple(
        msgspec.structs.replace(endpoint, kind=kind, host=kind)
        for endpoint, kind in zip(deployment.endpoints, kinds, strict=True)
    )
    endpoints(project).write_bytes(msgspec.json.encode(msgspec.structs.replace(deployment, endpoints=changed)))


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [("", (5, 6, 7, 8)), ("boards", (5, 6, 7, 8)), ("desktops", (1, 2, 3, 4)), ("all", (5, 6, 7, 8))],
)
def test_committees_are_taken_from_the_chosen_hosts(tmp_path: Path, hosts: str, expected: tuple[int, ...]) -> None:
    project = make_project(tmp_path, 9)
    with_desktops(project, 4)
    spec = write_spec(project, SPEC + (f"hosts: {hosts}\n" if hosts else ""))
    (cell,) = plan(spec, "local", root=project).cells()
    assert cell.validators == tuple(f"validator-{number}" for number in expected)


def test_all_hosts_are_boards_first_and_then_desktops(tmp_path: Path) -> None:
    project = make_project(tmp_path, 6)
    with_desktops(project, 3)
    (cell,) = plan(write_spec(project, SPEC.replace("[4]", "6") + "hosts: all\n"), "local", root=project).cells()
    assert cell.validators == tuple(f"validator-{number}" for number in (4, 5, 6, 1, 2, 3))


def test_too_few_boards_hint_at_the_desktops(tmp_path: Path) -> None:
    project = make_project(tmp_path, 6)
    with_desktops(project, 4)
    with pytest.raises(UsageError, match=r"on boards.* has 2 deployed.*Deploy 2 more; with 'hosts: all' there are 6"):
        plan(write_spec(project), "local", root=project)


def test_five_boards_run_what_they_can_of_the_chapters_experiments(tmp_path: Path) -> None:
    project = make_project(tmp_path, 10)
    with_desktops(project, 5)
    cells = {
        name: plan(ROOT / "experiments" / f"{name}.yml", "local", project / name, root=project).cells()
        for name in ("committee-latency", "block-throughput")
    }
    assert {cell.id: bool(cell.refused) for cell in cells["committee-latency"]} == {
        f"k{size}-b128K-t{transaction}-r1": size > 5 for size in (4, 8, 12, 16) for transaction in ("1K", "128K")
    }
    assert not any(cell.refused for cell in cells["block-throughput"])
    with pytest.raises(UsageError, match=r"21 validators are asked for at least.* has 10 deployed.*Deploy 11 more$"):
        plan(ROOT / "experiments" / "full-testbed.yml", "local", root=project)


def test_too_few_devices_are_refused(project: Path) -> None:
    with pytest.raises(UsageError, match=r"3 devices are asked for.* has keys for 1"):
        plan(write_spec(project, SPEC + "devices: 3\n"), "local", root=project)


def test_nothing_deployed_says_how_to_deploy(project: Path) -> None:
    endpoints(project).unlink()
    with pytest.raises(UsageError, match=r"nothing is deployed here.*run './testbed deploy' first"):
        plan(write_spec(project), "local", root=project)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"endpoints": 1}', b"[" * 5000])
def test_a_damaged_deployment_file_is_named(project: Path, content: bytes) -> None:
    endpoints(project).write_bytes(content)
    with pytest.raises(UsageError, match=r"endpoints\.json: .*'./testbed deploy' writes it again"):
        plan(write_spec(project), "local", root=project)


@pytest.mark.parametrize("name", ["lokal", "../inventory/local", "", "/"])
def test_an_unknown_inventory_lists_what_there_is(project: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"there is no inventory '.*'; there are: local"):
        plan(write_spec(project), name, root=project)


def test_a_run_is_continued_by_the_same_experiment(project: Path) -> None:
    spec = write_spec(project, SWEEP)
    run = plan(spec, "local", root=project)
    first = run.cells()[0].id
    (run.cell(first) / "sealed").touch()
    before = (run.path / "cells.json").read_bytes()
    spec.write_text("# a comment changes nothing\n" + SWEEP)
    again = plan(spec, "local", run.path, root=project)
    assert (again.path / "cells.json").read_bytes() == before
    continued = [p for p in map(json.loads, run.progress.read_text().splitlines()) if p["message"] == "continued"]
    assert len(continued) == len(run.cells()) - 1
    assert first not in [p["cell"] for p in continued]


def test_a_run_is_not_continued_by_another_experiment(project: Path) -> None:
    run = plan(write_spec(project), "local", root=project)
    changed = write_spec(project, SPEC.replace("rounds: 3", "rounds: 4") + "seed: 9\n")
    with pytest.raises(UsageError, match="is a run of another experiment: workload, seed differ"):
        plan(changed, "local", run.path, root=project)


def test_a_run_is_not_continued_on_another_inventory(project: Path) -> None:
    run = plan(write_spec(project), "local", root=project)
    (project / "inventory" / "pi").mkdir()
    with pytest.raises(UsageError, match="was planned on inventory 'local', not 'pi'"):
        plan(write_spec(project), "pi", run.path, root=project)


def test_a_damaged_run_is_not_continued(project: Path) -> None:
    run = plan(write_spec(project), "local", root=project)
    (run.path / "resolved.json").write_text("{")
    with pytest.raises(UsageError, match="is a damaged run"):
        plan(write_spec(project), "local", run.path, root=project)


def test_a_directory_with_other_files_is_not_taken(project: Path) -> None:
    target = project / "mine"
    target.mkdir()
    (target / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is not empty and no run"):
        plan(write_spec(project), "local", target, root=project)
    assert (target / "thesis.tex").exists()


def test_the_genesis_lists_exactly_the_nodes_of_the_cell(project: Path) -> None:
    run = plan(write_spec(project), "local", root=project)
    (cell,) = run.cells()
    genesis = load_genesis(write_genesis(run.cell(cell.id), endpoints(project)))
    assert [(e.name, e.address) for e in genesis.registry] == [
        *((f"validator-{n}", f"127.0.0.1:{9099 + n}") for n in range(1, 5)),
        ("device-1", ""),
    ]
    assert genesis.parameters == cell.parameters


def test_each_attempt_at_a_cell_is_a_chain_of_its_own_and_keeps_what_was_there(project: Path) -> None:
    run = plan(write_spec(project), "local", root=project)
    directory = run.cell(run.cells()[0].id)
    chains = []
    for attempt in range(3):
        chains.append(load_genesis(write_genesis(directory, endpoints(project))).chain_id())
        (directory / "outcome.json").write_text(str(attempt))
    assert len(set(chains)) == 3
    assert [(directory / "attempts" / str(n) / "outcome.json").read_text() for n in (1, 2)] == ["0", "1"]
    again = plan(write_spec(project), "local", project / "other", root=project)
    assert load_genesis(write_genesis(again.cell(again.cells()[0].id), endpoints(project))).chain_id() not in chains


def test_a_sealed_cell_gets_no_other_attempt(project: Path) -> None:
    run = plan(write_spec(project), "local", root=project)
    directory = run.cell(run.cells()[0].id)
    (directory / "sealed").touch()
    with pytest.raises(UsageError, match="is sealed"):
        write_genesis(directory, endpoints(project))


def test_a_validator_that_is_gone_fails_the_genesis_by_name(project: Path) -> None:
    run = plan(write_spec(project), "local", root=project)
    deployment = msgspec.json.decode(endpoints(project).read_bytes(), type=Deployment)
    endpoints(project).write_bytes(
        msgspec.json.encode(msgspec.structs.replace(deployment, endpoints=deployment.endpoints[1:]))
    )
    with pytest.raises(UsageError, match="needs validator-1, not deployed"):
        write_genesis(run.cell(run.cells()[0].id), endpoints(project))


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_bundle_that_is_missing_or_broken_is_named(project: Path, damage: str) -> None:
    run = plan(write_spec(project), "local", root=project)
    bundle = endpoints(project).parent / "bundles" / "validator-2.json"
    if damage == "missing":
        bundle.unlink()
    else:
        bundle.write_text("{")
    with pytest.raises(UsageError, match=r"validator-2.*run './testbed deploy'"):
        write_genesis(run.cell(run.cells()[0].id), endpoints(project))
