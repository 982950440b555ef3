"""The example notebook runs from beginning to end on a small run, and keeps its files inside the project."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from tests.analysis.synthetic import Plan, make_run

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PLACES = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory; Jupyter, IPython and matplotlib are told to keep their files elsewhere."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in PLACES:
        place = tmp_path / "kept" / name.lower()
        place.mkdir(parents=True)
        monkeypatch.setenv(name, str(place))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "node")]))
    # What debuggers and the kernel say about frozen modules is no finding about the notebook.
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    return home


def read(path: Path) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.reads(path.read_text(), as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def execute(path: Path, tmp_path: Path) -> nbformat.NotebookNode:
    notebook = read(path)
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    return client.execute()


def outputs(notebook: nbformat.NotebookNode) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_the_first_look_shows_verdict_frames_latencies_and_a_plot(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, Plan(), Plan(cell="k5-b64k", validators=5, hosts=("pi-1", "pi-2"), skew_ms={"pi-2": 9.0}))
    monkeypatch.setenv("MICROCHAIN_RUN", str(run))
    shown = outputs(execute(ROOT / "docs/notebooks/first-look.ipynb", tmp_path))
    assert [output for output in shown if output.output_type == "error" or output.get("name") == "stderr"] == []
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in shown]
    assert any(f"VALID: {run.name}" in text for text in texts)
    (table,) = [text for text in texts if "clock bound" in text]
    # Median and maximum of rounds that take 1 to 1.4 times the plan's 20 ms.
    assert re.search(r"k4-b128k T_ct +10\.0 +24\.0\d? +28\.0\d? +28\.0\d? +28\.0\d? +0\.0", table), table
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_kept_without_their_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert outputs(notebook) == []
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.execution_count] == []
