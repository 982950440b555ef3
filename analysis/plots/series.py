"""A cell over time: latency, throughput and finality lag."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import milliseconds
from analysis.moments import FinalTransactions, bin_edges, bin_medians, finality_lag, find_final_transactions
from analysis.plots.drawing import SERIES, Drawing, draw_dots, label, new_figure, panels, plain_ticks, thin
from analysis.statistics import Array
from analysis.timeline import Timeline

__all__ = ["draw_series"]

_BINS = 60
_PER_BIN = 4
"""Blocks in a stretch, at least: the rate of one block is only how its edges fall."""
_MOMENTS = 400


def draw_series(timeline: Timeline, choice: str) -> Drawing:
    """Draw one cell; ``choice`` says which cells are not drawn."""
    cell = timeline.cell
    drawing = Drawing(f"series-{cell.id}", f"Over time: {label(cell.id)}", "", "series")
    transactions = find_final_transactions(timeline)
    times, lag = finality_lag(timeline, _MOMENTS)
    if not len(transactions.final) and not len(times):
        unknown = f" (no clock of {', '.join(timeline.unreachable)} is known)" if timeline.unreachable else ""
        drawing.caption = f"Not drawn: no traced transaction is final on all validators{unknown}."
        return drawing
    figure = new_figure(5.0)
    top, middle, bottom = panels(figure, 3, 1, sharex=True)
    words = [f"Times in seconds after the beginning of the cell, warm-up included. {_latency(top, transactions)}"]
    words.append(_throughput(middle, transactions, cell.spec.telemetry.sample))
    words.append(_lag(bottom, times, lag))
    bottom.set_xlabel("s")
    drawing.figure = figure
    drawing.caption = " ".join(words) + choice
    return drawing


def _latency(axes: Axes, transactions: FinalTransactions) -> str:
    axes.set_title("submission to finality on all validators")
    axes.set_ylabel("ms")
    known = transactions.latency > 0
    begun, latency = transactions.submitted[known], transactions.latency[known]
    if not len(latency):
        return "No latency can be shown."
    axes.set_yscale("log")
    draw_dots(axes, *thin(begun, latency), SERIES[0], size=2.4, alpha=0.6)
    bins = _bins(transactions)
    if bins > 1:
        axes.plot(*bin_medians(begun, latency, bin_edges(begun, bins)), color=SERIES[1])
        text = f"median in each of {bins} stretches"
        axes.legend(handles=[Line2D([], [], color=SERIES[1], label=text)], loc="best")
    plain_ticks(axes, y=True)
    worst = int(np.argmax(latency))
    return (
        f"Top: latency of each traced transaction (of many, each stretch's shortest and longest), on a logarithmic "
        f"axis; the longest, {milliseconds(float(latency[worst]))} ms, was submitted after {begun[worst]:.1f} s."
    )


def _throughput(axes: Axes, transactions: FinalTransactions, sample: float) -> str:
    axes.set_title("finalized on all validators")
    axes.set_ylabel("tx/s")
    axes.set_ylim(bottom=0)
    if not len(transactions.final):
        return "No transaction is final on all validators."
    bins = _bins(transactions)
    edges = bin_edges(transactions.final, bins)
    rates = np.histogram(transactions.final, edges)[0] / np.diff(edges) / (sample if 0 < sample <= 1 else 1.0)
    axes.stairs(rates, edges, color=SERIES[0], fill=False, linewidth=1.3)
    axes.set_ylim(0, float(rates.max()) * 1.1)
    traced = "" if sample >= 1 else f", reckoned from the {sample:.0%} that are traced"
    return f"Middle: transactions that became final on the last validator, in {bins} equal stretches of time{traced}."


def _bins(transactions: FinalTransactions) -> int:
    blocks = len(np.unique(transactions.final.round(3)))  # a block's transactions are final at one moment
    return int(np.clip(blocks // _PER_BIN, 1, _BINS))


def _lag(axes: Axes, times: Array, lag: Array) -> str:
    axes.set_title("finality lag")
    axes.set_ylabel("blocks")
    if not len(times):
        return "No validator reported blocks."
    axes.plot(*thin(times, lag), color=SERIES[0], drawstyle="steps-post", linewidth=1.1)
    axes.set_ylim(0, max(2.0, float(lag.max()) * 1.15))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    return (
        f"Bottom: how many blocks the last validator's finality was behind the head of the chain, at most "
        f"{lag.max():.0f}; a lag that keeps growing is a backlog."
    )
