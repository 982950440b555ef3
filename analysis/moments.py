"""How a cell went over time, from its corrected points: latency, throughput, finality lag, and each validator's lag.

Times are in seconds after the cell's beginning (Timeline's ``at``), latencies and lags in ms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from microchain.telemetry.recorder import CLIENT

from analysis.statistics import Array
from analysis.timeline import Timeline

__all__ = [
    "FinalTransactions",
    "LagMap",
    "bin_edges",
    "bin_medians",
    "finality_lag",
    "find_final_transactions",
    "map_lags",
]

_NS_PER_S, _NS_PER_MS = 1e9, 1e6


@dataclass(frozen=True)
class FinalTransactions:
    """Traced transactions that are final on all validators: when each was submitted and was final on the last one (s).

    ``traced`` is how many the client submitted in all. Open-loop cells count from the scheduled moment.
    """

    submitted: Array
    final: Array
    traced: int

    @property
    def latency(self) -> Array:
        """From submission to finality, ms."""
        return (self.final - self.submitted) * 1e3


def find_final_transactions(timeline: Timeline) -> FinalTransactions:
    """Find what became final on all validators of the cell; none where no clock is known."""
    points, validators = timeline.transactions, timeline.cell.spec.validators
    client = points[points["validator"] == CLIENT]
    event = "scheduled" if (client["event"] == "scheduled").any() else "submitted"
    begun = client[client["event"] == event].groupby("id", observed=True)["at"].min()
    final = points[(points["event"] == "finalized") & points["validator"].isin(validators)]
    first = final.groupby(["id", "validator"], observed=True)["at"].min().groupby("id", observed=True)
    last = first.max()[first.size() == len(validators)]
    both = pd.concat({"begun": begun, "final": last}, axis=1, join="inner").dropna().sort_values("begun")
    return FinalTransactions(
        both["begun"].to_numpy(dtype=np.float64) / _NS_PER_S,
        both["final"].to_numpy(dtype=np.float64) / _NS_PER_S,
        len(begun),
    )


def finality_lag(timeline: Timeline, moments: int) -> tuple[Array, Array]:
    """Return evenly spaced times and, at each, how many blocks the last validator's finality is behind the head.

    The head is the highest block that any validator has proposed or adopted. Empty without blocks.
    """
    blocks = timeline.blocks[timeline.blocks["at"].notna()]
    heads = blocks[blocks["event"].isin(["proposed", "adopted"])]
    final = blocks[blocks["event"] == "finalized"]
    if heads.empty:
        return np.empty(0), np.empty(0)
    times = np.linspace(float(blocks["at"].min()), float(blocks["at"].max()), moments)
    lowest = np.full(moments, np.inf)
    for name in timeline.cell.spec.validators:
        lowest = np.minimum(lowest, _highest(final[final["validator"] == name], times))
    return times / _NS_PER_S, _highest(heads, times) - lowest


def _highest(blocks: pd.DataFrame, times: Array) -> Array:
    """The greatest height up to each of the times; 0, the genesis, before the first."""
    ordered = blocks.sort_values("at", kind="stable")
    heights = np.concatenate(([0.0], np.maximum.accumulate(ordered["height"].to_numpy(dtype=np.float64))))
    return heights[np.searchsorted(ordered["at"].to_numpy(dtype=np.float64), times, side="right")]


@dataclass(frozen=True)
class LagMap:
    """``lags[v, t]``: the median lag (ms) of validator v behind the first one to finalize the same blocks.

    Of the blocks first finalized from ``edges[t]`` until ``edges[t + 1]`` (s), about equally many for each t; NaN where
    it finalized none. ``bound`` is the largest error of any of these times against another's (ms).
    """

    validators: tuple[str, ...]
    edges: Array
    lags: Array
    bound: float


def map_lags(timeline: Timeline, columns: int) -> LagMap | None:
    """Return the lags in at most ``columns`` stretches of time; None without finalized blocks on a known clock."""
    validators, blocks = timeline.cell.spec.validators, timeline.blocks
    chosen = (blocks["event"] == "finalized") & blocks["at"].notna() & blocks["validator"].isin(validators)
    final = blocks.loc[chosen, ["validator", "id", "at", "bound"]]
    if final.empty:
        return None
    final = final.assign(validator=final["validator"].astype(str)).sort_values("at", kind="stable")
    final = final.drop_duplicates(["validator", "id"])
    begun = final.groupby("id")["at"].transform("min")
    first = begun.to_numpy(dtype=np.float64) / _NS_PER_S
    moments = np.unique(first)
    starts = moments[np.unique(np.linspace(0, len(moments), columns, endpoint=False).astype(np.intp))]
    edges = np.append(starts, max(moments[-1], starts[-1]) + 1e-3)
    stretch = np.clip(np.searchsorted(edges, first, side="right") - 1, 0, len(edges) - 2)
    lag = (final["at"] - begun).to_numpy(dtype=np.float64) / _NS_PER_MS
    medians = pd.Series(lag).groupby([final["validator"].to_numpy(), stretch]).median().unstack()
    medians = medians.reindex(index=list(validators), columns=range(len(edges) - 1))
    return LagMap(
        tuple(validators), edges, medians.to_numpy(dtype=np.float64), 2 * float(final["bound"].max()) / _NS_PER_MS
    )


def bin_edges(times: Array, bins: int) -> Array:
    """Return the edges of ``bins`` equal stretches from the first to the last of the times."""
    first, last = float(times.min()), float(times.max())
    return np.linspace(first, last if last > first else first + 1.0, max(1, bins) + 1)


def bin_medians(times: Array, values: Array, edges: Array) -> tuple[Array, Array]:
    """Return the middles of those stretches that have values, and the median of each."""
    stretch = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(edges) - 2)
    medians = pd.Series(values).groupby(stretch).median().dropna()
    middles = (edges[:-1] + edges[1:]) / 2
    found = np.column_stack([middles[medians.index.to_numpy(dtype=np.intp)], medians.to_numpy(dtype=np.float64)])
    return found[:, 0], found[:, 1]
