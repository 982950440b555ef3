"""The board's state: what it tells is recorded, what it does not tell is left out, never made up."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from microchain.telemetry.board import BoardSampler, decode_throttled


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_board_without_sensors_has_no_temperature_frequency_or_throttling(tmp_path: Path) -> None:
    fields = BoardSampler(tmp_path, vcgencmd=None).sample()
    assert fields["temperature_c"] is None
    assert fields["frequency_hz"] is None
    assert not any("throttled" in name for name in fields)
    total, available = fields["memory_total_bytes"], fields["memory_available_bytes"]
    assert isinstance(total, int) and isinstance(available, int) and 0 < available <= total


def test_cpu_is_counted_from_sample_to_sample_whichever_thread_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([(100, 900), (130, 910), (130, 910), (131, 949)])  # busy, idle; in between no time may have passed
    monkeypatch.setattr("psutil.cpu_times", lambda: cpu_times(*next(times)))
    sampler = BoardSampler(tmp_path, vcgencmd=None)
    found = []
    for _ in range(3):  # each in a thread of its own, as asyncio.to_thread may
        thread = threading.Thread(target=lambda: found.append(sampler.sample()["cpu_percent"]))
        thread.start()
        thread.join()
    assert found == [75.0, 75.0, 2.5]


def cpu_times(busy: float, idle: float) -> SimpleNamespace:
    """As psutil has them on Linux, where ``user`` contains ``guest``."""
    others = dict.fromkeys(("nice", "irq", "softirq", "steal", "guest_nice"), 0.0)
    return SimpleNamespace(user=busy - 1, system=1.0, idle=idle - 5, iowait=5.0, guest=busy - 1, **others)


def test_the_processors_hottest_zone_is_reported(tmp_path: Path) -> None:
    for number, (kind, temperature) in enumerate(
        [("acpitz", "90000"), ("cpu-thermal", "48312"), ("cpu-thermal", "51540"), ("cpu-thermal", "broken")]
    ):
        put(tmp_path / f"class/thermal/thermal_zone{number}/type", kind + "\n")
        put(tmp_path / f"class/thermal/thermal_zone{number}/temp", temperature + "\n")
    assert BoardSampler(tmp_path, vcgencmd=None).sample()["temperature_c"] == 51.54


def test_frequency_is_in_hertz(tmp_path: Path) -> None:
    put(tmp_path / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1400000\n")
    assert BoardSampler(tmp_path, vcgencmd=None).sample()["frequency_hz"] == 1_400_000_000


def test_the_firmwares_bits_are_read_from_sysfs(tmp_path: Path) -> None:
    put(tmp_path / "devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    fields = BoardSampler(tmp_path, vcgencmd=None).sample()
    assert (fields["throttled"], fields["under_voltage_now"], fields["throttled_now"]) == (0x50005, True, True)
    assert (fields["frequency_capped_now"], fields["temperature_limit_now"]) == (False, False)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo throttled=0x4", True),
        ("echo throttled=0x0", False),
        ("echo VCHI failed; exit 1", None),
        ("exit 255", None),
    ],
)
def test_the_firmwares_tool_is_asked_where_sysfs_has_no_bits(
    tmp_path: Path, script: str, expected: bool | None
) -> None:
    tool = tmp_path / "vcgencmd"
    tool.write_text(f'#!/bin/sh\n[ "$1" = get_throttled ] || exit 9\n{script}\n')
    tool.chmod(0o755)
    assert BoardSampler(tmp_path, vcgencmd=str(tool)).sample().get("throttled_now") == expected


def test_a_tool_that_cannot_be_run_is_no_throttling(tmp_path: Path) -> None:
    assert "throttled" not in BoardSampler(tmp_path, vcgencmd=str(tmp_path / "absent")).sample()


def test_what_was_since_boot_is_not_taken_for_now() -> None:
    fields = decode_throttled(0xF0000)
    assert [name for name, value in fields.items() if value is True] == []


def test_the_process_reports_its_own_time_and_memory(tmp_path: Path) -> None:
    fields = BoardSampler(tmp_path, vcgencmd=None).process()
    rss, threads, user = fields["rss_bytes"], fields["threads"], fields["cpu_user_s"]
    assert isinstance(rss, int) and rss > 1 << 20
    assert isinstance(threads, int) and threads >= 1
    assert isinstance(user, float) and user > 0
