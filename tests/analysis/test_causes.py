"""Every cause of the catalogue is provoked in a run directory of its own, and stands in the manual."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import load
from analysis.causes import Cause, Level
from analysis.report import analyse
from tests.analysis.synthetic import BASE_NS, MS, Plan, digest_of, make_run, open_recorder, read, write
from tests.analysis.test_verdict import CELL, change, drop_lines, make_rate_run, rewrite

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "verdict.md"
S = 1000 * MS

Provocation = Callable[[Path], Path]
PROVOKED: dict[Cause, list[Provocation]] = {}


def provokes(cause: Cause) -> Callable[[Provocation], Provocation]:
    """Register a function that makes a run in a directory, with this cause against it."""

    def register(function: Provocation) -> Provocation:
        PROVOKED.setdefault(cause, []).append(function)
        return function

    return register


def causes_against(path: Path) -> set[Cause | None]:
    return {reason.cause for reason in analyse(load(path)).verdict.reasons}


def test_every_cause_is_provoked_here() -> None:
    # That one needs a server: tests/analysis/test_influx_source.py.
    assert set(PROVOKED) == set(Cause) - {Cause.SPOOLS_NOT_READ}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The provocations stand below; they are known only when the whole file has been read."""
    if "provocation" in metafunc.fixturenames:
        cases = [(cause, function) for cause, functions in PROVOKED.items() for function in functions]
        names = [f"{cause.code}-{function.__name__}" for cause, function in cases]
        metafunc.parametrize(("cause", "provocation"), cases, ids=names)


def test_it_stands_against_the_run(tmp_path: Path, cause: Cause, provocation: Provocation) -> None:
    path = provocation(tmp_path)
    verdict = analyse(load(path)).verdict
    found = [reason for reason in verdict.reasons if reason.cause is cause]
    assert found, verdict.lines()
    assert all(reason.level is cause.level for reason in found)
    assert verdict.level >= cause.level
    assert f"    → {cause.meaning} {cause.advice}" in verdict.lines()
    shown = [reason for reason in verdict.to_json()["reasons"] if reason.get("code") == cause.code]
    assert shown and shown[0]["meaning"] == cause.meaning and shown[0]["advice"] == cause.advice


def test_the_manual_lists_every_cause_as_it_is() -> None:
    rows = [f"| `{c.code}` | {c.level.name} | {c.meaning} | {c.advice} |" for c in Cause]
    text = MANUAL.read_text(encoding="utf-8")
    lacking = [row for row in rows if row not in text]
    assert not lacking, "put this into the table of docs/verdict.md:\n" + "\n".join(rows)
    listed = [
        line for line in text.splitlines() if (line.startswith("| `") and " SUSPECT |" in line) or " INVALID |" in line
    ]
    assert sorted(listed) == sorted(rows), "the manual has rows of causes that are no more"


# --- builders ---------------------------------------------------------------------------------------------------------


def add_points(path: Path, name: str, write_points: Callable[[Any], None], host: str = "bench") -> None:
    """One more session of a process."""
    place = path / CELL / ("client" if name == "client" else f"nodes/{name}/spool")
    recorder = open_recorder(place, Plan(), name, host)
    write_points(recorder)
    recorder.close(BASE_NS + 10**7 * MS)


def remove(path: Path, *names: str) -> Path:
    """Remove what came of validators."""
    for name in names:
        shutil.rmtree(path / CELL / "nodes" / name)
    return path


def board_run(root: Path, *samples: dict[str, Any]) -> Path:
    """A run with these samples of one board, half a second apart."""
    path = make_run(root)
    common = {"cpu_percent": 1.0, "load1": 1.0, "memory_total_bytes": 1, "memory_available_bytes": 1}

    def points(recorder: Any) -> None:
        for number, sample in enumerate(samples):
            recorder._point("board", "", "", common | sample, BASE_NS + number * S // 2)

    add_points(path, "validator-2", points)
    return path


def first_digest(path: Path, edit: Callable[[Any], Any]) -> Path:
    change(path, "nodes/validator-2/digest.json", edit)
    return path


# --- what the protocol promises ---------------------------------------------------------------------------------------


@provokes(Cause.LEDGERS_DISAGREE)
def another_block_at_one_height(root: Path) -> Path:
    return first_digest(make_run(root), lambda digest: digest["blocks"][4].__setitem__(1, "ab" * 32))


@provokes(Cause.CHAINS_DIFFER)
def another_chain(root: Path) -> Path:
    return first_digest(make_run(root), lambda digest: digest.__setitem__("chain_id", "00" * 32))


@provokes(Cause.LEDGER_UNSOUND)
def a_failed_audit(root: Path) -> Path:
    return first_digest(make_run(root), lambda digest: digest["problems"].append("height 3: wrong parent"))


@provokes(Cause.BLOCK_NOT_FINAL)
def a_round_whose_block_no_ledger_holds(root: Path) -> Path:
    path = make_run(root)
    records = path / CELL / "rounds.jsonl"
    records.write_text(records.read_text().replace(digest_of("k4-b128k", "block", 5).hex(), "ab" * 32))
    return path


@provokes(Cause.TRANSACTIONS_LOST)
def an_acknowledged_transaction_that_ends_nowhere(root: Path) -> Path:
    path = make_run(root)
    add_points(path, "client", lambda recorder: recorder.transactions("accepted", [digest_of("lost")], BASE_NS + MS))
    return path


@provokes(Cause.TRANSACTIONS_UNACCOUNTED)
def finality_that_one_validator_did_not_report(root: Path) -> Path:
    path = make_run(root)
    rewrite(path, "validator-2", lambda text: drop_lines(text, "transaction,", "event=finalized"))
    return path


@provokes(Cause.BLOCK_NOT_EVERYWHERE)
@provokes(Cause.HEIGHTS_DIFFER)
def a_validator_that_lags(root: Path) -> Path:
    def lag(digest: Any) -> None:
        digest["blocks"].pop()
        height, id, *_ = digest["blocks"][-1]
        digest["finalized"] = {"height": height, "id": id}

    return first_digest(make_run(root), lag)


@provokes(Cause.OFFENCE)
def evidence(root: Path) -> Path:
    return first_digest(make_run(root), lambda digest: digest["evidence"].append({"rule": "double-vote"}))


@provokes(Cause.LEDGER_MISSING)
def no_digest_of_a_validator(root: Path) -> Path:
    path = make_run(root)
    (path / CELL / "nodes/validator-2/digest.json").unlink()
    return path


@provokes(Cause.LEDGER_NOT_AUDITED)
def a_digest_without_audit(root: Path) -> Path:
    return first_digest(make_run(root), lambda digest: digest.pop("problems"))


@provokes(Cause.FORK)
def two_blocks_at_one_height(root: Path) -> Path:
    path = make_run(root)
    id, fork = digest_of("k4-b128k", "block", 6).hex(), digest_of("fork").hex()

    def add(text: str) -> str:
        (line,) = [line for line in text.splitlines(True) if id in line and "event=verified" in line]
        return line.replace(id, fork) + text

    rewrite(path, "validator-2", add)
    return path


@provokes(Cause.BLOCKS_REJECTED)
def a_block_that_was_refused(root: Path) -> Path:
    path = make_run(root)
    rewrite(path, "validator-2", lambda text: text.replace("block,cell=k4-b128k,event=verified", MARK, 1))
    return path


MARK = "block,cell=k4-b128k,event=rejected"


# --- what was run -----------------------------------------------------------------------------------------------------


@provokes(Cause.CELL_FAILED)
def a_failed_cell(root: Path) -> Path:
    path = make_run(root)
    write(path / CELL / "outcome.json", {"status": "failed", "drained": False, "message": "2 of 4 are not ready"})
    return path


@provokes(Cause.CELL_REFUSED)
def a_cell_that_planning_refused(root: Path) -> Path:
    path = make_run(root)
    refused = path / "cells" / "k16-b128k"
    refused.mkdir()
    write(refused / "cell.json", {**json.loads((path / CELL / "cell.json").read_text()), "id": "k16-b128k"})
    write(refused / "outcome.json", {"status": "failed", "refused": True, "message": "it needs 16 validators"})
    return path


@provokes(Cause.CELL_NOT_RUN)
def no_outcome(root: Path) -> Path:
    path = make_run(root)
    (path / CELL / "outcome.json").unlink()
    return path


@provokes(Cause.NOTHING_MEASURED)
def no_cell(root: Path) -> Path:
    path = make_run(root)
    (path / CELL / "cell.json").write_text("{}")
    return path


@provokes(Cause.BACKLOG)
def transactions_not_final_at_the_end(root: Path) -> Path:
    path = make_run(root)
    write(path / CELL / "outcome.json", {"status": "ok", "drained": False})
    return path


@provokes(Cause.GENERATOR_LATE)
def a_generator_40_ms_late(root: Path) -> Path:
    return make_rate_run(root, 40.0)


@provokes(Cause.TRANSACTIONS_REFUSED)
def a_refused_transaction(root: Path) -> Path:
    path = make_run(root)
    add_points(path, "client", lambda recorder: recorder.transactions("rejected", [digest_of("no")], BASE_NS + MS))
    return path


@provokes(Cause.ROUNDS_FAILED)
def rounds_that_timed_out(root: Path) -> Path:
    path = make_run(root)
    records = path / CELL / "rounds.jsonl"
    records.write_text(records.read_text().replace('"warmup":false', '"warmup":false', 1).replace('"ok"', '"split"'))
    return path


@provokes(Cause.TOO_FEW_SAMPLES)
def five_rounds(root: Path) -> Path:
    return make_run(root, Plan(rounds=5))


@provokes(Cause.TOO_FEW_SAMPLES)
def an_open_loop_with_few_traced_transactions(root: Path) -> Path:
    path = make_rate_run(root, 5.0)
    change(path, "cell.json", lambda cell: cell["workload"].__setitem__("warmup_s", 0.3))
    return path


@provokes(Cause.POINTS_MISSING)
def no_verified_points_of_a_validator(root: Path) -> Path:
    path = make_run(root)
    rewrite(path, "validator-2", lambda text: drop_lines(text, "event=verified"))
    return path


# --- what was recorded ------------------------------------------------------------------------------------------------


@provokes(Cause.HOST_MISSING)
def nothing_of_a_host(root: Path) -> Path:
    plan = Plan(hosts=("pi-1", "pi-2"), client_host="pi-1")
    path = remove(make_run(root, plan), "validator-2", "validator-4")
    validators = [{"name": f"validator-{n}", "host": plan.host(n - 1)} for n in range(1, 5)]
    write(path / "inventory.json", {"name": "pi", "validators": validators})
    return path


@provokes(Cause.VALIDATOR_MISSING)
def nothing_of_a_validator(root: Path) -> Path:
    path = remove(make_run(root), "validator-3")
    validators = [{"name": f"validator-{n}", "host": "bench"} for n in range(1, 5)]
    write(path / "inventory.json", {"name": "local", "validators": validators})
    return path


@provokes(Cause.TELEMETRY_MISSING)
def no_spool_of_a_validator(root: Path) -> Path:
    path = make_run(root)
    shutil.rmtree(path / CELL / "nodes/validator-3/spool")
    return path


@provokes(Cause.TELEMETRY_MISSING)
def no_spool_of_the_client(root: Path) -> Path:
    path = make_run(root)
    shutil.rmtree(path / CELL / "client")
    return path


@provokes(Cause.TELEMETRY_GAP)
def a_hole_of_six_intervals(root: Path) -> Path:
    path = make_run(root, Plan(rounds=20))
    hole = [f" {BASE_NS + number * S + S // 2}\n" for number in range(5, 11)]

    def cut(text: str) -> str:
        return "".join(line for line in text.splitlines(True) if not line.endswith(tuple(hole)))

    rewrite(path, "validator-2", cut)
    return path


@provokes(Cause.TELEMETRY_GAP)
def counters_that_begin_late(root: Path) -> Path:
    path = make_run(root, Plan(rounds=20))

    def cut(text: str) -> str:
        lines = text.splitlines(True)
        return "".join(x for x in lines if not x.startswith("messages,") or int(x.split()[-1]) > BASE_NS + 12 * S)

    rewrite(path, "validator-2", cut)
    return path


@provokes(Cause.POINTS_DROPPED)
def dropped_points(root: Path) -> Path:
    path = make_run(root)
    rewrite(path, "validator-2", lambda text: text.replace("dropped=0i", "dropped=17i"))
    return path


@provokes(Cause.LINES_MISSING)
def lines_cut_out(root: Path) -> Path:
    path = make_run(root)
    rewrite(path, "validator-2", lambda text: drop_lines(text, "peer,"))
    return path


@provokes(Cause.LINES_BAD)
def a_line_that_is_none(root: Path) -> Path:
    path = make_run(root)
    rewrite(path, "validator-2", lambda text: "garbage\n" + text)
    return path


@provokes(Cause.FILE_DAMAGED)
def an_environment_that_is_no_json(root: Path) -> Path:
    path = make_run(root)
    (path / "environment.json").write_text("{")
    return path


@provokes(Cause.FILE_DAMAGED)
def a_damaged_record_of_influxdb(root: Path) -> Path:
    path = make_run(root)
    (path / CELL / "influxdb.json").write_text("[]")
    return path


@provokes(Cause.SPOOL_NOT_CLOSED)
def a_killed_process(root: Path) -> Path:
    path = make_run(root)
    rewrite(path, "validator-2", lambda text: drop_lines(text, "closed=true") + "block,torn")
    return path


@provokes(Cause.TIMES_MOVED)
def timestamps_moved_by_2_ms(root: Path) -> Path:
    path = make_run(root)
    rewrite(path, "client", lambda text: text.replace("shift_ns=0i", "shift_ns=2500000i"))
    return path


@provokes(Cause.INFLUXDB_DIFFERS)
def a_database_that_lacks_points(root: Path) -> Path:
    path = make_run(root)
    record = {"equal": False, "points": 9, "differences": ["validator-2: 7 of 9 points of vote"], "error": ""}
    write(path / CELL / "influxdb.json", record)
    return path


@provokes(Cause.INFLUXDB_NOT_COMPARED)
def a_database_that_did_not_answer(root: Path) -> Path:
    path = make_run(root)
    write(path / CELL / "influxdb.json", {"equal": False, "differences": [], "error": "it does not answer"})
    return path


@provokes(Cause.INFLUXDB_NOT_COMPARED)
def a_shipper_without_a_record(root: Path) -> Path:
    path = make_run(root)
    write(path / CELL / "nodes/validator-2/shipper.json", {"segment": "", "offset": 0, "shipped": 12, "rejected": 0})
    return path


@provokes(Cause.INFLUXDB_NOT_COMPARED)
def a_configured_server_without_a_record(root: Path) -> Path:
    path = make_run(root)
    config = '[node]\nname = "validator-2"\n[influx]\nurl = "http://127.0.0.1:8086"\n'
    (path / CELL / "nodes/validator-2/config.toml").write_text(config)
    return path


@provokes(Cause.INFLUXDB_REFUSED)
def lines_that_the_server_refused(root: Path) -> Path:
    path = make_run(root)
    write(path / CELL / "influxdb.json", {"equal": True, "differences": [], "error": ""})
    write(path / CELL / "nodes/validator-2/shipper.json", {"shipped": 12, "rejected": 3})
    return path


# --- clocks and boards ------------------------------------------------------------------------------------------------


@provokes(Cause.CLOCK_UNKNOWN)
def clocks_never_compared(root: Path) -> Path:
    return make_run(root, Plan(hosts=("pi-1", "pi-2"), client_host="pi-1", measure_clocks=False))


@provokes(Cause.CLOCK_SET)
def one_process_with_another_time(root: Path) -> Path:
    path = make_run(root)
    rewrite(path, "validator-2", lambda text: text.replace("offset_ns=0i", "offset_ns=9000000i"))
    return path


@provokes(Cause.CLOCK_UNSTEADY)
def offsets_that_contradict_each_other(root: Path) -> Path:
    path = make_run(root, Plan(hosts=("pi-1", "pi-2"), client_host="pi-1"))
    for name in ("validator-1", "validator-3"):
        rewrite(path, name, lambda text: text.replace("offset_ns=125000i", "offset_ns=20125000i", 6))
    return path


@provokes(Cause.CLOCK_BOUND)
def a_network_of_30_ms(root: Path) -> Path:
    return make_run(root, Plan(hosts=("pi-1", "pi-2"), client_host="pi-1", rtt_ms=30.0))


@provokes(Cause.CLOCK_BOUND)
def an_open_loop_over_a_network_of_300_ms(root: Path) -> Path:
    return make_rate_run(root, 5.0, Plan(hosts=("pi-1", "pi-2"), client_host="pi-1", rtt_ms=300.0))


@provokes(Cause.CLOCK_ORDER)
def an_end_before_its_beginning(root: Path) -> Path:
    return make_run(root, Plan(T_cf=-30.0))


@provokes(Cause.CLOCK_ORDER)
def finality_before_the_plan(root: Path) -> Path:
    return make_rate_run(root, -80.0)


@provokes(Cause.BOARD_UNDER_VOLTAGE)
def too_little_voltage(root: Path) -> Path:
    return board_run(root, {}, {"under_voltage_now": True})


@provokes(Cause.BOARD_UNDER_VOLTAGE)
def too_little_voltage_between_two_samples(root: Path) -> Path:
    return board_run(root, {"throttled": 0, "under_voltage_now": False}, {"throttled": 1 << 16})


@provokes(Cause.BOARD_THROTTLED)
def a_throttled_board(root: Path) -> Path:
    return board_run(root, {"throttled_now": True})


@provokes(Cause.BOARD_THROTTLED)
def a_capped_frequency(root: Path) -> Path:
    return board_run(root, {"frequency_capped_now": True})


@provokes(Cause.BOARD_HOT)
def a_hot_board(root: Path) -> Path:
    return board_run(root, {"temperature_limit_now": True})


# --- and what is no reason --------------------------------------------------------------------------------------------


def test_what_a_board_suffered_before_the_run_is_no_reason(tmp_path: Path) -> None:
    path = board_run(tmp_path, {"throttled": 0x50000, "throttled_now": False}, {"throttled": 0x50000})
    assert causes_against(path) == set()


def test_a_database_that_holds_the_same_is_no_reason(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    write(path / CELL / "influxdb.json", {"equal": True, "points": 9, "differences": [], "error": ""})
    write(path / CELL / "nodes/validator-2/shipper.json", {"shipped": 12, "rejected": 0})
    assert causes_against(path) == set()


def test_an_interval_that_comes_late_is_no_gap(tmp_path: Path) -> None:
    path = make_run(tmp_path, Plan(rounds=20))

    def cut(text: str) -> str:
        hole = tuple(f" {BASE_NS + number * S + S // 2}\n" for number in range(5, 9))
        return "".join(line for line in text.splitlines(True) if not line.endswith(hole))

    rewrite(path, "validator-2", cut)
    assert causes_against(path) == {Cause.LINES_MISSING}


def test_a_missing_host_is_said_once(tmp_path: Path) -> None:
    verdict = analyse(load(nothing_of_a_host(tmp_path))).verdict
    assert "host pi-2 is missing: nothing came of validator-2, validator-4" in "\n".join(verdict.lines())
    assert {reason.cause for reason in verdict.reasons} <= {Cause.HOST_MISSING, Cause.POINTS_MISSING}


def test_reasons_of_one_cause_share_one_explanation(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    for name in ("validator-2", "validator-3"):
        rewrite(path, name, lambda text: text.replace("dropped=0i", "dropped=17i"))
    lines = analyse(load(path)).verdict.lines()
    assert len(lines) == 4 and [line.strip()[0] for line in lines[1:]] == ["S", "S", "→"]


def test_levels_are_those_of_the_worst_reason(tmp_path: Path) -> None:
    path = dropped_points(tmp_path)
    assert read(path / CELL / "outcome.json")["status"] == "ok"
    assert analyse(load(path)).verdict.level is Level.SUSPECT
