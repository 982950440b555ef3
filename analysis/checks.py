"""What makes a cell SUSPECT or INVALID besides its ledgers."""

from __future__ import annotations

import numpy as np
from microchain.telemetry.recorder import CLIENT

from analysis.agreement import check_ledgers, check_termination
from analysis.documents import RateWorkload
from analysis.figures import CLOCK_BOUND_MS, CLOCK_BOUND_SHARE, is_bound_too_wide
from analysis.problems import Problem
from analysis.rounds import PHASES, RoundFigures
from analysis.run import Cell, Run
from analysis.timeline import Timeline
from analysis.verdict import Level, Reason

__all__ = ["LATE_MS", "MIN_SAMPLES", "check_cell"]

MIN_SAMPLES = 10
"""With fewer rounds a 90th percentile is the worst round."""
LATE_MS = 10.0
"""The generator is late if the 99th percentile of submitted - scheduled is beyond this."""
MAX_SHIFT_NS = 1_000_000
_SHOWN_PROBLEMS = 8


def check_cell(run: Run, cell: Cell, timeline: Timeline, figures: RoundFigures | None) -> list[Reason]:
    """Return every reason against one cell."""
    telemetry = _check_spools(run, cell)
    texts = [
        *((Level.SUSPECT, text) for text in telemetry),
        *((Level.SUSPECT, text) for text in _describe(cell.problems)),
        *_check_outcome(cell),
        *((Level.SUSPECT, text) for text in _check_clocks(timeline)),
        *((Level.SUSPECT, text) for text in _check_chain(timeline)),
        *((Level.SUSPECT, text) for text in _check_load(timeline)),
        *((Level.SUSPECT, text) for text in _check_boards(run, cell)),
    ]
    if figures is not None:
        texts += [(Level.SUSPECT, text) for text in _check_rounds(figures)]
    reasons = [Reason(level, text, cell.id) for level, text in texts]
    complete = not telemetry and not cell.problems
    return [
        *reasons,
        *check_ledgers(cell.id, cell.digests),
        *check_termination(timeline, complete=complete),
    ]


def _describe(problems: list[Problem]) -> list[str]:
    shown = [str(problem) for problem in problems[:_SHOWN_PROBLEMS]]
    hidden = len(problems) - len(shown)
    return [*shown, f"… and {hidden} more problems of this kind"] if hidden else shown


def _check_spools(run: Run, cell: Cell) -> list[str]:
    found = []
    sessions = [session for session in run.sessions if session.cell == cell.id]
    for session in sessions:
        name = session.validator
        if session.dropped:
            found.append(f"{name} dropped {session.dropped} telemetry points (spool full or not writable)")
        if session.missing_lines:
            found.append(f"{session.missing_lines} of {session.points + 1} lines are missing from the spool of {name}")
        if not session.closed:
            end = "a torn line" if session.torn else "no closing report"
            found.append(f"the spool of {name} ends with {end}: the process was killed, or is still running")
        if session.shift_ns > MAX_SHIFT_NS:
            found.append(f"{name} moved timestamps by up to {session.shift_ns / 1e6:.1f} ms to keep them apart")
    reporting = {session.validator for session in sessions if session.lines > session.bad_lines}
    found += [f"{name} has no telemetry" for name in (*cell.spec.validators, CLIENT) if name not in reporting]
    return found


def _check_outcome(cell: Cell) -> list[tuple[Level, str]]:
    if cell.outcome is None:
        return [(Level.INVALID, "the cell has no outcome: it was not run to its end")]
    if cell.outcome.status != "ok":
        return [(Level.INVALID, f"the cell {cell.outcome.status}: {cell.outcome.message or 'no message'}")]
    if cell.outcome.drained is False:
        return [(Level.SUSPECT, "the backlog was not drained: not every transaction was final at the end")]
    return []


def _check_clocks(timeline: Timeline) -> list[str]:
    found = [f"the clock of host {host} was never compared with the others'" for host in timeline.unreachable]
    if timeline.disagreement_ns > 0:
        milliseconds = timeline.disagreement_ns / 1e6
        found.append(f"processes of one host disagree about the time by {milliseconds:.3f} ms: was its clock set?")
    return found


def _check_chain(timeline: Timeline) -> list[str]:
    """Forks, and blocks that a validator refused."""
    blocks = timeline.blocks
    seen = blocks[blocks["event"].isin(["proposed", "verified", "adopted"])]
    forks = int((seen.groupby("height")["id"].nunique() > 1).sum())
    rejected = int(blocks.loc[blocks["event"] == "rejected", "id"].nunique())
    found = [f"the chain forked at {forks} heights"] if forks else []
    return [*found, f"{rejected} blocks were rejected as invalid"] if rejected else found


def _check_rounds(figures: RoundFigures) -> list[str]:
    found = []
    frame = figures.frame
    rounds = len(frame) + sum(figures.failures.values())
    endings = {"timeout": "timed out", "split": "went into several blocks"}
    for status, count in figures.failures.items():
        found.append(f"{count} of {rounds} measured rounds {endings.get(status, f'ended as {status!r}')}")
    if len(frame) < MIN_SAMPLES:
        found.append(f"only {len(frame)} measured rounds: percentiles need at least {MIN_SAMPLES}")
    for phase in PHASES:
        if phase != "T_bc":
            found += [f"{phase}: {reason}" for reason in figures.reasons[phase]]
        median, bound = frame[phase].median(), frame[f"{phase}_bound"].max()
        if is_bound_too_wide(median, bound):
            found.append(
                f"{phase}: the clocks' error of {bound:.1f} ms is more than {CLOCK_BOUND_SHARE:.0%} of {median:.1f} ms "
                f"(and than {CLOCK_BOUND_MS:g} ms)"
            )
        if (frame[phase] < -frame[f"{phase}_bound"].fillna(0)).any():
            found.append(f"{phase}: some rounds end before they begin: the clocks can't be trusted")
    return found


def _check_load(timeline: Timeline) -> list[str]:
    """Refused transactions, and a generator that could not keep its schedule."""
    points = timeline.transactions
    client = points[points["validator"] == CLIENT]
    found = []
    rejected = int(client.loc[client["event"] == "rejected", "id"].nunique())
    if rejected:
        found.append(f"{rejected} transactions were refused")
    if not isinstance(timeline.cell.spec.workload, RateWorkload):
        return found
    first = client.sort_values("at").drop_duplicates(["id", "event"])
    scheduled = first[first["event"] == "scheduled"].set_index("id")["at"]
    submitted = first[first["event"] == "submitted"].set_index("id")["at"]
    late = ((submitted - scheduled) / 1e6).dropna()
    if len(late) and float(np.percentile(late, 99)) > LATE_MS:
        found.append(f"the load generator was late: {np.percentile(late, 99):.1f} ms at the 99th percentile")
    return found


def _check_boards(run: Run, cell: Cell) -> list[str]:
    boards = run.boards[run.boards["cell"] == cell.id]
    causes = {
        "throttled_now": "was throttled",
        "under_voltage_now": "had too little voltage",
        "frequency_capped_now": "had its frequency capped",
        "temperature_limit_now": "reached its temperature limit",
    }
    found = []
    for host, points in boards.groupby("host", observed=True):
        found += [f"board {host} {text}" for column, text in causes.items() if points[column].eq(True).any()]
    return found
