"""The chapter's latencies of each round, from raw points.

- T_ct: the client's first ``submitted`` of the round → the last ``accepted`` of its transactions on all validators
- T_bp: the block's ``proposed`` → its last ``verified`` on all validators (its proposer has it verified by proposing)
- T_cf: the first vote ``sent`` for the block → its last ``justified`` on all validators
- T_bc = T_ct + T_bp + T_cf; finality: the first ``submitted`` → the block's last ``finalized`` on all validators
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from microchain.telemetry.recorder import CLIENT, is_sampled

from analysis.timeline import Timeline

__all__ = ["PHASES", "RoundFigures", "measure_rounds"]

PHASES = ("T_ct", "T_bp", "T_cf", "T_bc", "finality")
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class RoundFigures:
    """Figures of a cell's measured rounds that ended well (``failures`` counts the others by status; no warm-up).

    ``frame`` is indexed by round, with ``bytes``, ``transactions`` and for each of PHASES its duration in ms and
    ``<phase>_bound`` in ms; NaN where a point is missing. ``reasons`` say for each phase why figures are missing.
    """

    frame: pd.DataFrame
    failures: dict[str, int]
    reasons: dict[str, tuple[str, ...]]


def measure_rounds(timeline: Timeline) -> RoundFigures:
    """Measure every round of the cell that ended well."""
    cell = timeline.cell
    measured = [r for r in cell.rounds if not r.warmup]
    finished = [r for r in measured if r.status == "ok"]
    index = pd.Index([r.round for r in finished], name="round")
    frame = pd.DataFrame({"bytes": [r.bytes for r in finished]}, index=index)
    frame["transactions"] = [len(r.transaction_ids) for r in finished]
    ids = pd.DataFrame(
        [(r.round, id) for r in finished for id in r.transaction_ids if _traced(id, cell.spec.telemetry.sample)],
        columns=["round", "id"],
    ).drop_duplicates()
    blocks = pd.DataFrame([(r.round, r.block) for r in finished if r.block], columns=["round", "id"])
    meter = _Meter(timeline, index, ids, blocks)
    meter.measure(frame)
    failures = Counter(r.status for r in measured if r.status != "ok")
    return RoundFigures(frame, dict(failures), {phase: tuple(reasons) for phase, reasons in meter.reasons.items()})


def _traced(id: str, sample: float) -> bool:
    return is_sampled(bytes.fromhex(id), sample)


class _Meter:
    """Finds the moments that bound each phase; a moment is a Series by round, NaN where it is not known."""

    def __init__(self, timeline: Timeline, index: pd.Index, ids: pd.DataFrame, blocks: pd.DataFrame) -> None:
        self._timeline = timeline
        self._validators = list(timeline.cell.spec.validators)
        self._index = index
        self._ids = ids
        self._of_transactions = ids.merge(timeline.transactions, on="id")
        self._of_blocks = blocks.merge(timeline.blocks, on="id")
        self._of_votes = blocks.rename(columns={"id": "target"}).merge(timeline.votes, on="target")
        self.reasons: dict[str, list[str]] = {phase: [] for phase in PHASES}

    def measure(self, frame: pd.DataFrame) -> None:
        submitted = self._first(self._of_transactions, "submitted", CLIENT)
        proposed = self._first(self._of_blocks, "proposed")
        moments = {
            "T_ct": (submitted, self._all_accepted()),
            "T_bp": (proposed, self._last_block("T_bp", "verified", proposer_has_it=True)),
            "T_cf": (self._first(self._of_votes, "sent"), self._last_block("T_cf", "justified")),
            "finality": (submitted, self._last_block("finality", "finalized")),
        }
        first_points = {"T_ct": "submitted", "T_bp": "proposed", "T_cf": "vote sent", "finality": "submitted"}
        for phase, (start, end) in moments.items():
            self._note_missing(phase, start, first_points[phase])
            frame[phase] = (end["at"] - start["at"]) / _NS_PER_MS
            frame[f"{phase}_bound"] = (end["bound"] + start["bound"]) / _NS_PER_MS
        frame["T_bc"] = frame[["T_ct", "T_bp", "T_cf"]].sum(axis=1, skipna=False)
        frame["T_bc_bound"] = frame[["T_ct_bound", "T_bp_bound", "T_cf_bound"]].sum(axis=1, skipna=False)
        self.reasons["T_bc"] = [*self.reasons["T_ct"], *self.reasons["T_bp"], *self.reasons["T_cf"]]

    def _first(self, points: pd.DataFrame, event: str, validator: str | None = None) -> pd.DataFrame:
        """The earliest point of the event in each round, on any validator or on the one given.

        Another point with a wider bound may in truth be earlier: the bound covers that.
        """
        chosen = points[points["event"] == event]
        if validator is not None:
            chosen = chosen[chosen["validator"] == validator]
        ends = chosen.assign(low=chosen["at"] - chosen["bound"], high=chosen["at"] + chosen["bound"])
        first = ends.groupby("round")[["at", "low", "high"]].min()
        bound = np.maximum(first["at"] - first["low"], first["high"] - first["at"])
        return first[["at"]].assign(bound=bound).reindex(self._index)

    def _all_accepted(self) -> pd.DataFrame:
        """When the last validator had accepted the last of the round's traced transactions."""
        points = self._of_transactions
        points = points[(points["event"] == "accepted") & points["validator"].isin(self._validators)]
        points = points.sort_values("at", kind="stable").drop_duplicates(["round", "validator", "id"])
        grouped = points.groupby(["round", "validator"], observed=True)
        last = grouped.agg(at=("at", "max"), bound=("bound", "max"), count=("id", "size"))
        expected = self._ids.groupby("round").size().reindex(last.index.get_level_values("round"))
        complete = last[last["count"].to_numpy() == expected.to_numpy()]
        return self._over_validators("T_ct", "accepted", complete)

    def _last_block(self, phase: str, event: str, *, proposer_has_it: bool = False) -> pd.DataFrame:
        """When the last validator reported the event for the round's block."""
        events = [event, "proposed"] if proposer_has_it else [event]
        points = self._of_blocks
        points = points[points["event"].isin(events) & points["validator"].isin(self._validators)]
        # A validator may report twice after a restart: the first report counts.
        points = points.sort_values("at", kind="stable").drop_duplicates(["round", "validator", "event"])
        points = points.drop_duplicates(["round", "validator"], keep="last")
        return self._over_validators(phase, event, points.set_index(["round", "validator"]))

    def _over_validators(self, phase: str, what: str, points: pd.DataFrame) -> pd.DataFrame:
        """The latest of the validators' moments in each round, unknown unless all of them have one."""
        at, bound = (
            points[column].unstack("validator").reindex(index=self._index, columns=self._validators)
            for column in ("at", "bound")
        )
        missing = Counter({name: int(at[name].isna().sum()) for name in self._validators})
        for name, count in missing.items():
            if count:
                self._note(phase, f"no complete {what} from {name} in {count} of {len(self._index)} rounds")
        complete = at.notna().all(axis=1)
        return pd.DataFrame(
            {"at": at.max(axis=1).where(complete), "bound": bound.max(axis=1).where(complete)}, index=self._index
        )

    def _note_missing(self, phase: str, start: pd.DataFrame, what: str) -> None:
        count = int(np.isnan(start["at"]).sum())
        if count:
            self._note(phase, f"no {what} point in {count} of {len(self._index)} rounds")

    def _note(self, phase: str, reason: str) -> None:
        unreachable = self._timeline.unreachable
        clocks = f" (the clock of {', '.join(unreachable)} was never compared with the others')" if unreachable else ""
        self.reasons[phase].append(reason + clocks)
