"""A minute of a cell as its validators and client would report it, by the real Recorder, with every figure known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from microchain.consensus.interface import BlockTrace, TransactionTrace, VoteTrace
from microchain.consensus.types import Digest, Epoch, Height, NodeId, Slot
from microchain.network.counters import PhaseCounters
from microchain.telemetry.board import BoardSampler, decode_throttled
from microchain.telemetry.line_protocol import FieldValue
from microchain.telemetry.recorder import Recorder
from microchain.telemetry.spool import Spool, spool_segments

RUN = "20260102-030405-observed-abcdef"
OTHER_RUN = "20260102-030400-observed-000000"
CELL = "k4-b8K"
BASE_NS = 1_767_323_040_000_000_000
START, STOP = "2026-01-02T03:04:00Z", "2026-01-02T03:05:00Z"
SECONDS = 60
VALIDATORS = {"validator-1": "pi-1", "validator-2": "pi-1", "validator-3": "pi-2", "validator-4": "pi-2"}
BLOCKS = 25
BLOCK_EVERY_S = 2.0
TRANSACTIONS = 10
"""In each block. It is proposed by the first validator, at p; then, in ms after p, for the validator of index i:

submitted -100, accepted -80, verified 10 (i + 1) (not by the proposer), vote sent 50 + 2 i, adopted 55, justified
60 + 10 i, finalized 400 + 100 i. The last validator does not live to see the last block final.
"""


def observe(directory: Path, run: str = RUN) -> Iterator[bytes]:
    """Yield the lines of each process's spool; the spools lie below ``directory``."""
    for index, (name, host) in enumerate(VALIDATORS.items()):
        recorder = _open(directory / name, run, name, host)
        cast(Any, recorder)._sampler = _Sampler(host)
        _record_blocks(recorder, index)
        _record_seconds(recorder, name)
        recorder.close(_at(SECONDS - 0.5))
        yield from _lines(directory / name)
    client = _open(directory / "client", run, "client", "desk")
    for number in range(BLOCKS):
        for event, after_ms in (("scheduled", -110), ("submitted", -100), ("accepted", -70)):
            client.transactions(event, _ids(number), _block_time(number, after_ms))
    client.close(_at(SECONDS - 0.5))
    yield from _lines(directory / "client")


class _Sampler(BoardSampler):
    """The board and the process at each second: a quarter of memory in use, 0.3 s of CPU time each second."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._seconds = 0

    def sample(self) -> dict[str, FieldValue | None]:
        hot = self._host == "pi-2"
        return {
            "cpu_percent": 62.5 if hot else 12.5,
            "load1": 1.5,
            "memory_total_bytes": 1 << 30,
            "memory_available_bytes": 3 << 28,
            "temperature_c": 81.0 if hot else 48.0,
            "frequency_hz": 1_200_000_000,
        } | decode_throttled(0x50005 if hot else 0)

    def process(self) -> dict[str, FieldValue | None]:
        self._seconds += 1
        times = {"cpu_user_s": 0.25 * self._seconds, "cpu_system_s": 0.05 * self._seconds}
        return {**times, "rss_bytes": 60 << 20, "threads": 4}


def _open(directory: Path, run: str, name: str, host: str) -> Recorder:
    return Recorder(Spool(directory, interval_s=0), run=run, cell=CELL, validator=name, host=host)


def _lines(directory: Path) -> Iterator[bytes]:
    for segment in spool_segments(directory):
        yield segment.read_bytes()


def _at(seconds: float) -> int:
    return BASE_NS + round(seconds * 1_000_000_000)


def _block_time(number: int, after_ms: float) -> int:
    return _at(2.0 + number * BLOCK_EVERY_S + after_ms / 1000)


def _digest(*parts: object) -> Digest:
    return Digest(hashlib.sha256(repr(parts).encode()).digest())


def _ids(number: int) -> list[Digest]:
    return [_digest("transaction", number, index) for index in range(TRANSACTIONS)]


def _record_blocks(recorder: Recorder, index: int) -> None:
    node = NodeId(_digest("node", index))
    for number in range(BLOCKS):
        block, height = _digest("block", number), Height(number + 1)
        events = {"adopted": 55, "justified": 60 + 10 * index, "finalized": 400 + 100 * index}
        events |= {"verified": 10 * (index + 1)} if index else {"proposed": 0}
        if (index, number) == (len(VALIDATORS) - 1, BLOCKS - 1):
            del events["finalized"]
        for event, after_ms in events.items():
            trace = BlockTrace(
                cast(Any, event), block, height, Slot(number), Epoch(number + 1), node, 8000, TRANSACTIONS
            )
            recorder.trace(trace, _block_time(number, after_ms))
        vote = VoteTrace("sent", node, block, Epoch(number + 1), Epoch(number))
        recorder.trace(vote, _block_time(number, 50 + 2 * index))
        for other in range(len(VALIDATORS) - 1):
            received = VoteTrace("received", NodeId(_digest(index, other)), block, Epoch(number + 1), Epoch(number))
            recorder.trace(received, _block_time(number, 57 + other))
        ids = tuple(_ids(number))
        recorder.trace(TransactionTrace("accepted", ids), _block_time(number, -80))
        if "finalized" in events:
            recorder.trace(TransactionTrace("finalized", ids, block, height), _block_time(number, events["finalized"]))


def _record_seconds(recorder: Recorder, name: str) -> None:
    """What a node writes each second. All clocks are right, but for that of pi-2, which is 3 ms ahead."""
    for second in range(SECONDS - 1):
        at = _at(second + 0.5)
        voting = PhaseCounters(8 * second, 800 * second, 8 * second, 800 * second)
        recorder.messages({"voting": voting, "sync": PhaseCounters(0, 0, 0, 0)}, at)
        for peer, host in VALIDATORS.items():
            if peer != name:
                ahead = 3_000_000 * ((host == "pi-2") - (VALIDATORS[name] == "pi-2"))
                recorder.peer(peer, 1_000_000, ahead, 500_000 + 1000 * second, at)
        recorder.spool.flush()  # counted are points in files
        recorder.board(at)
