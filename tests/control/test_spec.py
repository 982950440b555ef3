"""Experiment files: each mistake is named with line, nearest key and arithmetic; hostile files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.cells import expand
from control.errors import SpecError
from control.spec import RateWorkload, RoundsWorkload, parse_size, shown_size
from control.spec_reader import load_experiment

GOOD = """\
name: latency
description: how long it takes
validators: [4, 8]
block_bytes: [128K, 1M]
transaction_bytes: 1K
workload:
  kind: rounds
  rounds: 20
  transactions: 100
repeats: 2
seed: 7
parameters:
  slot_timeout_ms: 500
telemetry:
  sample: 0.5
"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "x.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_experiment(write(tmp_path, text), "x.yml")
    assert caught.value.exit_code == 2
    lines = str(caught.value).splitlines()
    assert all(line.startswith("x.yml:") for line in lines)
    return [line.removeprefix("x.yml:") for line in lines]


def problem(tmp_path: Path, text: str | bytes) -> str:
    (only,) = problems(tmp_path, text)
    return only


def test_a_good_file_becomes_an_experiment_with_sizes_in_bytes(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, GOOD))
    assert experiment.validators == (4, 8)
    assert experiment.block_bytes == (131072, 1048576)
    assert experiment.transaction_bytes == (1024,)
    assert experiment.workload == RoundsWorkload(rounds=20, transactions=100)
    assert experiment.parameters == {"slot_timeout_ms": 500}
    assert experiment.telemetry.sample == 0.5
    assert (experiment.repeats, experiment.seed, experiment.devices) == (2, 7, 1)


def test_engines_are_swept_and_offered_the_same_load(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, GOOD.replace("seed: 7", "seed: 7\nengine: [microchain, pbft]")))
    cells = expand(experiment, "run", [f"validator-{n}" for n in range(8)], "ed25519")
    first, second = cells[:2]
    assert (first.id, second.id) == ("k4-b128K-t1K-r1", "pbft-k4-b128K-t1K-r1")
    assert (first.parameters.engine, second.parameters.engine) == ("microchain", "pbft")
    assert first.seed == second.seed
    assert len({cell.id for cell in cells}) == len(cells) == 16


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    assert "'engine': invalid enum value 'raft'" in problem(tmp_path, GOOD + "engine: raft\n")


def test_an_open_loop_is_a_workload_too(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("workload")] + "workload: {kind: rate, rate: 12.5, duration_s: 60}\n"
    assert load_experiment(write(tmp_path, text)).workload == RateWorkload(rate=12.5, duration_s=60.0)


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "experiments").glob("*.yml")))
def test_the_projects_own_experiments_are_good(file: Path) -> None:
    assert load_experiment(file).name == file.stem


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("validators: [4", "validator: [4", "3: unknown key 'validator'; did you mean 'validators'?"),
        ("  rounds: 20", "  round: 20", "8: unknown key 'round' in 'workload'; did you mean 'rounds'?"),
        ("  sample", "  samples", "15: unknown key 'samples' in 'telemetry'; did you mean 'sample'?"),
        ("  slot_timeout_ms", "  slot_timeout", "13: unknown parameter 'slot_timeout'; did you mean 'slot_"),
        ("slot_timeout_ms: 500", "max_block_bytes: 1", "13: parameter 'max_block_bytes' is set by 'block_bytes'"),
        ("slot_timeout_ms: 500", "propose: pool", "13: parameter 'propose' is set by the workload's 'kind'"),
        ("slot_timeout_ms: 500", "slot_timeout_ms: 1", "13: 'parameters.slot_timeout_ms': expected int >= 10, got 1"),
        ("kind: rounds", "kind: round", "7: 'round' is no kind of workload; use 'rounds' or 'rate'"),
        ("  kind: rounds\n", "", "6: key 'kind' is missing in 'workload'; use 'rounds' or 'rate'"),
        ("rounds: 20", "rounds: many", "8: 'workload.rounds': expected int, got 'many'"),
        ("rounds: 20", "rounds: 0", "8: 'workload.rounds': expected int >= 1, got 0"),
        ("repeats: 2", "repeats: true", "10: 'repeats': expected int, got True"),
        ("repeats: 2", "repeats:", "10: 'repeats': expected int, got nothing"),
        ("[4, 8]", "[4, eight]", "3: 'validators': expected int, got 'eight'"),
        ("[4, 8]", "[4, 4]", "3: 'validators': 4 is listed twice; use 'repeats' to run a cell again"),
        ("[4, 8]", "[]", "3: 'validators' is an empty list; give at least one value"),
        ("bytes: 1K", "bytes: 1 KiB/s", "5: 'transaction_bytes': '1 KiB/s' is no size; write bytes"),
        ("name: latency", "name: ../etc", "1: 'name': expected str matching regex"),
        ("seed: 7", "seed: .inf", "11: '.inf' is no number that can be used"),
        ("seed: 7", "seed: 2026-11-23", "11: YAML reads '2026-11-23' as a timestamp; put it in quotes"),
        ("seed: 7", "seed: 2026-99-99", "11: YAML reads '2026-99-99' as a timestamp; put it in quotes"),
        ("seed: 7", "seed: " + "9" * 5000, "11: '" + "9" * 40 + "…' is no number that can be used"),
        ("seed: 7", "repeats: 3", "11: key 'repeats' stands here again; it is already on line 10"),
        ("seed: 7", "? [a, b]\n: 1", "11: a key must be a word, not a list or mapping"),
        ("seed: 7", "<<: {repeats: 1}", "11: a key must be a word, not '<<'"),
        ("seed: 7", "seed: *number", "11: anchors and aliases (&, *) are not allowed; write the value again"),
        ("seed: 7", "seed: &number 7", "11: anchors and aliases (&, *) are not allowed; write the value again"),
        ("seed: 7", "seed: !!python/object/apply:os.system [id]", "11: tags are not allowed"),
        ("seed: 7", "seed: [[[[[[[[[[1]]]]]]]]]]", "11: is nested deeper than 8 levels"),
        ("seed: 7", "seed: 'open", "16: is not YAML: found unexpected end of stream"),
        ("seed: 7", "---\nname: second", "11: a second document begins here; one file holds one experiment"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert problem(tmp_path, GOOD.replace(old, new, 1)).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "transactions: 100",
            "transactions: 200",
            ["9: 200 transactions * 1024 bytes = 204800 bytes, and a block takes 131072: 128 fit"],
        ),
        (
            "[4, 8]",
            "[4, 3]",
            ["3: 3 validators tolerate ⌊(3 - 1) / 3⌋ = 0 faulty ones; a committee has at least 4, which tolerate 1"],
        ),
        ("[4, 8]", "200", ["3: 200 validators are more than the 128 that a fixed committee may have"]),
        ("1M]", "9M]", ["4: a block of 9437184 bytes is more than the protocol's 8388608 (8M)"]),
        ("[128K, 1M]", "512", ["4: a block of 512 bytes is less than the protocol's 1024 (1K)", "5: a tran"]),
        ("bytes: 1K\n", "bytes: 256K\n", ["5: a transaction of 262144 bytes doesn't fit into a block of 131072"]),
        ("bytes: 1K\n", "bytes: 100\n", ["5: a transaction of 100 bytes has no room for its envelope"]),
        ("repeats: 2", "repeats: 99", ["1: 1 engines * 2 committees * 2 block sizes * 1 transaction sizes * 99 rep"]),
        (
            "slot_timeout_ms: 500",
            "max_pool_bytes: 2048",
            ["13: a round's 102400 bytes of transactions don't fit into a pool of 2048 (max_pool_bytes)"],
        ),
    ],
)
def test_impossible_numbers_are_refused_with_the_arithmetic(
    tmp_path: Path, old: str, new: str, expected: list[str]
) -> None:
    assert old in GOOD
    found = problems(tmp_path, GOOD.replace(old, new, 1))
    for line in expected:
        assert sum(one.startswith(line) for one in found) == 1, found


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        ("{kind: rate, rate: 0.01, duration_s: 1}", "6: 0.01 /s in 1 s are no transaction"),
        ("{kind: rate, rate: 90000, duration_s: 3600}", "6: 90000 /s * (5 + 3600) s = 324450000 transactions"),
        ("{kind: rate, rate: -1, duration_s: 1}", "6: 'workload.rate': expected float > 0.0, got -1"),
        ("{kind: rate, duration_s: 1}", "6: key 'rate' is missing in 'workload'"),
        ("[rounds]", "6: 'workload': expected object, got ['rounds']"),
    ],
)
def test_an_impossible_load_is_refused(tmp_path: Path, workload: str, expected: str) -> None:
    text = GOOD[: GOOD.index("workload")] + f"workload: {workload}\n"
    assert problems(tmp_path, text)[0].startswith(expected)


def test_all_mistakes_are_listed_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = GOOD.replace("validators: [4, 8]", "engines: 4").replace("seed", "sede").replace("sample", "smaple")
    assert [line.split(":")[0] for line in problems(tmp_path, text)] == ["1", "3", "11", "15"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "1: must be a mapping of keys to values"),
        (b"- 1\n", "1: must be a mapping of keys to values"),
        (b"name: \xff\n", "1: is not UTF-8: byte 0xff"),
        (b"name: a\x00b\n", "1: is not YAML"),
        (b"a: 1\n" * 20_000, "1: is larger than 65536 bytes"),
        (b"a: &a [x]\nb: &b [*a, *a]\n", "1: anchors and aliases"),
        (b"[" * 60_000, "1: is nested deeper than 8 levels"),
    ],
)
def test_a_hostile_file_is_refused_before_it_costs_anything(tmp_path: Path, content: bytes, expected: str) -> None:
    assert problem(tmp_path, content).startswith(expected)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nothing\.yml:1: can't be read: No such file"):
        load_experiment(tmp_path / "nothing.yml")


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        load_experiment(path)


@given(st.sampled_from(GOOD.splitlines()), st.text(max_size=20))
def test_any_value_in_any_line_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, line: str, value: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.yml"
    text = GOOD.replace(line, f"{line.split(':')[0]}: {value}")
    path.write_text(text, encoding="utf-8", errors="ignore", newline="")
    try:
        load_experiment(path)
    except SpecError as error:
        assert error.problems


@given(st.integers(0, 1 << 33))
def test_sizes_are_shown_as_they_are_read(size: int) -> None:
    assert parse_size(shown_size(size)) == size


@pytest.mark.parametrize(("text", "size"), [("128K", 131072), ("2 MiB", 2097152), ("1kb", 1024), ("700", 700), (5, 5)])
def test_sizes_may_be_written_in_several_ways(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5M", "1G", "99999999999K", -1])
def test_what_is_no_size_is_none(text: str | int) -> None:
    assert parse_size(text) is None
