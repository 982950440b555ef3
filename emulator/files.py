"""Removing what we made in the file system, and nothing else."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from emulator.commands import run
from emulator.errors import EmulationFailed

__all__ = ["mounts_below", "release_loops", "remove_tree"]

_LOOPS = Path("/sys/block")


def mounts_below(path: Path, mounts: str) -> list[str]:
    """Return what is mounted at or below a path, according to the text of ``/proc/self/mounts``."""
    places = [line.split(" ")[1].replace("\\040", " ") for line in mounts.splitlines()]
    return [place for place in places if Path(place).is_relative_to(path)]


def remove_tree(path: Path) -> None:
    """Delete a directory if there is one; EmulationFailed if anything is mounted in it, which would be deleted too."""
    if not path.is_dir():
        return
    if mounted := mounts_below(path.resolve(), Path("/proc/self/mounts").read_text()):
        raise EmulationFailed(f"{mounted[-1]} is still mounted: 'umount {mounted[-1]}', then do it again")
    shutil.rmtree(path)


def release_loops(images: Sequence[str], patience_s: float = 5.0) -> None:
    """Wait until no loop device holds one of the images, which is so soon after the last mount went; help at last."""
    end = time.monotonic() + patience_s
    while loops := _loops_of(set(images)):
        if time.monotonic() > end:
            for loop in loops:
                run("losetup", "--detach", f"/dev/{loop}")
            return
        time.sleep(0.02)


def _loops_of(images: set[str]) -> list[str]:
    found = []
    for loop in _LOOPS.glob("loop*"):
        with suppress(OSError):
            if (loop / "loop" / "backing_file").read_text().strip().removesuffix(" (deleted)") in images:
                found.append(loop.name)
    return found
