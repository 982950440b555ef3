"""The anchor of a process's clock: right although the process is put aside while it is read."""

from __future__ import annotations

import time

import pytest
from microchain.telemetry import wall_clock

WALL, MONOTONIC = 1_767_000_000_000_000_000, 5_000_000_000


class BusyMachine:
    """Two clocks that agree; now and then 5 ms pass between two readings, else 100 ns."""

    def __init__(self, quiet_reading: int) -> None:
        self._quiet = quiet_reading
        self._passed = 0
        self._calls = 0

    def _read(self) -> int:
        self._passed += 100 if self._calls // 3 == self._quiet else 5_000_000
        self._calls += 1
        return self._passed

    def time_ns(self) -> int:
        return WALL + self._read()

    def monotonic_ns(self) -> int:
        return MONOTONIC + self._read()


@pytest.mark.parametrize("quiet_reading", [0, 1, 40])
def test_one_undisturbed_reading_is_enough(monkeypatch: pytest.MonkeyPatch, quiet_reading: int) -> None:
    monkeypatch.setattr(wall_clock, "time", BusyMachine(quiet_reading))
    assert abs(wall_clock.read_anchor() - (WALL - MONOTONIC)) <= 100


def test_on_this_machine_it_is_the_wall_clock() -> None:
    before = time.time_ns()
    now = wall_clock.read_anchor() + time.monotonic_ns()
    assert before - 10_000_000 < now < time.time_ns() + 10_000_000
