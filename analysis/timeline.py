"""One cell's points on one clock: ``at`` (ns after the cell's beginning, float64 so exact) and ``bound`` (ns)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from microchain.telemetry.recorder import CLIENT

from analysis.clock import ClockModel, build_clocks
from analysis.run import Cell, Run

__all__ = ["Timeline", "build_timeline", "correct_times", "find_clocks"]


@dataclass(frozen=True)
class Timeline:
    """Transactions, blocks and votes of a cell as in Run, with ``at`` and ``bound``; NaN where no clock is known.

    ``unreachable`` are the hosts whose clocks were never compared with the others'; ``disagreement_ns`` is the largest
    offset beyond its bound that two processes of one host measured: the clock was set while they ran.
    ``origin`` is time 0 of ``at``: the first point of the reference host, ns since 1970 on its clock.
    """

    cell: Cell
    transactions: pd.DataFrame
    blocks: pd.DataFrame
    votes: pd.DataFrame
    hosts: dict[str, str]
    unreachable: tuple[str, ...]
    disagreement_ns: int
    origin: int
    clocks: ClockModel


def build_timeline(run: Run, cell: Cell) -> Timeline:
    """Correct the clocks of one cell's points."""
    transactions, blocks, votes, peers = (
        frame[frame["cell"] == cell.id] for frame in (run.transactions, run.blocks, run.votes, run.peers)
    )
    hosts, clocks = find_clocks(run, cell)
    origin = _origin([transactions, blocks, votes], clocks.reference)
    return Timeline(
        cell,
        correct_times(transactions, clocks, origin),
        correct_times(blocks, clocks, origin),
        correct_times(votes, clocks, origin),
        hosts,
        tuple(sorted({host for host in hosts.values() if host not in clocks.paths})),
        _disagreement(peers, hosts),
        origin,
        clocks,
    )


def find_clocks(run: Run, cell: Cell) -> tuple[dict[str, str], ClockModel]:
    """Return the host of each validator (and of the client) in a cell, and the clocks of these hosts."""
    frames = [frame[frame["cell"] == cell.id] for frame in (run.transactions, run.blocks, run.votes, run.peers)]
    hosts = _hosts([frame for frame in frames if not frame.empty])
    return hosts, build_clocks(frames[-1], hosts, _reference(hosts))


def correct_times(frame: pd.DataFrame, clocks: ClockModel, origin: int) -> pd.DataFrame:
    """Return points (any DataFrame of Run) with ``at`` and ``bound``, ns on the reference's clock after ``origin``."""
    times = frame["time"].to_numpy(dtype=np.int64)
    at, bound = np.empty(len(times)), np.empty(len(times))
    host_of = pd.Categorical(frame["host"])
    for code in np.unique(host_of.codes):
        rows = host_of.codes == code
        corrected, bound[rows] = clocks.correct(str(host_of.categories[code]), times[rows])
        at[rows] = np.where(np.isnan(bound[rows]), np.nan, (corrected - origin).astype(np.float64))
    return frame.assign(at=at, bound=bound)


def _origin(frames: list[pd.DataFrame], reference: str) -> int:
    firsts = [int(times.min()) for frame in frames if len(times := frame.loc[frame["host"] == reference, "time"])]
    return min(firsts, default=0)


def _hosts(frames: list[pd.DataFrame]) -> dict[str, str]:
    """Each validator's (and the client's) host, as its points say."""
    hosts: dict[str, str] = {}
    for frame in frames:
        pairs = frame[["validator", "host"]].drop_duplicates()
        hosts |= dict(zip(pairs["validator"].astype(str), pairs["host"].astype(str), strict=True))
    return hosts


def _reference(hosts: dict[str, str]) -> str:
    """The host with most validators: what happens on it alone then needs no bound. Ties by name."""
    names = [host for validator, host in hosts.items() if validator != CLIENT] or list(hosts.values())
    return min(names, key=lambda name: (-names.count(name), name), default="")


def _disagreement(peers: pd.DataFrame, hosts: dict[str, str]) -> int:
    same = peers[peers["peer"].astype(str).map(hosts) == peers["host"].astype(str)]
    if same.empty:
        return 0
    excess = same["offset_ns"].astype("float64").abs() - same["bound_ns"]
    return max(0, int(cast(float, excess.max())))
