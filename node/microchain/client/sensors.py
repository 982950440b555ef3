"""What a device reports: a real reading of its host's sensors. What the host lacks is null, never made up."""

from __future__ import annotations

import time

from microchain.telemetry.board import BoardSampler

__all__ = ["Reading", "SensorReader"]

Reading = dict[str, float | int | str | bool | None]
"""Fields of a ``board`` point (load1, memory_*_bytes, temperature_c, frequency_hz, ...) and ``at``, ns since 1970."""


class SensorReader:
    """Reads at most once in ``max_age_s``: a reading costs more than the transaction that carries it."""

    def __init__(self, max_age_s: float = 0.1) -> None:
        self._sampler = BoardSampler()
        self._max_age_s = max_age_s
        self._read_at = float("-inf")
        self._reading: Reading = {}

    def read(self) -> Reading:
        """Return a reading no older than ``max_age_s``; it may take some ms (files in /sys, the firmware's tool)."""
        now = time.monotonic()
        if now - self._read_at > self._max_age_s:
            self._reading = {"at": time.time_ns(), **self._sampler.sample()}
            self._read_at = now
        return self._reading
