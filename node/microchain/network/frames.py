"""The frame layer inside a link's binary WebSocket messages.

A frame is a sequence of records, each ``kind (1 byte) ‖ length (4 bytes, big-endian) ‖ payload``. Small messages that
wait together share a frame; a message larger than a frame travels as one BEGIN and some MORE records. Each lane
reassembles one message at a time, so a vote passes between two chunks of a block.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from enum import IntEnum

from msgspec import Struct

from microchain.consensus.messages import (
    CompactBlock,
    FinalizedBlocks,
    FullBlock,
    Headers,
    Message,
    TransactionIds,
    Transactions,
)
from microchain.consensus.types import ProtocolError

__all__ = [
    "FRAME_BYTES",
    "MAX_RECORDS",
    "FrameError",
    "FrameReader",
    "Kind",
    "Lane",
    "LinkLimits",
    "SendQueue",
    "encode_record",
    "lane_of",
]

FRAME_BYTES = 128 << 10
"""Size of the largest frame: larger ones cost more for each byte, and hold up what is more urgent."""
MAX_RECORDS = 1024
"""Most records in one frame."""
_MAX_CONTROL = 64
_HEADER = struct.Struct(">BI")
_TOTAL = struct.Struct(">I")
_HEADER_BYTES = _HEADER.size
_SYNC_SHARE = 4
"""One bulk frame in so many goes to SYNC first, so that a peer catches up however busy the chain is."""


class FrameError(ProtocolError):
    """A peer's frame that breaks the frame layer's rules."""


class Kind(IntEnum):
    """What a record carries; BEGIN and MORE have the lane added to them."""

    HELLO = 0
    MESSAGE = 1
    PING = 2
    PONG = 3
    BEGIN = 16
    MORE = 32


class Lane(IntEnum):
    """Queues of a link by urgency. URGENT goes first and never shares a frame with the others.

    Blocks share a lane with transactions: a block that overtook the transactions it contains would only be answered
    with requests for what is already on its way.
    """

    URGENT = 0
    CONTENT = 1
    SYNC = 2


class LinkLimits(Struct, frozen=True, kw_only=True):
    """What one peer may use. Rates are for each second, with a burst of as much as ``burst_s`` seconds."""

    message_bytes: int
    urgent_queue_bytes: int = 4 << 20
    content_queue_bytes: int = 16 << 20
    sync_queue_bytes: int = 8 << 20
    messages_per_s: float = 4000.0
    bytes_per_s: float = 128.0 * (1 << 20)
    burst_s: float = 1.0

    @classmethod
    def for_block_size(cls, max_block_bytes: int) -> LinkLimits:
        """Limits that let blocks of that size (with votes and ids) pass, and two of them wait."""
        message = max_block_bytes + (2 << 20)
        return cls(message_bytes=message, content_queue_bytes=3 * message, sync_queue_bytes=2 * message)


_LANES: dict[type, Lane] = {
    Transactions: Lane.CONTENT,
    TransactionIds: Lane.CONTENT,
    CompactBlock: Lane.CONTENT,
    FullBlock: Lane.CONTENT,
    Headers: Lane.SYNC,
    FinalizedBlocks: Lane.SYNC,
}


def lane_of(message: Message) -> Lane:
    """The lane a message travels in: votes, status and requests are urgent."""
    return _LANES.get(type(message), Lane.URGENT)


def encode_record(kind: int, payload: bytes) -> bytes:
    """Return one record."""
    return _HEADER.pack(kind, len(payload)) + payload


class SendQueue:
    """What waits to be sent to one peer: bounded, in lanes, handed out as frames."""

    def __init__(self, limits: LinkLimits) -> None:
        self._limits = (limits.urgent_queue_bytes, limits.content_queue_bytes, limits.sync_queue_bytes)
        self._lanes: tuple[deque[bytes], ...] = (deque(), deque(), deque())
        self._waiting = [0, 0, 0]
        self._sent_of_head = [0, 0, 0]
        self._control: deque[tuple[Kind, Callable[[], bytes]]] = deque()
        self._bulk_frames = 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes of messages that wait, in all lanes."""
        return sum(self._waiting)

    def put(self, lane: Lane, message: bytes) -> bool:
        """Queue an encoded message; False if the lane is full (an empty lane takes any message)."""
        waiting = self._waiting[lane]
        if waiting and waiting + len(message) > self._limits[lane]:
            return False
        self._lanes[lane].append(message)
        self._waiting[lane] = waiting + len(message)
        return True

    def put_control(self, kind: Kind, build: Callable[[], bytes]) -> bool:
        """Queue a record whose payload is built when it is sent (so that it can carry the time of that moment)."""
        if len(self._control) >= _MAX_CONTROL:
            return False
        self._control.append((kind, build))
        return True

    def next_frame(self) -> bytes | None:
        """Return the next frame, or None if nothing waits."""
        parts: list[bytes] = []
        while self._control:
            kind, build = self._control.popleft()
            parts.append(encode_record(kind, build()))
        room = FRAME_BYTES - sum(map(len, parts))
        self._fill(Lane.URGENT, parts, room)
        if not parts:
            self._bulk_frames += 1
            first, second = Lane.CONTENT, Lane.SYNC
            if self._bulk_frames % _SYNC_SHARE == 0:
                first, second = second, first
            room = self._fill(first, parts, FRAME_BYTES)
            if not self._lanes[first]:
                self._fill(second, parts, room)
        return b"".join(parts) if parts else None

    def _fill(self, lane: Lane, parts: list[bytes], room: int) -> int:
        """Move records of a lane into ``parts`` while they fit; return the room that is left."""
        queue = self._lanes[lane]
        while queue and len(parts) < 2 * MAX_RECORDS - 1:
            message, sent = queue[0], self._sent_of_head[lane]
            size = _HEADER_BYTES + len(message)
            if sent == 0 and size <= room:
                parts += (_HEADER.pack(Kind.MESSAGE, len(message)), message)
                room -= size
                queue.popleft()
                self._waiting[lane] -= len(message)
                continue
            if (sent == 0 and size <= FRAME_BYTES) or room < FRAME_BYTES // 4:
                return 0
            room -= self._add_chunk(lane, message, sent, parts, room)
        return room

    def _add_chunk(self, lane: Lane, message: bytes, sent: int, parts: list[bytes], room: int) -> int:
        """Move one chunk of a large message into ``parts``; return the bytes used."""
        head = _TOTAL.pack(len(message)) if sent == 0 else b""
        chunk = message[sent : sent + room - _HEADER_BYTES - len(head)]
        kind = (Kind.MORE if sent else Kind.BEGIN) + lane
        parts += (_HEADER.pack(kind, len(head) + len(chunk)), head + chunk)
        self._waiting[lane] -= len(chunk)
        if sent + len(chunk) == len(message):
            self._lanes[lane].popleft()
            self._sent_of_head[lane] = 0
        else:
            self._sent_of_head[lane] = sent + len(chunk)
        return _HEADER_BYTES + len(head) + len(chunk)


class _Assembly(Struct):
    total: int
    received: int
    chunks: list[bytes]


class FrameReader:
    """Takes a peer's frames apart and reassembles large messages; memory is bounded by one message for each lane."""

    def __init__(self, message_bytes: int) -> None:
        self._message_bytes = message_bytes
        self._assemblies: list[_Assembly | None] = [None, None, None]

    def feed(self, frame: bytes) -> list[tuple[Kind, bytes]]:
        """Return the records completed by ``frame`` (HELLO, PING, PONG or MESSAGE, with their payloads); FrameError."""
        records: list[tuple[Kind, bytes]] = []
        offset, end, seen = 0, len(frame), 0
        if not end:
            raise FrameError("the frame is empty")
        while offset < end:
            seen += 1
            if seen > MAX_RECORDS:
                raise FrameError(f"the frame has more than {MAX_RECORDS} records")
            if end - offset < _HEADER_BYTES:
                raise FrameError(f"{end - offset} stray bytes at the end of the frame")
            kind, length = _HEADER.unpack_from(frame, offset)
            offset += _HEADER_BYTES
            if length > end - offset:
                raise FrameError(f"a record claims {length} bytes, the frame has {end - offset} left")
            payload = frame[offset : offset + length]
            offset += length
            record = self._record(kind, payload)
            if record is not None:
                records.append(record)
        return records

    def _record(self, kind: int, payload: bytes) -> tuple[Kind, bytes] | None:
        if kind <= Kind.PONG:
            return Kind(kind), payload
        lane = kind & 0x0F
        if kind & 0xF0 not in (Kind.BEGIN, Kind.MORE) or lane > Lane.SYNC:
            raise FrameError(f"unknown record kind {kind}")
        message = self._begin(lane, payload) if kind < Kind.MORE else self._more(lane, payload)
        return None if message is None else (Kind.MESSAGE, message)

    def _begin(self, lane: int, payload: bytes) -> bytes | None:
        if self._assemblies[lane] is not None:
            raise FrameError(f"a message begins in lane {lane} before the last one ended")
        if len(payload) <= _TOTAL.size:
            raise FrameError("a message begins without content")
        (total,) = _TOTAL.unpack_from(payload)
        if total > self._message_bytes:
            raise FrameError(f"a message of {total} bytes is announced, the limit is {self._message_bytes}")
        self._assemblies[lane] = _Assembly(total, 0, [])
        return self._more(lane, payload[_TOTAL.size :])

    def _more(self, lane: int, chunk: bytes) -> bytes | None:
        assembly = self._assemblies[lane]
        if assembly is None:
            raise FrameError(f"a chunk in lane {lane} belongs to no message")
        if not chunk:
            raise FrameError("an empty chunk")
        assembly.received += len(chunk)
        if assembly.received > assembly.total:
            raise FrameError(f"chunks of {assembly.received} bytes for a message of {assembly.total}")
        assembly.chunks.append(chunk)
        if len(assembly.chunks) > 64 + assembly.total // 1024:
            raise FrameError(f"a message of {assembly.total} bytes is cut into {len(assembly.chunks)} chunks and more")
        if assembly.received < assembly.total:
            return None
        self._assemblies[lane] = None
        return b"".join(assembly.chunks)
