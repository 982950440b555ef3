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
from control.inventory import Deployment
from control.plan import main, plan
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


def test_too_few_validators_name_the_cells_that_cannot_run(project: Path) -> None:
    spec = write_spec(project, SPEC.replace("[4]", "[4, 20]"))
    with pytest.raises(UsageError, match=r"20 validators are asked for.* has 5 deployed.*: k20-b8K-t1K-r1\. Ask"):
        plan(spec, "local", root=project)
    assert not (project / "runs").exists()


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
