"""Gives a host back as it was: the last step of a teardown, which can be done again at any point.

The request (JSON) is the only argument. Removes the testbed's directories, and its user if that was not there before,
sets the governors again, and at last removes the record. Prints {"changed": [what, ...]}; `check` changes nothing.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

DEPTH = 3  # /opt/microchain has that many parts; what is nearer to the top is not ours to remove
FIRST_PERSON = 1000  # the uid that persons' begin with


def restore(request: dict[str, Any]) -> list[str]:
    """Return what had to be restored, or with ``check`` would be."""
    steps = find_steps(request)
    for _, step in [] if request["check"] else steps:
        step()
    return [name for name, _ in steps]


def find_steps(request: dict[str, Any]) -> list[tuple[str, Callable[[], None]]]:
    """Return in order what has to be done; the record goes last."""
    root, record = request["root"], Path(request["record"])
    if len(Path(root).parts) < DEPTH:
        sys.exit(f"testbed_root is {root}, which can't be the testbed's alone: correct the inventory")
    steps: list[tuple[str, Callable[[], None]]] = []
    if os.path.lexists(root):
        steps.append((f"remove {root}", partial(shutil.rmtree, root)))
    if not record.exists():
        return steps
    before, user = json.loads(record.read_text()), request["user"]
    if user not in before["users"] and is_ours(user, request["home"]):
        steps.append((f"remove user {user}", partial(remove_user, user)))
    for name, governor in before["governors"].items():
        path = Path(name)
        if path.exists() and path.read_text().strip() != governor:
            steps.append((f"set governor {governor}", partial(write, path, governor)))
    for directory in map(os.path.expanduser, request["directories"]):
        if directory not in before["directories"] and Path(directory).exists():
            steps.append((f"remove {directory}", partial(shutil.rmtree, directory)))
    return [*steps, (f"remove {record.parent}", partial(shutil.rmtree, record.parent))]


def is_ours(name: str, home: str) -> bool:
    """Whether there is such a user, and it is the one that role base makes: a system user whose home is our state."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return False
    return 0 < entry.pw_uid < FIRST_PERSON and entry.pw_dir == home


def remove_user(name: str) -> None:
    """End what still runs as this user, then remove it; its group, which has its name, goes with it."""
    uid = pwd.getpwnam(name).pw_uid
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes_of(uid):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + 5
        while processes_of(uid) and time.monotonic() < deadline:
            time.sleep(0.05)
    done = subprocess.run(["userdel", name], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"user {name} could not be removed: {done.stderr.strip()}")


def processes_of(uid: int) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == uid:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def write(path: Path, text: str) -> None:
    path.write_text(text)


if __name__ == "__main__":
    print(json.dumps({"changed": restore(json.loads(sys.argv[1]))}))
