"""The kernel's packet queue (NFQUEUE) as bytes of netlink: linux/netfilter/nfnetlink_queue.h. Pure."""

from __future__ import annotations

import errno
import os
import struct

from msgspec import Struct

__all__ = ["QueuedPacket", "decode_error", "decode_packet", "encode_setup", "encode_verdict"]

_SUBSYSTEM = 3 << 8  # NFNL_SUBSYS_QUEUE
_PACKET, _VERDICT, _CONFIG = _SUBSYSTEM, _SUBSYSTEM | 1, _SUBSYSTEM | 2
_REQUEST, _ACK = 1, 4
_NLMSG_ERROR = 2

_HEAD = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_FAMILY = struct.Struct("!BBH")  # nfgenmsg: family, version, queue
_ATTRIBUTE = struct.Struct("=HH")
_BODY = _HEAD.size + _FAMILY.size
_TYPE_MASK = 0x3FFF  # without the marks of nested and big-endian

# Attributes of a packet, and of the configuration.
_A_HEADER, _A_VERDICT, _A_IN, _A_OUT, _A_PAYLOAD, _A_LENGTH = 1, 2, 7, 8, 10, 13  # in, out: of the bridge's ports
_C_COMMAND, _C_COPY, _C_QUEUE_LENGTH, _C_MASK, _C_FLAGS = 1, 2, 3, 4, 5
_BIND = 1
_COPY_PACKET = 2
_GSO = 4  # take what the sender left to be cut as one packet, rather than have it cut before
_DROP, _ACCEPT = 0, 1


class QueuedPacket(Struct, frozen=True):
    """One frame that waits for a verdict: its number in the queue, ports of the bridge, and bytes after Ethernet."""

    number: int
    source: int
    target: int
    payload_bytes: int


def encode_setup(queue: int, length: int) -> list[bytes]:
    """Return the messages that make us the listener of a queue of at most ``length``; the kernel answers each."""
    attributes = [
        _attribute(_C_COMMAND, struct.pack("!BBH", _BIND, 0, 0)),
        _attribute(_C_COPY, struct.pack("!IB", 1, _COPY_PACKET)),  # a byte of each: so its true length comes too
        _attribute(_C_QUEUE_LENGTH, struct.pack("!I", length)),
        _attribute(_C_FLAGS, struct.pack("!I", _GSO)) + _attribute(_C_MASK, struct.pack("!I", _GSO)),
    ]
    return [_message(_CONFIG, _REQUEST | _ACK, queue, body) for body in attributes]


def encode_verdict(queue: int, packet: int, accept: bool) -> bytes:
    """Return the message that lets a packet go on, or drops it."""
    body = struct.pack("!II", _ACCEPT if accept else _DROP, packet)
    return _message(_VERDICT, _REQUEST, queue, _attribute(_A_VERDICT, body))


def decode_error(message: bytes) -> str | None:
    """Return what the kernel objects to in its answer to a message of ours, None if it is content."""
    if len(message) < _HEAD.size + 4 or _HEAD.unpack_from(message)[1] != _NLMSG_ERROR:
        return "an answer that is none"
    number = -struct.unpack_from("=i", message, _HEAD.size)[0]
    return f"{errno.errorcode.get(number, number)}: {os.strerror(number)}" if number else None


def decode_packet(message: bytes) -> QueuedPacket | None:
    """Return the packet that a message announces, None if it announces none or is cut off."""
    if len(message) < _BODY or _HEAD.unpack_from(message)[1] != _PACKET:
        return None
    number: int | None = None
    source = target = length = 0
    offset = _BODY
    while offset + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, offset)
        if size < _ATTRIBUTE.size or offset + size > len(message):
            return None
        kind &= _TYPE_MASK
        if kind == _A_PAYLOAD:
            length = length or size - _ATTRIBUTE.size
        elif kind in (_A_HEADER, _A_IN, _A_OUT, _A_LENGTH) and size >= _ATTRIBUTE.size + 4:
            value: int = struct.unpack_from("!I", message, offset + _ATTRIBUTE.size)[0]
            if kind == _A_HEADER:
                number = value
            elif kind == _A_IN:
                source = value
            elif kind == _A_OUT:
                target = value
            else:
                length = value
        offset += (size + 3) & ~3
    return None if number is None else QueuedPacket(number, source, target, length)


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _message(kind: int, flags: int, queue: int, body: bytes) -> bytes:
    return _HEAD.pack(_BODY + len(body), kind, flags, 0, 0) + _FAMILY.pack(0, 0, queue) + body
