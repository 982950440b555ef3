"""The recorder turns what a node (or the load generator) experiences into points of the schema in docs/telemetry.md."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from microchain.consensus.interface import BlockTrace, TransactionTrace, VoteTrace
from microchain.consensus.types import Height, NodeId
from microchain.telemetry.board import BoardSampler
from microchain.telemetry.line_protocol import FieldValue, encode_fields, encode_series, encode_value
from microchain.telemetry.spool import Spool

__all__ = ["CLIENT", "Recorder", "Traffic", "is_sampled"]

CLIENT = "client"
"""The ``validator`` tag of the load generator's points."""


class Traffic(Protocol):
    """What was sent and received in one phase since the process started; bytes are those of encoded messages."""

    sent_messages: int
    sent_bytes: int
    received_messages: int
    received_bytes: int


class _Series:
    """One series: its encoded head, and the newest timestamp used, so that no two of its points collide."""

    __slots__ = ("head", "newest")

    def __init__(self, head: str) -> None:
        self.head = head
        self.newest = 0


def is_sampled(id: bytes, sample: float) -> bool:
    """Whether a transaction is traced: decided by (the first 8 bytes of) its id, so every node traces the same."""
    return sample >= 1.0 or int.from_bytes(id[:8], "big") < sample * 2.0**64


class Recorder:
    """Writes points into a spool. ``at`` is always the node's clock in ns since 1970.

    Within a series timestamps strictly increase: a point at or before the series' newest one is moved just behind it
    (by as many ns as there are points); the largest move is reported as ``shift_ns``. All methods are cheap but
    ``board``, which reads /proc and /sys (a few ms on a slow board): call that from a worker thread.
    LineProtocolError if a tag (run, cell, validator, host) can't be written.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        run: str,
        cell: str,
        validator: str,
        host: str,
        sample: float = 1.0,
        names: Mapping[NodeId, str] = MappingProxyType({}),
    ) -> None:
        self.spool = spool
        self._tags = {"run": run, "cell": cell, "validator": validator, "host": host}
        self._sample = sample
        self._names = {node: encode_value(name) for node, name in names.items()}
        self._series: dict[tuple[str, str], _Series] = {}
        self._shift_ns = 0
        self._sampler = BoardSampler()
        self._board: dict[str, FieldValue] = {}
        encode_series("spool", self._tags)

    @property
    def points(self) -> int:
        """Points written to files so far."""
        return self.spool.points

    @property
    def dropped(self) -> int:
        """Points given up so far."""
        return self.spool.dropped

    @property
    def last_board(self) -> Mapping[str, FieldValue]:
        """The fields of the newest ``board`` point; empty before the first."""
        return self._board

    def trace(self, trace: TransactionTrace | BlockTrace | VoteTrace, at: int) -> None:
        """Record what the engine reports."""
        if isinstance(trace, TransactionTrace):
            self.transactions(trace.event, trace.ids, at, block=trace.block, height=trace.height, local=trace.local)
        elif isinstance(trace, BlockTrace):
            self._block(trace, at)
        else:
            self._vote(trace, at)

    def transactions(
        self,
        event: str,
        ids: Sequence[bytes],
        at: int,
        *,
        block: bytes | None = None,
        height: Height | None = None,
        local: bool = False,
    ) -> None:
        """Record that transactions passed a stage; those not sampled are left out."""
        if self._sample < 1.0:
            ids = [id for id in ids if is_sampled(id, self._sample)]
        if not ids:
            return
        tail = ",local=true" if local else ""
        if height is not None:
            tail += f",height={height}i"
        if block is not None:
            tail += f',block="{block[:8].hex()}"'
        series = self._get("transaction", "event", event)
        first = self._reserve(series, at, len(ids))
        head = series.head
        lines = [f'{head} id="{id[:8].hex()}"{tail} {stamp}\n' for stamp, id in enumerate(ids, first)]
        self.spool.append("".join(lines), len(lines))

    def peer(self, name: str, rtt_ns: int, offset_ns: int, bound_ns: int, at: int) -> None:
        """Record a link's clock: ``offset_ns`` = the peer's clock minus ours, within ± ``bound_ns`` (half the RTT)."""
        self._write("peer", "peer", name, f"rtt_ns={rtt_ns}i,offset_ns={offset_ns}i,bound_ns={bound_ns}i", at)

    def messages(self, traffic: Mapping[str, Traffic], at: int) -> None:
        """Record each phase's counters (cumulative since the process started)."""
        for phase, counts in traffic.items():
            sent = f"sent_messages={counts.sent_messages}i,sent_bytes={counts.sent_bytes}i"
            received = f"received_messages={counts.received_messages}i,received_bytes={counts.received_bytes}i"
            self._write("messages", "phase", phase, f"{sent},{received}", at)

    def board(self, at: int) -> None:
        """Record how the host, this process and this spool are."""
        board = self._sampler.sample()
        self._board = {name: value for name, value in board.items() if value is not None}
        self._point("board", "", "", board, at)
        self._point("process", "", "", self._sampler.process(), at)
        self._point("spool", "", "", self._spool_fields(self.points, self.dropped, closed=False), at)

    def close(self, at: int | None = None) -> None:
        """Write everything and the closing report; what comes later is dropped."""
        series = self._get("spool", "", "")
        stamp = self._reserve(series, time.time_ns() if at is None else at, 1)

        def report(points: int, dropped: int) -> str:
            fields = encode_fields(self._spool_fields(points, dropped, closed=True))
            return f"{series.head} {fields} {stamp}\n"

        self.spool.close(report)

    def _block(self, trace: BlockTrace, at: int) -> None:
        fields = (
            f'id="{trace.id.hex()}",height={trace.height}i,slot={trace.slot}i,epoch={trace.epoch}i,'
            f"proposer={self._quoted(trace.proposer)},size={trace.size}i,transactions={trace.transactions}i"
        )
        if trace.detail:
            fields += "," + encode_fields({"detail": trace.detail})
        self._write("block", "event", trace.event, fields, at)

    def _vote(self, trace: VoteTrace, at: int) -> None:
        fields = (
            f'voter={self._quoted(trace.voter)},target="{trace.target.hex()}",'
            f"target_epoch={trace.target_epoch}i,source_epoch={trace.source_epoch}i"
        )
        self._write("vote", "event", trace.event, fields, at)

    def _write(self, measurement: str, tag: str, value: str, fields: str, at: int) -> None:
        """Write a point whose fields are encoded: with many votes the general way costs a percent of the node's CPU."""
        series = self._get(measurement, tag, value)
        self.spool.append(f"{series.head} {fields} {self._reserve(series, at, 1)}\n")

    def _quoted(self, node: NodeId) -> str:
        return self._names.get(node) or f'"{node.hex()[:16]}"'

    def _spool_fields(self, points: int, dropped: int, *, closed: bool) -> dict[str, FieldValue | None]:
        return {"points": points, "dropped": dropped, "shift_ns": self._shift_ns, "closed": closed}

    def _get(self, measurement: str, tag: str, value: str) -> _Series:
        series = self._series.get((measurement, value))
        if series is None:
            tags = self._tags | {tag: value} if tag else self._tags
            series = self._series[measurement, value] = _Series(encode_series(measurement, tags))
        return series

    def _reserve(self, series: _Series, at: int, count: int) -> int:
        """Return the first of ``count`` unused timestamps of the series, ``at`` if that is free."""
        first = at
        if at <= series.newest:
            first = series.newest + 1
            self._shift_ns = max(self._shift_ns, first - at)
        series.newest = first + count - 1
        return first

    def _point(self, measurement: str, tag: str, value: str, fields: Mapping[str, FieldValue | None], at: int) -> None:
        encoded = encode_fields(fields)
        if encoded:
            self._write(measurement, tag, value, encoded, at)
