"""What is missing is said, with how to get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator import doctor
from emulator.cli import main


def test_what_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_PATH", str(tmp_path))
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "missing: systemd-nspawn: apt-get install systemd-container" in shown
    assert "missing: gcc" not in shown  # useful, not needed


def test_each_program_found_tells_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in doctor._PROGRAMS:
        path = tmp_path / program.names[0]
        path.write_text("#!/bin/sh\necho version 7\necho more\n")
        path.chmod(0o755)
    monkeypatch.setattr(doctor, "_PATH", str(tmp_path))
    findings = {f.name: f for f in doctor.examine()}
    assert findings["mmdebstrap"].words == "version 7"
    assert all(findings[p.names[0]].found for p in doctor._PROGRAMS)


def test_a_program_that_hangs_or_fails_does_not_stop_the_doctor(tmp_path: Path) -> None:
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho broken; exit 1\n")
    failing.chmod(0o755)
    assert doctor._version([str(failing)]) == str(failing)
    assert doctor._version([str(tmp_path / "none")]) == str(tmp_path / "none")
