"""How the board is: load, memory, temperature, frequency, throttling. What a board does not tell is left out."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psutil

from microchain.telemetry.line_protocol import FieldValue

__all__ = ["BoardSampler", "decode_throttled"]

_SYSFS = Path("/sys")
_COMMAND_TIMEOUT_S = 2.0


class BoardSampler:
    """Reads the board's state. ``sysfs`` is where /sys is; ``vcgencmd`` the firmware's tool, if there is one."""

    def __init__(self, sysfs: Path = _SYSFS, vcgencmd: str | None = shutil.which("vcgencmd")) -> None:
        self._throttled_file = sysfs / "devices/platform/soc/soc:firmware/get_throttled"
        self._frequency_file = sysfs / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
        self._thermal = sysfs / "class/thermal"
        self._vcgencmd = vcgencmd
        self._process = psutil.Process()
        self._busy_s = self._total_s = self._cpu_percent = 0.0
        self._read_cpu()  # from now on; psutil's own reckoning is one for each thread that asks

    def sample(self) -> dict[str, FieldValue | None]:
        """Return the fields of a ``board`` point (docs/telemetry.md); None where the board has no such sensor."""
        memory = psutil.virtual_memory()
        frequency_khz = _read_int(self._frequency_file)
        throttled = self._throttled()
        fields: dict[str, FieldValue | None] = {
            "cpu_percent": self._read_cpu(),
            "load1": os.getloadavg()[0],
            "memory_total_bytes": memory.total,
            "memory_available_bytes": memory.available,
            "temperature_c": self._temperature(),
            "frequency_hz": None if frequency_khz is None else frequency_khz * 1000,
        }
        return fields | decode_throttled(throttled) if throttled is not None else fields

    def process(self) -> dict[str, FieldValue | None]:
        """Return the fields of a ``process`` point."""
        with self._process.oneshot():
            times = self._process.cpu_times()
            return {
                "cpu_user_s": times.user,
                "cpu_system_s": times.system,
                "rss_bytes": self._process.memory_info().rss,
                "threads": self._process.num_threads(),
            }

    def _read_cpu(self) -> float:
        """The share of all cores' time that was used since the last call, in percent; the last again if none passed."""
        times = psutil.cpu_times()
        total = sum(
            (times.user, times.nice, times.system, times.irq, times.softirq, times.steal, times.idle, times.iowait)
        )
        busy = total - times.idle - times.iowait
        if total > self._total_s:
            share = 100 * (busy - self._busy_s) / (total - self._total_s)
            self._cpu_percent = round(min(max(share, 0.0), 100.0), 1)  # iowait may go backwards
            self._busy_s, self._total_s = busy, total
        return self._cpu_percent

    def _temperature(self) -> float | None:
        """The hottest of the processor's zones, else of all zones, in °C."""
        zones: dict[str, list[float]] = {"cpu": [], "other": []}
        for zone in sorted(self._thermal.glob("thermal_zone*")):
            millidegrees = _read_int(zone / "temp")
            if millidegrees is not None:
                kind = _read(zone / "type").lower()
                is_cpu = any(word in kind for word in ("cpu", "soc", "x86_pkg"))
                zones["cpu" if is_cpu else "other"].append(millidegrees / 1000)
        return max(zones["cpu"] or zones["other"], default=None)

    def _throttled(self) -> int | None:
        """The Raspberry Pi firmware's throttling bits, or None on other boards."""
        text = _read(self._throttled_file)
        if not text and self._vcgencmd is not None:
            try:
                done = subprocess.run(
                    [self._vcgencmd, "get_throttled"], capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S
                )
            except (OSError, subprocess.TimeoutExpired):
                return None
            text = done.stdout.strip().removeprefix("throttled=")
        try:
            return int(text, 16)
        except ValueError:
            return None


def decode_throttled(bits: int) -> dict[str, FieldValue | None]:
    """Return the fields told by the firmware's bits: what is so now, and (bits 16 and up) what was since boot.

    Source: https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
    """
    return {
        "throttled": bits,
        "under_voltage_now": bool(bits & 1 << 0),
        "frequency_capped_now": bool(bits & 1 << 1),
        "throttled_now": bool(bits & 1 << 2),
        "temperature_limit_now": bool(bits & 1 << 3),
    }


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _read_int(path: Path) -> int | None:
    try:
        return int(_read(path))
    except ValueError:
        return None
