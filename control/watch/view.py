"""What several polls together tell: rates, and for how long blocks have waited to be final."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from control.watch.status import Away, Sample, Status

__all__ = ["ClusterView", "Lag", "Row"]

_WINDOW_S = 10.0
"""Rates are over about so long."""

_MOST_HEIGHTS = 4096


class Lag(Struct, frozen=True):
    """How far finality is behind the greatest head that any validator has.

    ``seconds`` is how long the first block that is not final has been seen, None before there is one; ``at_least`` if
    it was there when the watch began.
    """

    blocks: int
    seconds: float | None = None
    at_least: bool = False


class Row(Struct, frozen=True):
    """One validator; what can't be said yet, or at all, is None. ``cpu_percent`` is of one core."""

    name: str
    away: str = ""
    height: int | None = None
    lag: Lag | None = None
    rate: float | None = None
    cpu_percent: float | None = None
    board_cpu_percent: float | None = None
    memory_bytes: int | None = None
    temperature_c: float | None = None
    connected: int | None = None
    peers: int | None = None
    clock_bound_ns: int | None = None
    notes: tuple[str, ...] = ()


class ClusterView:
    """Takes one poll after the other; keeps ten seconds of samples and the heights that are not final yet."""

    def __init__(self, names: Sequence[str]) -> None:
        self._samples: dict[str, deque[Sample]] = {name: deque() for name in names}
        self._away = dict.fromkeys(names, "not asked yet")
        self._chain = ""
        self._head = 0
        self._seen: OrderedDict[int, float] = OrderedDict()
        self._began = 0.0
        self._now = 0.0

    def apply(self, answers: Mapping[str, Sample | Away], now: float) -> None:
        """Take one poll, made at ``now`` by the samples' clock."""
        self._now = now
        for name, answer in answers.items():
            if isinstance(answer, Away):
                self._away[name] = answer.reason
                self._samples[name].clear()
            else:
                self._away[name] = ""
                _keep(self._samples[name], answer)
        self._note_heads(now)

    def rows(self) -> list[Row]:
        return [self._row(name, samples) for name, samples in self._samples.items()]

    def _note_heads(self, now: float) -> None:
        """Note when each height was first seen, of the chain that most validators are on."""
        present = [samples[-1].status for samples in self._samples.values() if samples]
        chains = [status.chain_id for status in present]
        chain = max(sorted(set(chains)), key=chains.count, default="")
        if chain != self._chain:
            self._chain, self._head, self._began = chain, 0, now
            self._seen.clear()
        on_it = [status for status in present if status.chain_id == chain]
        head = max((status.head.height for status in on_it), default=0)
        for height in range(max(self._head, head - _MOST_HEIGHTS) + 1, head + 1):
            self._seen[height] = now
        self._head = max(self._head, head)
        final = min((status.finalized.height for status in on_it), default=0)
        while self._seen and (len(self._seen) > _MOST_HEIGHTS or next(iter(self._seen)) <= final):
            self._seen.popitem(last=False)

    def _lag(self, status: Status) -> Lag | None:
        if status.chain_id != self._chain:
            return None
        blocks = max(0, self._head - status.finalized.height)
        first = self._seen.get(status.finalized.height + 1)
        if not blocks or first is None:
            return Lag(blocks, None if blocks else 0.0)
        return Lag(blocks, self._now - first, first == self._began)

    def _row(self, name: str, samples: deque[Sample]) -> Row:
        if not samples:
            return Row(name, away=self._away[name])
        status = samples[-1].status
        linked = [peer for peer in status.peers if peer.connected]
        return Row(
            name,
            height=status.head.height,
            lag=self._lag(status),
            rate=_rate(samples, lambda status: status.finalized_transactions_total),
            cpu_percent=_rate(samples, lambda status: 100 * status.cpu_s),
            board_cpu_percent=status.board.cpu_percent,
            memory_bytes=status.rss_bytes,
            temperature_c=status.board.temperature_c,
            connected=len(linked),
            peers=len(status.peers),
            clock_bound_ns=max((peer.bound_ns for peer in linked if peer.bound_ns is not None), default=None),
            notes=self._notes(status),
        )

    def _notes(self, status: Status) -> tuple[str, ...]:
        board = status.board
        told = {
            "another chain": status.chain_id != self._chain,
            "not ready": not status.ready,
            "syncing": status.syncing,
            "observing": status.observing,
            "under voltage": board.under_voltage_now,
            "throttled": board.throttled_now or board.frequency_capped_now,
            "hot": board.temperature_limit_now,
        }
        return tuple(note for note, is_so in told.items() if is_so)


def _keep(samples: deque[Sample], sample: Sample) -> None:
    """Add a sample; those of another life of the node, and those older than the window, go."""
    new, last = sample.status, (samples[-1] if samples else sample).status
    fell = new.finalized_transactions_total < last.finalized_transactions_total or new.cpu_s < last.cpu_s
    if fell or new.chain_id != last.chain_id:
        samples.clear()
    samples.append(sample)
    while len(samples) > 2 and samples[1].at <= sample.at - _WINDOW_S:
        samples.popleft()


def _rate(samples: deque[Sample], count: Callable[[Status], float]) -> float | None:
    """Return what a count grows by in a second, None before there are two samples."""
    first, last = samples[0], samples[-1]
    if last.at <= first.at:
        return None
    return (count(last.status) - count(first.status)) / (last.at - first.at)
