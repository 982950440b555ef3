"""Ends the InfluxDB server below a directory, and its supervisor: prints {"ended": [command, ...]}.

The directory is the first argument; `--check` ends none. Both are known by their command lines, which name the
directory, so also a server whose supervisor was killed is found.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

GRACE_S = 30.0


def find_processes(root: str) -> dict[int, str]:
    """Return the command lines, by process id, of the server and its supervisor."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            is_server = Path(words[0]).name == "influxd" and any(f"{root}/" in word for word in words[1:])
            if is_server or f"{root}/supervisor/supervisor.conf" in words:
                found[int(process.name)] = " ".join(words).strip()
    return found


def end_all(root: str) -> None:
    """Ask with SIGTERM, the supervisor too, which asks the server; kill what is left."""
    for number, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 5.0)):
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
    place = sys.argv[1].rstrip("/")
    running = find_processes(place)
    if "--check" not in sys.argv:
        end_all(place)
    print(json.dumps({"ended": sorted(running.values())}))
