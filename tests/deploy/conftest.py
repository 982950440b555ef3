"""One copy of the project for all tests of playbooks; what they start is ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.testbed_copy import TestbedCopy


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestbedCopy]:
    """A copy at a path longer than a Unix socket's name may be."""
    place = tmp_path_factory.mktemp("deploy")
    copy = TestbedCopy(place / ("a-long-name-" * 8) / "testbed", place / "home")
    copy.copy_wheels()
    yield copy
    copy.play("teardown")
    _kill(copy.deployed / "env")


@pytest.fixture
def deployed(project: TestbedCopy) -> TestbedCopy:
    """The copy with its validators deployed."""
    if not (project.deployed / "deployed").exists():
        done = project.play("deploy")
        assert done.code == 0, done.output
    return project


def _kill(environment: Path) -> None:
    found = subprocess.run(["pgrep", "-f", f"^{environment}/bin/"], capture_output=True, text=True, check=False)
    for process in found.stdout.split():
        os.kill(int(process), signal.SIGKILL)
