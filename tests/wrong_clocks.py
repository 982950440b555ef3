"""Validators as processes whose clocks are wrong on purpose, and the truth about them.

A module that Python imports by itself at its start (``sitecustomize``) makes a process read clocks that are ahead and
drift; all of them are linear functions of this machine's own clock, so that every time can be put right exactly.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from microchain.telemetry.wall_clock import read_anchor

__all__ = ["Truth", "write_hook"]

NODE = Path(__file__).resolve().parents[1] / "node"

_HOOK = """
import os, time
_ahead, _ppm, _zero = int(os.environ["AHEAD_NS"]), float(os.environ["DRIFT_PPM"]), int(os.environ["ZERO_NS"])
_wall, _monotonic = time.time_ns, time.monotonic_ns
def _drift():
    return round((_monotonic() - _zero) * _ppm * 1e-6)
time.monotonic_ns = lambda: _monotonic() + _drift()
time.time_ns = lambda: _wall() + _ahead + _drift()
"""


def write_hook(directory: Path) -> Path:
    """Write the module that makes clocks wrong; the directory goes to `Truth.environment`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sitecustomize.py").write_text(_HOOK)
    return directory


class Truth:
    """Puts times of wrong clocks right. ``wrong``: how far each host's clock is ahead (ns), and its drift (ppm)."""

    def __init__(self, wrong: Mapping[str, tuple[int, float]]) -> None:
        self._wrong = wrong
        self.zero = time.monotonic_ns()
        self.anchor = read_anchor()

    def environment(self, host: str, hook: Path) -> dict[str, str]:
        """Variables for a process of the host; ``hook`` is the directory of `write_hook`."""
        ahead, ppm = self._wrong[host]
        path = f"{hook}:{NODE}"
        return {"PYTHONPATH": path, "AHEAD_NS": str(ahead), "DRIFT_PPM": str(ppm), "ZERO_NS": str(self.zero)}

    def right(self, host: str, shown: int) -> int:
        """The true time (ns since 1970) at which the host's clock showed a time."""
        ahead, ppm = self._wrong[host]
        since_zero = shown - ahead - self.anchor - self.zero
        return self.anchor + self.zero + round(since_zero / (1 + ppm * 1e-6))

    def shows(self, host: str, right: int) -> int:
        """What the host's clock showed at a true time."""
        ahead, ppm = self._wrong[host]
        return right + ahead + round((right - self.anchor - self.zero) * ppm * 1e-6)
