"""``python -m emulator.link_daemon DIRECTORY``: holds frames between hosts back as ``links.json`` says.

Runs in the lab's namespace. While it doesn't, frames of shaped links are dropped, never let through unchanged.
"""

from __future__ import annotations

import ctypes
import os
import random
import select
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from emulator.links import LinkModel, Plan, WaitingFrames
from emulator.nfqueue import decode_error, decode_packet, encode_setup, encode_verdict

__all__ = ["PLAN_FILE", "QUEUE", "REPORT_FILE", "LinkReport"]

PLAN_FILE, REPORT_FILE = "links.json", "links-report.json"
QUEUE = 77

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _NETLINK_NO_ENOBUFS = 270, 5
_SO_RCVBUFFORCE = 33
_PR_SET_TIMERSLACK = 29
_QUEUE_LENGTH = 20_000
_BUFFER_BYTES = 16 << 20
_MESSAGE_BYTES = 8192
_ROUND = 256  # messages before the clock is looked at again
_BATCH = 64  # verdicts in one datagram
_LOOK_S = 0.1  # how often the plan is looked at
_REPORT_S = 1.0


class LinkReport(Struct, frozen=True):
    """What the daemon tells: the plan it follows, and frames since it started; ``lost`` are part of ``frames``."""

    serial: int
    frames: int
    lost: int


class _Daemon:
    def __init__(self, directory: Path) -> None:
        self._plan_file, self._report_file = directory / PLAN_FILE, directory / REPORT_FILE
        self._stamp = 0
        self._serial = self._frames = self._lost = self._told = 0
        self._reported = 0.0
        self._waiting = WaitingFrames()
        self._socket = _open_queue()
        self._read_plan()

    def serve(self) -> None:
        """Until killed."""
        looked = time.monotonic()
        while True:
            now = time.monotonic()
            if now - looked >= _LOOK_S:
                looked = now
                self._read_plan()
            self._release(self._waiting.due(now))
            # select, because poll and epoll round to milliseconds
            due = self._waiting.next_time()
            pause = _LOOK_S if due is None else min(_LOOK_S, max(0.0, due - time.monotonic()))
            if select.select([self._socket], [], [], pause)[0]:
                self._receive()

    def _receive(self) -> None:
        refused = []
        for _ in range(_ROUND):
            try:
                packet = decode_packet(self._socket.recv(_MESSAGE_BYTES))
            except BlockingIOError:
                break
            if packet is None:
                continue
            self._frames += 1
            arrival = self._model.arrival(time.monotonic(), packet.source, packet.target, packet.payload_bytes)
            if arrival is None or not self._waiting.add(arrival, packet.number):
                self._lost += 1
                refused.append(packet.number)
        self._release(refused, accept=False)

    def _release(self, packets: list[int], accept: bool = True) -> None:
        for start in range(0, len(packets), _BATCH):
            self._socket.send(b"".join(encode_verdict(QUEUE, p, accept) for p in packets[start : start + _BATCH]))

    def _read_plan(self) -> None:
        """Follow a new plan from the next frame on, and report."""
        stamp = self._plan_file.stat().st_mtime_ns
        is_new = stamp != self._stamp
        if is_new:
            plan = msgspec.json.decode(self._plan_file.read_bytes(), type=Plan)
            self._model = LinkModel(plan, random.random, random.expovariate)
            self._stamp, self._serial = stamp, plan.serial
        if not is_new and (time.monotonic() - self._reported < _REPORT_S or self._told == self._frames):
            return
        self._reported, self._told = time.monotonic(), self._frames
        report = LinkReport(self._serial, self._frames, self._lost)
        draft = self._report_file.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(report))
        draft.replace(self._report_file)


def _open_queue() -> socket.socket:
    queue = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    queue.bind((0, 0))
    try:
        queue.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:  # in a user namespace: as much as the kernel gives to anybody
        queue.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    queue.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
    for message in encode_setup(QUEUE, _QUEUE_LENGTH):
        queue.send(message)
        if problem := decode_error(queue.recv(_MESSAGE_BYTES)):
            raise OSError(f"the kernel gives no packet queue: {problem}")
    queue.setblocking(False)
    return queue


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)  # ns: wake up when asked to
    with suppress(OSError):  # it stands for wires, which wait for no processor
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    _Daemon(Path(sys.argv[1])).serve()


if __name__ == "__main__":
    main()
