"""What a run's hosts are: gathered on each, written into environment.json, and never believed further than it goes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from microchain.machine import describe_machine

from analysis.documents import Environment
from analysis.hardware import describe_hardware, is_chapter_hardware
from analysis.reference import CHAPTER_BOARD
from control.environment import describe_environment
from control.errors import UsageError
from control.machines import Request, main, record_machines
from control.plan import plan
from control.project import ROOT
from control.rundir import RunDirectory
from tests.control.deployment import SPEC, make_project, write_spec

BOARD = {"cpu": "Cortex-A53", "board": f"{CHAPTER_BOARD} Rev 1.3", "cores": 4, "memory_bytes": 1 << 30}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return plan(write_spec(make_project(tmp_path), SPEC), "local", root=tmp_path)


def hosts_of(run: RunDirectory) -> dict[str, Any]:
    hosts: dict[str, Any] = json.loads((run.path / "environment.json").read_text())["hosts"]
    return hosts


def say(**changes: Any) -> str:
    return json.dumps(BOARD | changes)


def test_a_machine_describes_itself_with_the_standard_library_alone() -> None:
    command = [sys.executable, "-P", "-m", "microchain.machine"]
    done = subprocess.run(command, capture_output=True, check=True, env={"PYTHONPATH": str(ROOT / "node")})
    assert json.loads(done.stdout) == describe_machine() == describe_environment()["host"]


def test_facts_are_read_from_the_system(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: A processor\n",
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
        "run/systemd/container": "systemd-nspawn\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    machine = describe_machine(tmp_path)
    assert machine["cpu"] == "A processor" and machine["board"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert (machine["governor"], machine["emulated"]) == ("ondemand performance", "systemd-nspawn")
    (tmp_path / "run/systemd/container").write_text("docker\n")
    assert describe_machine(tmp_path)["emulated"] == "", "a container that the whole testbed lies in emulates nothing"


def test_hosts_are_written_into_the_run_and_the_analysis_reads_them(run: RunDirectory) -> None:
    assert record_machines(run, Request({"pi02": say(), "pi01": say(governor="ondemand")})) == []
    assert list(hosts_of(run)) == ["pi01", "pi02"]
    environment = msgspec.json.decode((run.path / "environment.json").read_bytes(), type=Environment)
    assert is_chapter_hardware(environment, {"pi01", "pi02"}, "control")
    text = describe_hardware(environment, {"pi01", "pi02"}, "control")
    assert "Raspberry Pi 3 Model B Plus Rev 1.3, 4 cores, 1.0 GiB, governor ondemand (pi01)" in text


@pytest.mark.parametrize(("own", "by_inventory"), [("systemd-nspawn", ()), ("", ("pi01",))])
def test_an_emulated_host_is_never_taken_for_a_board(
    run: RunDirectory, own: str, by_inventory: tuple[str, ...]
) -> None:
    record_machines(run, Request({"pi01": say(emulated=own), "pi02": say()}, by_inventory))
    environment = msgspec.json.decode((run.path / "environment.json").read_bytes(), type=Environment)
    assert not is_chapter_hardware(environment, {"pi01", "pi02"}, "control")
    assert is_chapter_hardware(environment, {"pi02"}, "control")
    assert "1 x emulated on Raspberry Pi 3" in describe_hardware(environment, {"pi01", "pi02"}, "control")


@pytest.mark.parametrize(
    "words", ["", "[]", '{"cores": "four"}', '{"cores": -1}', json.dumps({"cpu": "x" * 300}), "\ud800", "[" * 5000]
)
def test_a_host_that_talks_nonsense_is_named_and_left_out(run: RunDirectory, words: str) -> None:
    assert record_machines(run, Request({"pi01": words, "pi02": say()})) == ["pi01"]
    assert list(hosts_of(run)) == ["pi02"]


def test_a_host_stays_as_it_was_once_there_are_figures_of_it(run: RunDirectory) -> None:
    record_machines(run, Request({"pi01": say()}))
    record_machines(run, Request({"pi01": say(cores=2)}))
    assert hosts_of(run)["pi01"]["cores"] == 2
    (run.cell(run.cells()[0].id) / "sealed").touch()
    record_machines(run, Request({"pi01": say(cores=1), "pi02": say()}))
    assert (hosts_of(run)["pi01"]["cores"], hosts_of(run)["pi02"]["cores"]) == (2, 4)


def test_a_run_whose_environment_is_damaged_is_named(run: RunDirectory) -> None:
    (run.path / "environment.json").write_text("[]")
    with pytest.raises(UsageError, match=r"environment\.json: Expected `object`"):
        record_machines(run, Request({}))


def test_the_command_names_silent_hosts_and_refuses_a_malformed_request(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for request, code in ((b'{"machines": {"pi01": ""}}', 0), (b"[]", 2), (b"\xff", 2)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(request)))
        assert main([str(run.path)]) == code
    output = capsys.readouterr()
    assert output.out == "these hosts did not say what they are: pi01\n"
    assert "the request is malformed" in output.err
