"""What makes a cell SUSPECT or INVALID besides its ledgers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from microchain.telemetry.recorder import CLIENT

from analysis.agreement import check_ledgers, check_termination
from analysis.causes import Cause
from analysis.check_boards import check_boards
from analysis.check_database import check_database
from analysis.check_telemetry import check_telemetry, find_missing
from analysis.documents import RateWorkload
from analysis.figures import CLOCK_BOUND_MS, CLOCK_BOUND_SHARE, is_bound_too_wide
from analysis.rates import RateFigures
from analysis.rounds import PHASES, RoundFigures
from analysis.run import Cell, Run
from analysis.statistics import MIN_P99_SAMPLES
from analysis.timeline import Timeline
from analysis.verdict import Reason, against

__all__ = ["LATE_MS", "MIN_ROUNDS", "check_cell"]

MIN_ROUNDS = 10
"""With fewer rounds a 90th percentile is the worst round."""
LATE_MS = 10.0
"""The generator is late if the 99th percentile of submitted - scheduled is beyond this."""

Finding = tuple[Cause, str]


def check_cell(
    run: Run, cell: Cell, timeline: Timeline, rounds: RoundFigures | None, rate: RateFigures | None
) -> list[Reason]:
    """Return every reason against one cell."""
    missing = find_missing(run, cell)
    telemetry = list(check_telemetry(run, cell, missing))
    findings = [
        *telemetry,
        *check_database(run.path, cell),
        *_check_outcome(cell),
        *_check_clocks(timeline),
        *_check_chain(timeline),
        *_check_load(timeline),
        *check_boards(run, cell),
        *(_check_rounds(rounds) if rounds is not None else ()),
        *(_check_rate(rate) if rate is not None else ()),
    ]
    return [
        *(against(cell.id, cause, text) for cause, text in findings),
        *check_ledgers(cell.id, cell.digests, missing.validators),
        *check_termination(timeline, complete=not telemetry, silent=missing.silent),
    ]


def _check_outcome(cell: Cell) -> Iterator[Finding]:
    if cell.outcome is None:
        yield Cause.CELL_NOT_RUN, "the cell has no outcome: it was not run to its end"
    elif cell.outcome.status != "ok":
        yield Cause.CELL_FAILED, f"the cell {cell.outcome.status}: {cell.outcome.message or 'no message'}"
    elif cell.outcome.drained is False:
        yield Cause.BACKLOG, "the backlog was not drained: not every transaction was final at the end"


def _check_clocks(timeline: Timeline) -> Iterator[Finding]:
    for host in timeline.unreachable:
        yield Cause.CLOCK_UNKNOWN, f"the clock of host {host} was never compared with the others'"
    if timeline.disagreement_ns > 0:
        milliseconds = timeline.disagreement_ns / 1e6
        yield Cause.CLOCK_SET, f"processes of one host disagree about the time by {milliseconds:.3f} ms"
    for (one, other), step in timeline.clocks.contradictions.items():
        text = f"the clocks of {one} and {other} were measured in contradiction, by at least {step / 1e6:.3f} ms"
        yield Cause.CLOCK_UNSTEADY, text


def _check_chain(timeline: Timeline) -> Iterator[Finding]:
    """Forks, and blocks that a validator refused."""
    blocks = timeline.blocks
    seen = blocks[blocks["event"].isin(["proposed", "verified", "adopted"])]
    forks = int((seen.groupby("height")["id"].nunique() > 1).sum())
    rejected = int(blocks.loc[blocks["event"] == "rejected", "id"].nunique())
    if forks:
        yield Cause.FORK, f"the chain forked at {forks} heights"
    if rejected:
        yield Cause.BLOCKS_REJECTED, f"{rejected} blocks were rejected as invalid"


def _check_rounds(figures: RoundFigures) -> Iterator[Finding]:
    frame = figures.frame
    rounds = len(frame) + sum(figures.failures.values())
    endings = {"timeout": "timed out", "split": "went into several blocks"}
    for status, count in figures.failures.items():
        text = f"{count} of {rounds} measured rounds {endings.get(status, f'ended as {status!r}')}"
        yield Cause.ROUNDS_FAILED, text
    if len(frame) < MIN_ROUNDS:
        yield Cause.TOO_FEW_SAMPLES, f"only {len(frame)} measured rounds: percentiles need at least {MIN_ROUNDS}"
    for phase in PHASES:
        if phase != "T_bc":
            yield from ((Cause.POINTS_MISSING, f"{phase}: {reason}") for reason in figures.reasons[phase])
        yield from _check_bound(phase, frame[phase].median(), frame[f"{phase}_bound"].max())
        if (frame[phase] < -frame[f"{phase}_bound"].fillna(0)).any():
            yield Cause.CLOCK_ORDER, f"{phase}: some rounds end before they begin"


def _check_rate(figures: RateFigures) -> Iterator[Finding]:
    known = figures.latency.dropna()
    if len(known) < MIN_P99_SAMPLES:
        text = f"only {len(known)} measured transactions: percentiles need at least {MIN_P99_SAMPLES}"
        yield Cause.TOO_FEW_SAMPLES, text
    yield from _check_bound("latency", known.median(), figures.bound.loc[known.index].max())
    if (known < -figures.bound.loc[known.index]).any():
        yield Cause.CLOCK_ORDER, "latency: some transactions are final before they were due"


def _check_bound(name: str, median: float, bound: float) -> Iterator[Finding]:
    if is_bound_too_wide(median, bound):
        text = f"{name}: the clocks' error of {bound:.1f} ms is more than {CLOCK_BOUND_SHARE:.0%} of {median:.1f} ms"
        yield Cause.CLOCK_BOUND, f"{text} (and than {CLOCK_BOUND_MS:g} ms)"


def _check_load(timeline: Timeline) -> Iterator[Finding]:
    """Refused transactions, and a generator that could not keep its schedule."""
    points = timeline.transactions
    client = points[points["validator"] == CLIENT]
    rejected = int(client.loc[client["event"] == "rejected", "id"].nunique())
    if rejected:
        yield Cause.TRANSACTIONS_REFUSED, f"{rejected} transactions were refused"
    if not isinstance(timeline.cell.spec.workload, RateWorkload):
        return
    # Both on the client's own clock: no correction is needed, nor may it fail.
    first = client.sort_values("time").drop_duplicates(["id", "event"])
    scheduled = first[first["event"] == "scheduled"].set_index("id")["time"]
    submitted = first[first["event"] == "submitted"].set_index("id")["time"]
    late = ((submitted - scheduled) / 1e6).dropna()
    if len(late) and float(np.percentile(late, 99)) > LATE_MS:
        text = f"the load generator was late: {np.percentile(late, 99):.1f} ms at the 99th percentile"
        yield Cause.GENERATOR_LATE, text
