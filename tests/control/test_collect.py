"""Archives from hosts: taken in, refused, and what becomes of the cell."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from control.cells import expand
from control.collect import collect_cell, main
from control.rundir import write_json
from control.spec_reader import load_experiment

_EXPERIMENT = """\
name: small
description: One cell.
validators: 4
block_bytes: 8K
transaction_bytes: 1K
workload: {kind: rounds, rounds: 10, warmup: 1}
"""
_VALIDATORS = tuple(f"validator-{number}" for number in range(1, 5))


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """A cell that the conductor has completed."""
    spec = tmp_path / "small.yml"
    spec.write_text(_EXPERIMENT)
    (planned,) = expand(load_experiment(spec), "run", _VALIDATORS, "rsa-2048")
    directory = tmp_path / "runs" / "run" / "cells" / planned.id
    directory.mkdir(parents=True)
    write_json(directory / "cell.json", planned)
    write_json(directory / "outcome.json", {"cell": planned.id, "status": "ok"})
    return directory


def _pack(cell: Path, files: dict[str, bytes], host: str = "local") -> Path:
    path = cell / "collected" / f"{host}.tar.gz"
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _whole(names: tuple[str, ...] = _VALIDATORS) -> dict[str, bytes]:
    kinds = ("config.toml", "digest.json", "node.log", "spool/000001.lp")
    return {f"{name}/{kind}": kind.encode() for name in names for kind in kinds}


def _outcome(cell: Path) -> dict[str, str]:
    outcome: dict[str, str] = json.loads((cell / "outcome.json").read_bytes())
    return outcome


def test_a_whole_cell_is_sealed(cell: Path) -> None:
    parts = [_pack(cell, _whole(_VALIDATORS[:2]), "one"), _pack(cell, _whole(_VALIDATORS[2:]), "other")]
    assert collect_cell(cell, parts)
    assert (cell / "sealed").exists()
    assert (cell / "nodes" / "validator-4" / "spool" / "000001.lp").read_bytes() == b"spool/000001.lp"
    assert not (cell / "collected").exists()


def test_a_cell_without_one_ledger_stays_open(cell: Path) -> None:
    assert not collect_cell(cell, [_pack(cell, _whole(_VALIDATORS[:3]))])
    assert not (cell / "sealed").exists()
    assert _outcome(cell)["status"] == "failed"
    assert "validator-4" in _outcome(cell)["message"]
    assert (cell / "nodes" / "validator-1" / "digest.json").exists()


def test_what_failed_beside_the_conductor_is_written_down(cell: Path) -> None:
    assert not collect_cell(cell, [_pack(cell, _whole())], "the host burned")
    assert _outcome(cell)["message"] == "the host burned"


def test_the_conductors_own_reason_is_kept(cell: Path) -> None:
    write_json(cell / "outcome.json", {"cell": "x", "status": "failed", "message": "round 3 took too long"})
    assert not collect_cell(cell, [_pack(cell, _whole())], "Conduct it: round 3 took too long, exit code 1")
    assert _outcome(cell)["message"] == "round 3 took too long"


def test_collecting_again_does_not_lose_what_was_collected(cell: Path) -> None:
    collect_cell(cell, [_pack(cell, _whole())], "interrupted")
    collect_cell(cell, [_pack(cell, {})], "interrupted")
    assert (cell / "nodes" / "validator-1" / "digest.json").exists()


@pytest.mark.parametrize(
    "name",
    ["../../escaped", "/etc/escaped", "validator-1/../../escaped", "stranger/digest.json", "validator-1/run.sh",
     "validator-1/spool/../../x", "validator-1/spool/a/b"],
)  # fmt: skip
def test_a_file_that_no_archive_of_ours_has_is_refused(cell: Path, name: str) -> None:
    assert not collect_cell(cell, [_pack(cell, {**_whole(), name: b"x"})])
    assert "which no archive of a cell has" in _outcome(cell)["message"]
    assert not list(cell.parents[3].rglob("escaped"))


def test_a_link_is_refused(cell: Path) -> None:
    path = _pack(cell, {})
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("validator-1/digest.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    assert not collect_cell(cell, [path])
    assert "which no archive of a cell has" in _outcome(cell)["message"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00\x00\x00"])
def test_a_broken_archive_fails_the_cell_and_nothing_else(cell: Path, content: bytes) -> None:
    path = _pack(cell, {})
    path.write_bytes(content)
    assert not collect_cell(cell, [path])
    assert "can't be unpacked" in _outcome(cell)["message"]


def test_without_a_server_nothing_is_said_of_influxdb(cell: Path) -> None:
    _pack(cell, _whole())
    assert main(["--cell", str(cell)]) == 0
    assert not (cell / "influxdb.json").exists()


def test_a_server_that_can_not_be_used_fails_no_cell(cell: Path, tmp_path: Path) -> None:
    _pack(cell, _whole())
    assert main(["--cell", str(cell), "--influxdb", str(tmp_path / "none.json")]) == 0
    assert (cell / "sealed").exists()
    record = json.loads((cell / "influxdb.json").read_bytes())
    assert record["equal"] is False
    assert "none.json" in record["error"]
    last = json.loads((cell.parents[1] / "progress.jsonl").read_text().splitlines()[-1])
    assert (last["phase"], last["cell"]) == ("compared", cell.name)
    assert last["message"].startswith("not compared with InfluxDB: ")


def test_not_even_a_mistake_of_ours_in_the_comparison_fails_a_cell(
    cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("control.influx.reconcile.load_connection", fail)
    _pack(cell, _whole())
    assert main(["--cell", str(cell), "--influxdb", str(tmp_path / "none.json")]) == 0
    assert json.loads((cell / "influxdb.json").read_bytes())["error"].startswith("ZeroDivisionError: by zero")
