"""Everything that is wrong with a run is a reason against it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import load
from analysis.report import analyse, write_report
from analysis.verdict import Level, Reason, Verdict
from tests.analysis.synthetic import BASE_NS, MS, Plan, digest_of, make_run, open_recorder, read, record_clocks, write

CELL = "cells/k4-b128k"


def judge(path: Path) -> tuple[Level, str]:
    verdict = analyse(load(path)).verdict
    return verdict.level, "\n".join(verdict.lines())


def change(path: Path, name: str, edit: Callable[[Any], None]) -> None:
    document = read(path / CELL / name)
    edit(document)
    write(path / CELL / name, document)


def rewrite(path: Path, validator: str, edit: Callable[[str], str]) -> None:
    """Change the lines of a validator's spool."""
    place = path / CELL / ("client" if validator == "client" else f"nodes/{validator}/spool")
    for segment in place.iterdir():
        segment.write_text(edit(segment.read_text()))


def drop_lines(text: str, *marks: str) -> str:
    return "".join(line for line in text.splitlines(True) if not all(mark in line for mark in marks))


def test_a_sound_run_is_valid(tmp_path: Path) -> None:
    level, lines = judge(make_run(tmp_path))
    assert level is Level.VALID, lines


# --- agreement, integrity, validity, termination --------------------------------------------------------------------


def test_different_blocks_at_one_height_are_invalid(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    other = digest_of("fork").hex()

    def fork(digest: Any) -> None:
        digest["blocks"][4][1] = other

    change(path, "nodes/validator-2/digest.json", fork)
    level, lines = judge(path)
    assert level is Level.INVALID
    assert "disagree about finalized height 5" in lines
    assert f"{other[:8]} on validator-2" in lines


def test_the_same_block_with_another_body_is_invalid(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    change(path, "nodes/validator-2/digest.json", lambda digest: digest["blocks"][4].__setitem__(3, "00"))
    level, lines = judge(path)
    assert level is Level.INVALID and "disagree about finalized height 5" in lines


def test_a_gap_in_a_finalized_chain_is_invalid(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    change(path, "nodes/validator-2/digest.json", lambda digest: digest["blocks"].pop(4))
    level, lines = judge(path)
    assert level is Level.INVALID and "validator-2: its finalized blocks are no chain: height 6 stands where 5" in lines


def test_ledgers_of_different_chains_are_invalid(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    change(path, "nodes/validator-2/digest.json", lambda digest: digest.__setitem__("chain_id", "00" * 32))
    level, lines = judge(path)
    assert level is Level.INVALID and "different chains" in lines


def test_an_unsound_ledger_is_invalid(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    change(path, "nodes/validator-2/digest.json", lambda digest: digest["problems"].append("height 3: wrong parent"))
    level, lines = judge(path)
    assert level is Level.INVALID and "validator-2: its ledger is not sound: height 3: wrong parent" in lines


def test_a_ledger_that_was_not_audited_is_suspect(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    change(path, "nodes/validator-2/digest.json", lambda digest: digest.pop("problems"))
    level, lines = judge(path)
    assert level is Level.SUSPECT and "validator-2: its ledger was not audited" in lines


def test_recorded_evidence_is_suspect(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    change(path, "nodes/validator-2/digest.json", lambda d: d["evidence"].append({"rule": "double-vote"}))
    level, lines = judge(path)
    assert level is Level.SUSPECT and "validator-2 recorded 1 proofs of an offence" in lines


def test_a_validator_that_lags_is_suspect_and_no_disagreement(tmp_path: Path) -> None:
    path = make_run(tmp_path)

    def lag(digest: Any) -> None:
        digest["blocks"].pop()
        height, id, *_ = digest["blocks"][-1]
        digest["finalized"] = {"height": height, "id": id}

    change(path, "nodes/validator-2/digest.json", lag)
    level, lines = judge(path)
    assert level is Level.SUSPECT
    assert "not all validators finalized the same height" in lines
    assert "round 11: its block is not final on validator-2" in lines


def test_a_block_reported_final_that_no_ledger_holds_is_invalid(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    records = (path / CELL / "rounds.jsonl").read_text()
    (path / CELL / "rounds.jsonl").write_text(records.replace(digest_of("k4-b128k", "block", 5).hex(), "ab" * 32))
    level, lines = judge(path)
    assert level is Level.INVALID and "round 5: its block abababab is final in no ledger" in lines


def test_an_acknowledged_transaction_that_is_final_nowhere_is_invalid(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    recorder = open_recorder(path / CELL / "client", Plan(), "client", "bench")
    recorder.transactions("accepted", [digest_of("lost")], BASE_NS + 5 * MS)
    recorder.close(BASE_NS + 10**7 * MS)
    level, lines = judge(path)
    assert level is Level.INVALID
    assert f"neither finalized nor expired anywhere, e.g. {digest_of('lost')[:8].hex()}" in lines


def test_an_expired_transaction_is_not_lost(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    places = {"client": "accepted"} | {f"validator-{n}": "expired" for n in range(1, 5)}
    for name, event in places.items():
        directory = path / CELL / ("client" if name == "client" else f"nodes/{name}/spool")
        recorder = open_recorder(directory, Plan(), name, "bench")
        recorder.transactions(event, [digest_of("late")], BASE_NS + 5 * MS)
        recorder.close(BASE_NS + 10**7 * MS)
    level, lines = judge(path)
    assert level is Level.VALID, lines


def test_lost_telemetry_is_not_taken_for_lost_transactions(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    for name in ("validator-1", "validator-2", "validator-3", "validator-4"):
        rewrite(path, name, lambda text: drop_lines(text, "transaction,", "event=finalized"))
    level, lines = judge(path)
    assert level is Level.SUSPECT and "neither finalized nor expired anywhere" in lines


# --- what is missing or was lost ------------------------------------------------------------------------------------


def test_a_missing_validator_is_suspect(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    for file in sorted((path / CELL / "nodes/validator-3").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    level, lines = judge(path)
    assert level is Level.SUSPECT
    assert "validator-3 is missing: it has no ledger digest and no telemetry" in lines
    assert "no spool" not in lines and "digest.json" not in lines
    assert "T_cf: no complete justified from validator-3 in 10 of 10 rounds" in lines


def test_dropped_points_are_suspect(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    rewrite(path, "validator-2", lambda text: text.replace("dropped=0i", "dropped=17i"))
    level, lines = judge(path)
    assert level is Level.SUSPECT and "validator-2 dropped 17 telemetry points" in lines


def test_lines_that_the_closing_report_counted_but_the_file_lacks_are_suspect(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    rewrite(path, "validator-2", lambda text: drop_lines(text, "peer,"))
    level, lines = judge(path)
    assert level is Level.SUSPECT and "36 of" in lines and "lines are missing from the spool of validator-2" in lines


def test_a_spool_without_its_closing_report_is_suspect(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    rewrite(path, "validator-2", lambda text: drop_lines(text, "closed=true") + "block,torn")
    level, lines = judge(path)
    assert level is Level.SUSPECT and "the spool of validator-2 ends with a torn line" in lines


def test_moved_timestamps_are_suspect(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    rewrite(path, "client", lambda text: text.replace("shift_ns=0i", "shift_ns=2500000i"))
    level, lines = judge(path)
    assert level is Level.SUSPECT and "client moved timestamps by up to 2.5 ms" in lines


# --- how it went ----------------------------------------------------------------------------------------------------


def test_a_failed_cell_is_invalid(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    write(path / CELL / "outcome.json", {"status": "failed", "drained": False, "message": "2 of 4 are not ready"})
    level, lines = judge(path)
    assert level is Level.INVALID and "the cell failed: 2 of 4 are not ready" in lines


def test_a_backlog_is_suspect(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    write(path / CELL / "outcome.json", {"status": "ok", "drained": False})
    level, lines = judge(path)
    assert level is Level.SUSPECT and "the backlog was not drained" in lines


def test_too_few_rounds_are_suspect(tmp_path: Path) -> None:
    level, lines = judge(make_run(tmp_path, Plan(rounds=5)))
    assert level is Level.SUSPECT and "only 5 measured rounds: percentiles need at least 10" in lines


def test_a_fork_is_suspect(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    id, fork = digest_of("k4-b128k", "block", 6).hex(), digest_of("fork").hex()

    def add(text: str) -> str:
        (line,) = [line for line in text.splitlines(True) if id in line and "event=verified" in line]
        return line.replace(id, fork) + text.replace("points=", "points=9")

    rewrite(path, "validator-2", add)
    level, lines = judge(path)
    assert level is Level.SUSPECT and "the chain forked at 1 heights" in lines


def test_a_throttled_board_is_suspect(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    recorder = open_recorder(path / CELL / "nodes/validator-2/spool", Plan(), "validator-2", "bench")
    fields = {
        "cpu_percent": 1.0,
        "load1": 1.0,
        "memory_total_bytes": 1,
        "memory_available_bytes": 1,
        "under_voltage_now": True,
    }
    recorder._point("board", "", "", fields, BASE_NS)
    recorder.close(BASE_NS + 10**7 * MS)
    level, lines = judge(path)
    assert level is Level.SUSPECT and "board bench had too little voltage" in lines


def test_a_clock_that_was_set_during_the_run_is_suspect(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    rewrite(path, "validator-2", lambda text: text.replace("offset_ns=0i", "offset_ns=9000000i"))
    level, lines = judge(path)
    assert level is Level.SUSPECT and "processes of one host disagree about the time by 8.750 ms" in lines


def test_the_worst_reason_decides_and_stands_first() -> None:
    reasons = (Reason(Level.SUSPECT, "odd", "a"), Reason(Level.INVALID, "wrong", "b"))
    verdict = Verdict("run", ("a", "b", "c"), reasons)
    assert verdict.lines() == ["INVALID: run", "  INVALID  b: wrong", "  SUSPECT  a: odd"]
    assert verdict.to_json()["cells"] == {"a": "SUSPECT", "b": "INVALID", "c": "VALID"}


@pytest.mark.parametrize(("late_ms", "suspect"), [(2.0, False), (40.0, True)])
def test_a_late_load_generator_is_suspect(tmp_path: Path, late_ms: float, suspect: bool) -> None:
    path = make_rate_run(tmp_path, late_ms)
    level, lines = judge(path)
    assert ("the load generator was late: 40.0 ms at the 99th percentile" in lines) is suspect
    assert (level is Level.SUSPECT) is suspect, lines


def test_open_loop_latency_counts_from_the_scheduled_moment(tmp_path: Path) -> None:
    path = make_rate_run(tmp_path, 5.0)
    report = analyse(load(path))
    rate = report.cells[0].rate
    assert rate is not None
    assert rate.latency.tolist() == pytest.approx([55.0] * 100)
    assert [rate.offered, rate.finalized] == [100.0, 100.0]


def make_rate_run(root: Path, late_ms: float, plan: Plan | None = None) -> Path:
    """120 transactions at 100 a second, the first 20 of them warm-up; each final 50 ms after it was sent."""
    plan = plan or Plan()
    path = make_run(root, plan)
    workload = {"kind": "rate", "rate": 100, "duration_s": 1.0, "warmup_s": 0.2, "transaction_bytes": 1024}
    change(path, "cell.json", lambda cell: cell.__setitem__("workload", workload))
    ids = [digest_of("rate", number) for number in range(120)]
    for name in ("client", "validator-1", "validator-2", "validator-3", "validator-4"):
        directory = path / CELL / ("client" if name == "client" else f"nodes/{name}/spool")
        for segment in directory.iterdir():
            segment.unlink()
        index = 0 if name == "client" else int(name[-1]) - 1
        host = plan.client_host if name == "client" else plan.host(index)
        recorder = open_recorder(directory, plan, name, host)
        for number, id in enumerate(ids):
            at = BASE_NS + number * 10 * MS
            sent = at + round(late_ms * MS)
            if name == "client":
                recorder.transactions("scheduled", [id], at)
                recorder.transactions("submitted", [id], sent)
                recorder.transactions("accepted", [id], sent + MS)
            else:
                recorder.transactions("finalized", [id], sent + 50 * MS)
        record_clocks(recorder, plan, host, index)
        recorder.close(BASE_NS + 10**7 * MS)
    return path


def test_what_becomes_final_after_the_measured_time_is_no_throughput(tmp_path: Path) -> None:
    rate = analyse(load(make_rate_run(tmp_path, 450.0))).cells[0].rate
    assert rate is not None
    # Final 500 ms after the scheduled moment: in the second measured, those scheduled in its first half and before.
    assert rate.latency.notna().all()
    assert rate.finalized == pytest.approx(100.0 * 71 / 100, abs=2.0)


def test_a_rate_run_has_its_table_and_figures(tmp_path: Path) -> None:
    path = make_rate_run(tmp_path, 5.0)
    write_report(analyse(load(path)), path)
    row = next(line for line in (path / "tables.txt").read_text().splitlines() if line.startswith(" k4-b128k"))
    assert row.split() == ["k4-b128k", "4", "100.0", "100.0", "55.0", "55.0", "55.0", "none"]
    assert read(path / "figures.json")["k4-b128k"]["finalized_per_s"] == 100.0


def test_a_rate_run_without_points_has_dashes_with_reasons(tmp_path: Path) -> None:
    path = make_rate_run(tmp_path, 5.0)
    rewrite(path, "client", lambda text: drop_lines(text, "transaction,"))
    write_report(analyse(load(path)), path)
    text = (path / "tables.txt").read_text()
    assert ") no traced transaction became final in the measured time" in text
    assert "no traced transaction is final on all validators" in text
