"""One cell's points on one clock: ``at`` (ns after the cell's first point, float64 so exact) and ``bound`` (ns)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
from microchain.telemetry.recorder import CLIENT

from analysis.clock import build_clocks
from analysis.run import Cell, Run

__all__ = ["Timeline", "build_timeline"]


@dataclass(frozen=True)
class Timeline:
    """Transactions, blocks and votes of a cell as in Run, with ``at`` and ``bound``; NaN where no clock is known.

    ``unreachable`` are the hosts whose clocks were never compared with the others'; ``disagreement_ns`` is the largest
    offset beyond its bound that two processes of one host measured: the clock was set while they ran.
    """

    cell: Cell
    transactions: pd.DataFrame
    blocks: pd.DataFrame
    votes: pd.DataFrame
    hosts: dict[str, str]
    unreachable: tuple[str, ...]
    disagreement_ns: int
    origin: int


def build_timeline(run: Run, cell: Cell) -> Timeline:
    """Correct the clocks of one cell's points."""
    transactions, blocks, votes, peers = (
        frame[frame["cell"] == cell.id] for frame in (run.transactions, run.blocks, run.votes, run.peers)
    )
    frames = [frame for frame in (transactions, blocks, votes) if not frame.empty]
    origin = min((int(frame["time"].min()) for frame in frames), default=0)
    hosts = _hosts([*frames, peers])
    clocks = build_clocks(peers, hosts, _reference(hosts), origin)

    def corrected(frame: pd.DataFrame) -> pd.DataFrame:
        at = (frame["time"] - origin).to_numpy(dtype=np.float64)
        bound = np.zeros_like(at)
        host_of = frame["host"].to_numpy(dtype=object)
        for host in set(host_of):
            rows = host_of == host
            at[rows], bound[rows] = clocks.correct(host, at[rows])
        return frame.assign(at=at, bound=bound)

    return Timeline(
        cell,
        corrected(transactions),
        corrected(blocks),
        corrected(votes),
        hosts,
        tuple(sorted({host for host in hosts.values() if host not in clocks.paths})),
        _disagreement(peers, hosts),
        origin,
    )


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
    return max(0, int(cast(float, (same["offset_ns"].abs() - same["bound_ns"]).max())))
