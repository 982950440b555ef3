"""What a person does on a fresh machine, from the first command to the last, with nothing installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from control.influx.binary import VERSIONS, find_built
from tests.deploy.testbed_copy import ROOT, TestbedCopy

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]


def _run(copy: TestbedCopy, *arguments: str) -> str:
    """Run ./testbed from another directory; return what it printed."""
    done = subprocess.run(
        [str(copy.root / "testbed"), *arguments],
        cwd=copy.home,
        env=copy.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_fresh_clone_runs_the_demo_and_teardown_leaves_nothing(tmp_path: Path) -> None:
    copy = TestbedCopy(tmp_path / ("a-long-name-" * 8) / "test bed", tmp_path / "home")
    cached = ROOT / ".cache" / "pip"
    if cached.is_dir():  # what was downloaded once need not be again
        (copy.root / ".cache").mkdir()
        subprocess.run(["cp", "-al", str(cached), str(copy.root / ".cache" / "pip")], check=True)
    beside = {path.name for path in tmp_path.iterdir()}
    before = copy.files()
    try:
        output = _run(copy, "demo")
        assert "First use" in output
        assert re.search(r"^verdict: (VALID|SUSPECT)", output, re.MULTILINE), output
        assert "prototype" in output
        assert len(list((copy.root / "runs").glob("*-demo-*/SHA256SUMS"))) == 1
        records = [json.loads(path.read_bytes()) for path in copy.root.glob("runs/*-demo-*/cells/*/influxdb.json")]
        assert [record["equal"] for record in records] == ([True] if "points are streamed to" in output else [])
        assert ("points are streamed to" in output) or not any(map(find_built, VERSIONS))
        again = _run(copy, "deploy")
        assert "First use" not in again
        assert re.search(r"^local +: .*changed=0 ", again, re.MULTILINE), again
    finally:
        _run(copy, "teardown")
    assert copy.processes() == []
    assert copy.files() == before
    assert list(copy.home.rglob("*")) == []
    assert {path.name for path in tmp_path.iterdir()} == beside
    assert os.path.lexists(copy.root / ".venv")
