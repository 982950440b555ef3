"""Hosts and validators of which nothing came, and telemetry that was lost, dropped or interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from microchain.telemetry.recorder import CLIENT
from msgspec import Struct

from analysis.causes import Cause
from analysis.check_reports import MAX_SHIFT_NS, check_reports
from analysis.documents import read_document
from analysis.problems import Problem
from analysis.run import Cell, Run

__all__ = ["GAP_INTERVALS", "GAP_S", "Missing", "check_telemetry", "find_missing"]

GAP_INTERVALS = 5
GAP_S = 3.0
"""Points that come every interval may be late by so many intervals, and by so many seconds, on a busy board."""
_SHOWN_PROBLEMS = 8

Finding = tuple[Cause, str]


class _Inventory(Struct, kw_only=True):
    """``inventory.json``: which validator was deployed where."""

    class Validator(Struct):
        """One validator and its host."""

        name: str
        host: str

    validators: tuple[Validator, ...] = ()


@dataclass(frozen=True)
class Missing:
    """``silent`` processes left no telemetry; ``validators`` neither that nor a ledger; ``hosts`` by their validators.

    A host is missing if all the cell's validators on it are.
    """

    silent: tuple[str, ...]
    validators: tuple[str, ...]
    hosts: dict[str, tuple[str, ...]]


def find_missing(run: Run, cell: Cell) -> Missing:
    """Find what should be there, by the plan and the inventory, and is not."""
    reporting = _reporting(run, cell)
    silent = tuple(name for name in (*cell.spec.validators, CLIENT) if name not in reporting)
    validators = tuple(name for name in silent if name != CLIENT and cell.digests.get(name) is None)
    hosts: dict[str, list[str]] = {}
    for name, host in _host_of(run).items():
        if name in cell.spec.validators:
            hosts.setdefault(host, []).append(name)
    gone = {host: tuple(names) for host, names in hosts.items() if set(names) <= set(validators)}
    return Missing(silent, validators, gone)


def _reporting(run: Run, cell: Cell) -> set[str]:
    if run.source == "spools":
        of_cell = (session for session in run.sessions if session.cell == cell.id)
        return {session.validator for session in of_cell if session.lines > session.bad_lines}
    frames = (run.transactions, run.blocks, run.votes, run.messages, run.peers, run.boards, run.processes, run.spools)
    return {str(name) for frame in frames for name in frame.loc[frame["cell"] == cell.id, "validator"].unique()}


def _host_of(run: Run) -> dict[str, str]:
    """Each deployed validator's host; empty if the run has no readable inventory, as runs made by hand."""
    inventory = read_document(run.path / "inventory.json", _Inventory, [], run.path)
    return {} if inventory is None else {entry.name: entry.host for entry in inventory.validators}


def check_telemetry(run: Run, cell: Cell, missing: Missing) -> Iterator[Finding]:
    """Say what is missing of the cell's telemetry; nothing if all of it is there."""
    for host, names in missing.hosts.items():
        yield Cause.HOST_MISSING, f"host {host} is missing: nothing came of {', '.join(names)}"
    of_hosts = {name for names in missing.hosts.values() for name in names}
    for name in missing.validators:
        if name not in of_hosts:
            yield Cause.VALIDATOR_MISSING, f"{name} is missing: it has no ledger digest and no telemetry"
    for name in missing.silent:
        if name not in missing.validators:
            yield Cause.TELEMETRY_MISSING, f"{name} has no telemetry"
    yield from _check_problems(run, cell, missing)
    yield from _check_sessions(run, cell) if run.source == "spools" else check_reports(run, cell)
    yield from _check_gaps(run, cell)


def _check_problems(run: Run, cell: Cell, missing: Missing) -> Iterator[Finding]:
    """What was wrong with files; of validators that are missing altogether enough is said."""
    places = tuple(f"cells/{cell.id}/nodes/{name}/" for name in missing.validators)
    problems = [problem for problem in cell.problems if not (places and problem.file.startswith(places))]
    for problem in problems[:_SHOWN_PROBLEMS]:
        yield _cause_of(run, problem), str(problem)
    hidden = problems[_SHOWN_PROBLEMS:]
    if hidden:
        yield _cause_of(run, hidden[0]), f"… and {len(hidden)} more problems of this kind"


def _cause_of(run: Run, problem: Problem) -> Cause:
    if run.source == "influxdb" and problem.file.startswith("InfluxDB"):
        return Cause.INFLUXDB_DIFFERS
    return Cause.FILE_DAMAGED if problem.line is None else Cause.LINES_BAD


def _check_sessions(run: Run, cell: Cell) -> Iterator[Finding]:
    for session in run.sessions:
        if session.cell != cell.id:
            continue
        name = session.validator
        if session.dropped:
            yield Cause.POINTS_DROPPED, f"{name} dropped {session.dropped} telemetry points"
        if session.missing_lines:
            text = f"{session.missing_lines} of {session.points + 1} lines are missing from the spool of {name}"
            yield Cause.LINES_MISSING, text
        if not session.closed:
            end = "a torn line" if session.torn else "no closing report"
            yield Cause.SPOOL_NOT_CLOSED, f"the spool of {name} ends with {end}"
        if session.shift_ns > MAX_SHIFT_NS:
            text = f"{name} moved timestamps by up to {session.shift_ns / 1e6:.1f} ms to keep them apart"
            yield Cause.TIMES_MOVED, text


def _check_gaps(run: Run, cell: Cell) -> Iterator[Finding]:
    """Holes in what every validator writes at every interval, by its own clock."""
    interval = cell.spec.telemetry.interval_s
    longest = max(GAP_INTERVALS * interval, GAP_S)
    events = [_times(cell, frame) for frame in (run.transactions, run.blocks, run.votes)]
    regular = [_times(cell, frame) for frame in (run.messages, run.processes, run.boards)]
    for name in cell.spec.validators:
        # Of events only the first and the last count: what lies between them may be rare.
        of_events = np.concatenate([_NONE, *(times[name] for times in events if name in times)])
        ends = of_events[[of_events.argmin(), of_events.argmax()]] if len(of_events) else _NONE
        moments = np.unique(np.concatenate([ends, *(times[name] for times in regular if name in times)]))
        pauses = np.diff(moments) / 1e9
        gaps = pauses[pauses > longest]
        if len(gaps):
            worst = int(pauses.argmax())
            after = (moments[worst] - moments[0]) / 1e9
            text = f"{name} wrote no regular points for {pauses[worst]:.1f} s, {after:.1f} s after its first point"
            shorter = f" (and {len(gaps) - 1} shorter gaps)" if len(gaps) > 1 else ""
            yield Cause.TELEMETRY_GAP, f"{text}; one is due every {interval:g} s{shorter}"


_NONE = np.empty(0, dtype=np.int64)


def _times(cell: Cell, frame: pd.DataFrame) -> dict[str, npt.NDArray[np.int64]]:
    """The times of the cell's points, by validator."""
    grouped = frame[frame["cell"] == cell.id].groupby("validator", observed=True)["time"]
    return {str(name): times.to_numpy(dtype=np.int64) for name, times in grouped}
