"""Groups of runs compared: what is claimed, from how many, and what is said against it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis.compare import main, render
from analysis.compare_runs import Comparison, RunSummary, compare_runs, summarise_run
from analysis.report import PLAIN_WIDTH
from tests.analysis.synthetic import RUN, Plan, make_run, read, write
from tests.analysis.test_verdict import CELL, make_rate_run


def make_group(root: Path, name: str, times: Sequence[float], **plan: Any) -> list[Path]:
    """One run for each T_ct (ms), which scatter among themselves."""
    return [make_named(root / name / str(number), time, number, **plan) for number, time in enumerate(times)]


def make_named(root: Path, time: float, number: int, **plan: Any) -> Path:
    """A run with a name of its own; its points go on saying the old one, as its cell does."""
    path = make_run(root, Plan(**{"T_ct": time, "finality": 3 * time, **plan}))
    named = path.with_name(RUN.replace("030405", f"{number:06d}"))
    path.rename(named)
    write(named / "inventory.json", {"name": "local", "signature": "ed25519", "validators": []})
    return named


def compare(a: list[Path], b: list[Path]) -> tuple[Comparison, str]:
    comparison = compare_runs(map(summarise_run, a), map(summarise_run, b))
    console = Console(width=PLAIN_WIDTH, color_system=None)
    with console.capture() as text:
        console.print(*render(comparison), sep="\n")
    return comparison, text.get()


def row_of(text: str, figure: str) -> str:
    return next(line.rstrip() for line in text.splitlines() if line.startswith(f" {figure}, "))


A_TIMES, B_TIMES = [20.0, 20.5, 19.8], [30.1, 29.0, 30.5]


def test_a_difference_between_enough_runs_is_shown_with_its_interval(tmp_path: Path) -> None:
    comparison, text = compare(make_group(tmp_path, "a", A_TIMES), make_group(tmp_path, "b", B_TIMES))
    (figures,) = comparison.shapes.values()
    effect = figures[0].effect
    assert effect is not None
    # The synthetic rounds take 1.2 times the plan's time in the median.
    assert effect.difference.value == pytest.approx(1.2 * (89.6 - 60.3) / 3, abs=0.01)
    assert effect.ratio.low < 1.485 < effect.ratio.high
    assert row_of(text, "T_ct").endswith("B is slower")
    assert row_of(text, "T_ct").split()[2:5] == ["24.1", "35.8", "+11.7"]
    assert row_of(text, "T_bp").split()[-2:] == ["none", "shown"]
    assert "4 validators, 128 KB blocks, 1 KB transactions, rounds of 8" in text
    assert "Not enough" not in text


def test_one_run_each_stands_side_by_side_and_nothing_is_claimed(tmp_path: Path) -> None:
    comparison, text = compare(make_group(tmp_path, "a", [20.0]), make_group(tmp_path, "b", [200.0]))
    assert all(figure.effect is None for figures in comparison.shapes.values() for figure in figures)
    assert row_of(text, "T_ct").split() == ["T_ct,", "ms", "24.0", "240"]
    assert "slower" not in text and "B / A" not in text
    assert "Not enough runs" in text and "2 more of A and 2 more of B are needed" in text


def test_it_is_said_how_many_runs_lack_on_one_side(tmp_path: Path) -> None:
    _, text = compare(make_group(tmp_path, "a", A_TIMES), make_group(tmp_path, "b", B_TIMES[:2]))
    assert "so 1 more of B is needed" in text


def test_invalid_runs_are_left_out_and_suspect_ones_marked(tmp_path: Path) -> None:
    a, b = make_group(tmp_path, "a", A_TIMES), make_group(tmp_path, "b", [30.0])
    write(a[0] / CELL / "outcome.json", {"status": "failed", "drained": False, "message": "the power went"})
    write(b[0] / CELL / "outcome.json", {"status": "ok", "drained": False})
    comparison, text = compare(a, b)
    assert [run.name for run in comparison.refused] == [a[0].name]
    assert f"WARNING: {a[0].name} is INVALID and left out: the cell failed: the power went" in text
    assert "A: 2 runs" in text and "(SUSPECT)" in text and "SUSPECT: " in text


def test_nothing_in_common_is_no_comparison(tmp_path: Path) -> None:
    a, b = make_group(tmp_path, "a", [20.0]), make_group(tmp_path, "b", [20.0], transactions=4)
    comparison, text = compare(a, b)
    assert not comparison.shapes
    assert "there is nothing to compare" in text
    assert "only A has cells with 4 validators, 128 KB blocks, 1 KB transactions, rounds of 8" in text
    assert main(["--a", str(a[0]), "--b", str(b[0])]) == 1


def change_environment(path: Path, **changes: Any) -> None:
    document = read(path / "environment.json")
    for key, values in changes.items():
        document[key] = {**document.get(key, {}), **values}
    write(path / "environment.json", document)


def test_what_differs_is_listed_and_more_than_one_thing_is_loud(tmp_path: Path) -> None:
    a, b = make_group(tmp_path, "a", [20.0]), make_group(tmp_path, "b", [30.0])
    change_environment(a[0], versions={"aiohttp": "3.14.5"})
    change_environment(b[0], git={"commit": "f" * 40, "dirty": True, "diff": "+x"}, host={"cpu": "Other"})
    cell = read(b[0] / CELL / "cell.json")
    cell["parameters"]["slot_timeout_ms"] = 500
    write(b[0] / CELL / "cell.json", cell)
    _, text = compare(a, b)
    assert "  commit: A 0123456789ab; B ffffffffffff with uncommitted changes (" in text
    assert "  control machine's cpu: A Test CPU; B Other" in text
    assert "  parameters slot_timeout_ms: A not recorded; B 500" in text
    assert "  version of aiohttp: A 3.14.5; B not recorded" in text
    assert "WARNING: A and B differ in 4 things" in text


def test_runs_alike_are_said_to_be(tmp_path: Path) -> None:
    comparison, text = compare(make_group(tmp_path, "a", [20.0]), make_group(tmp_path, "b", [30.0]))
    assert comparison.differences == []
    assert "under the same conditions" in text and "WARNING" not in text


def test_runs_of_one_group_that_are_unlike_are_loud(tmp_path: Path) -> None:
    a, b = make_group(tmp_path, "a", [20.0, 21.0]), make_group(tmp_path, "b", [30.0])
    change_environment(a[1], host={"kernel": "Linux 7.0"})
    _, text = compare(a, b)
    assert "WARNING: runs of one group are not alike (control machine's kernel)" in text
    assert "differ in" not in text


def test_groups_made_one_after_the_other_are_said_to_be(tmp_path: Path) -> None:
    a = make_group(tmp_path, "a", A_TIMES)
    later = [path.rename(path.with_name(f"20260301-{path.name[9:]}")) for path in make_group(tmp_path, "b", B_TIMES)]
    assert "a drift would look like a difference" in " ".join(compare(a, later)[1].split())
    _, text = compare(a, make_group(tmp_path, "c", B_TIMES))
    assert "drift" not in text


def test_a_difference_within_the_clocks_error_is_none(tmp_path: Path) -> None:
    plan: dict[str, Any] = {"hosts": ("pi-1", "pi-2"), "client_host": "pi-1", "rtt_ms": 4.0}
    a = make_group(tmp_path, "a", [20.0, 20.01, 20.02], **plan)
    b = make_group(tmp_path, "b", [20.5, 20.51, 20.52], **plan)
    _, text = compare(a, b)
    assert "clocks: ± " in row_of(text, "T_ct")


def test_open_loop_cells_are_compared_by_latency_and_throughput(tmp_path: Path) -> None:
    groups = [
        [make_rate_run(tmp_path / name / str(number), late) for number, late in enumerate(times)]
        for name, times in (("a", [1.0, 2.0, 1.5]), ("b", [9.0, 9.3, 9.1]))
    ]
    comparison, text = compare(*groups)
    (shape,) = comparison.shapes
    assert str(shape).endswith("100 transactions a second")
    assert row_of(text, "latency p50").endswith("B is slower")
    assert row_of(text, "finalized, tx/s"[:9]).split()[2] == "100"


def test_repeats_in_one_run_are_one_figure(tmp_path: Path) -> None:
    slow = Plan(cell="k4-r2", T_ct=40.0, finality=100.0)
    both = summarise_run(make_run(tmp_path / "both", Plan(cell="k4-r1"), slow))
    (figures,) = both.figures.values()
    values = {metric.name: value.value for metric, value in figures.items()}
    assert 28.0 < values["T_ct"] < 40.0


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'node'}"}
    command = [sys.executable, "-m", "analysis.compare", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)


def test_the_command_prints_plain_text_into_a_pipe(tmp_path: Path) -> None:
    a, b = make_group(tmp_path, "a", [20.0]), make_group(tmp_path, "b", [30.0])
    done = run_module("--a", str(a[0]), "--b", str(b[0]))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert all(len(line) <= PLAIN_WIDTH for line in done.stdout.splitlines())


def test_wrong_usage_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = make_group(tmp_path, "a", [20.0])
    assert main(["--a", str(run), "--b", str(run)]) == 2
    assert "stands on both sides" in capsys.readouterr().err
    assert main(["--a", str(run), "--b", str(tmp_path)]) == 2
    assert "is no run directory" in capsys.readouterr().err


def test_hostile_documents_cost_their_conditions_and_no_more(tmp_path: Path) -> None:
    a, b = make_group(tmp_path, "a", [20.0]), make_group(tmp_path, "b", [20.0])
    cpu = '"\\u001b[2J' + "x" * 999 + '"'
    environment = '{"git": [1], "versions": 3, "host": {"cpu": ' + cpu + "}}"
    (b[0] / "environment.json").write_text(environment)
    (b[0] / "inventory.json").write_text('{"validators": [1, {"host": {}}], "name": []}')
    _, text = compare(a, b)
    assert "\x1b" not in text and "x" * 200 not in text
    assert isinstance(summarise_run(b[0]), RunSummary)
