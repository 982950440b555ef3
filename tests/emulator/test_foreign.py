"""Programs for arm64: which files the kernel hands to qemu, and that it does so only while hosts need it."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from pathlib import Path

import pytest

from emulator import foreign
from emulator.commands import ENVIRONMENT
from emulator.errors import EmulationFailed
from emulator.settings import Settings

SETTINGS = Settings(prefix="ttwo")


@pytest.fixture
def qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A qemu by name, on a machine with rules."""
    (tmp_path / "qemu-aarch64-static").touch(0o755)
    monkeypatch.setitem(ENVIRONMENT, "PATH", str(tmp_path))
    monkeypatch.setattr(foreign, "_QEMUS", ("qemu-aarch64-static",))
    monkeypatch.setattr(foreign, "_BINFMT", tmp_path)
    return tmp_path / "qemu-aarch64-static"


def elf(machine: int, kind: int = 3) -> bytes:
    return struct.pack("<4sBBBB8xHH", b"\x7fELF", 2, 1, 1, 0, kind, machine) + bytes(44)


@pytest.mark.parametrize(
    ("program", "expected"),
    [(elf(183), True), (elf(183, kind=2), True), (elf(62), False), (elf(40), False), (b"#!/bin/sh\n" * 9, False)],
)
def test_arm64_programs_and_no_others_are_for_qemu(qemu: Path, program: bytes, expected: bool) -> None:
    _, name, kind, offset, magic, mask, interpreter, flags = foreign.binfmt_rule(SETTINGS).split(":")
    assert (name, kind, offset, interpreter) == ("testbed-emulator-ttwo", "M", "", str(qemu))
    assert "F" in flags and "C" in flags
    wanted, counts = (
        re.sub(r"\\x(..)", lambda m: chr(int(m[1], 16)), text).encode("latin-1") for text in (magic, mask)
    )
    assert len(wanted) == len(counts)
    assert all(a & m == b & m for a, b, m in zip(program, wanted, counts, strict=False)) is expected


def test_without_qemu_or_rules_one_sentence_says_what_to_install(qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu.unlink()
    with pytest.raises(EmulationFailed, match="apt-get install qemu-user-static"):
        foreign.binfmt_rule(SETTINGS)
    monkeypatch.setattr(foreign, "_BINFMT", qemu / "none")
    with pytest.raises(EmulationFailed, match="modprobe binfmt_misc"):
        foreign.binfmt_rule(SETTINGS)
    foreign.unregister(SETTINGS)  # of what can't be there


@pytest.mark.skipif(os.geteuid() != 0, reason="registers a rule with the kernel, which needs root")
def test_a_rule_is_there_while_it_is_needed_and_gone_afterwards() -> None:
    try:
        command = foreign.register_command(SETTINGS)
    except EmulationFailed as error:
        pytest.skip(str(error))
    shown = subprocess.run(
        ["unshare", "--mount", *command, *command, "cat", f"/proc/sys/fs/binfmt_misc/{SETTINGS.cgroup}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.stdout.startswith("enabled"), shown.stderr
    assert re.search(r"^flags: (?=.*F)(?=.*C)", shown.stdout, re.MULTILINE)
    foreign.unregister(SETTINGS)
    place = "/proc/sys/fs/binfmt_misc"
    script = f"[ -e {place}/register ] || mount -t binfmt_misc none {place}; ls {place}"
    look = ["unshare", "--mount", "sh", "-c", script]
    found = subprocess.run(look, capture_output=True, text=True, check=True).stdout.split()
    assert "register" in found and SETTINGS.cgroup not in found
