"""``down`` leaves nothing, whatever happened to ``up``."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.settings import ROOT
from tests.emulator.footprint import Footprint, look, members
from tests.emulator.testbed import EMULATION, Testbed, make_testbed

pytestmark = EMULATION

NOTHING = Footprint(*[frozenset()] * 7)


@pytest.fixture(scope="module")
def boot_s(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long a boot of two takes here and now."""
    made = make_testbed(tmp_path_factory.mktemp("measured"))
    began = time.monotonic()
    made.run("up", "-n", "2", "--disk", "256M")
    taken = time.monotonic() - began
    made.run("down")
    return taken


@pytest.fixture
def testbed(tmp_path: Path) -> Iterator[Testbed]:
    made = make_testbed(tmp_path / "a place")  # a space in the path, which lists of mounts and options may trip over
    yield made
    made.try_run("down")  # of a test that failed


def test_down_removes_all_that_up_made(testbed: Testbed) -> None:
    testbed.run("up", "-n", "2", "--disk", "256M")
    testbed.try_run("link", "all", "--delay", "1ms")
    master = testbed.ssh("10.77.77.11", "true", "-f", "-N", "-M", "-S", str(testbed.settings.directory / "ssh"))
    assert master.returncode == 0
    there, seen = look(testbed.settings), members(testbed.settings)
    # All of these are looked for, so all of them have to be seen while they are there.
    assert there.processes and there.mounts and there.namespaces and there.cgroups and there.loops and there.files
    assert len(seen) >= 15
    testbed.run("down")
    (testbed.settings.directory / "ssh").unlink(missing_ok=True)
    assert look(testbed.settings, seen) == NOTHING
    assert testbed.run("down") == "nothing was up\n"


@pytest.mark.parametrize("number", range(6))
def test_down_removes_what_a_killed_up_left(testbed: Testbed, boot_s: float, number: int) -> None:
    pause = random.uniform(number, number + 1) * boot_s / 6
    process = testbed.start("up", "-n", "2", "--disk", "256M")
    time.sleep(pause)
    seen = members(testbed.settings)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    seen |= members(testbed.settings)
    testbed.run("down")
    assert look(testbed.settings, seen) == NOTHING, f"killed after {pause:.2f} s"


def test_a_killed_down_is_finished_by_the_next(testbed: Testbed, boot_s: float) -> None:
    testbed.run("up", "-n", "2", "--disk", "256M")
    seen = members(testbed.settings)
    for _ in range(3):
        process = testbed.start("down")
        time.sleep(random.uniform(0.2, 0.6) * boot_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    testbed.run("down")
    assert look(testbed.settings, seen) == NOTHING


def test_an_interrupted_up_takes_all_back_itself(testbed: Testbed, boot_s: float) -> None:
    process = testbed.start("up", "-n", "2", "--disk", "256M")
    while not members(testbed.settings) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.2 * boot_s)  # well before they are up
    seen = members(testbed.settings)
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0]
    assert process.returncode == 130, output
    assert look(testbed.settings, seen) == NOTHING


def test_up_clears_away_what_a_killed_one_left_and_goes_on(testbed: Testbed) -> None:
    process = testbed.start("up", "-n", "2")
    while not members(testbed.settings) and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    try:
        output = testbed.run("up", "-n", "1")
        assert "clearing away" in output
    finally:
        testbed.run("down")
    assert look(testbed.settings) == NOTHING


def test_hosts_whose_record_is_gone_are_found_by_their_names(testbed: Testbed) -> None:
    testbed.run("up", "-n", "1")
    seen = members(testbed.settings)
    (testbed.settings.directory / "state.json").unlink()
    code, output = testbed.try_run("up", "-n", "1")
    assert code == 2 and "TESTBED_EMULATOR_PREFIX" in output
    testbed.run("down")
    assert look(testbed.settings, seen) == NOTHING


def test_an_up_that_fails_says_why_and_leaves_nothing(testbed: Testbed) -> None:
    code, output = testbed.try_run("up", "-n", "1", "--disk", "1M")
    assert code == 2 and "64M" in output
    code, output = testbed.try_run("up", "-n", "1", "--golden", "none")
    assert code == 2 and "snapshot none" in output
    assert look(testbed.settings) == NOTHING


def test_without_root_one_sentence_says_what_to_do(testbed: Testbed) -> None:
    # Another user may not be able to read these modules: it becomes one when it has them.
    program = (
        "import os, sys; from emulator.cli import main; os.setgroups([]); os.setuid(65534); "
        "sys.exit(main(['up', '-n', '1']))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=testbed.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: emulated hosts need root: 'sudo ")
