"""Ends every process that runs from the environment of a testbed's root: prints {"ended": [command, ...]}.

The root is the first argument, the seconds that a process has to end after SIGTERM the second; `--check` ends none. It
finds processes by the program that they run, so also those whose supervisor was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path


def find_processes(root: Path) -> dict[int, str]:
    """Return the command lines, by process id, of what was started with the environment's Python."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if words[0].startswith(f"{root}/env/bin/"):
                found[int(process.name)] = " ".join(words).strip()
    return found


def end_all(root: Path, grace_s: float) -> None:
    """Ask with SIGTERM, the supervisor too, which asks its validators; kill what is left after ``grace_s``."""
    for number, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        for process in find_processes(root):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        while find_processes(root) and time.monotonic() < deadline:
            time.sleep(0.05)
    left = find_processes(root)
    if left:
        sys.exit(f"could not end: {'; '.join(left.values())}")


if __name__ == "__main__":
    place, seconds = Path(sys.argv[1]), float(sys.argv[2])
    running = find_processes(place)
    if "--check" not in sys.argv:
        end_all(place, seconds)
    print(json.dumps({"ended": sorted(running.values())}))
