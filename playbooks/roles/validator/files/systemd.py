"""Acts for all validators of a host by systemd, in one go; runs as root, with the host's own Python.

    systemd.py setup UNIT [--check] makes this text the validators' unit
    systemd.py start NAME…          starts them and waits until each is ready; fails with the reason of each that is not
    systemd.py stop                 stops all, and forgets how they ended
    systemd.py state                prints {"states": {NAME: running | stopped | failed…}}
    systemd.py remove [--check]     stops all, removes the unit

Prints {"changed": [what, ...]} otherwise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

UNIT = "microchain@"
FILE = Path("/etc/systemd/system/microchain@.service")
LOG_LINES = 3


def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)


def read_units() -> dict[str, dict[str, str]]:
    """Return the properties, by validator, of the units that systemd knows."""
    wanted = "--property=Id,ActiveState,SubState,Result,ExecMainStatus,StandardOutput"
    found = {}
    for block in systemctl("show", f"{UNIT}*.service", wanted).stdout.split("\n\n"):
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        if unit.get("Id", "").startswith(UNIT):
            found[unit["Id"].removeprefix(UNIT).removesuffix(".service")] = unit
    return found


def setup(text: str, check: bool) -> dict[str, list[str]]:
    changed = [] if FILE.exists() and FILE.read_text() == text else [str(FILE)]
    if not check:
        if changed:
            FILE.write_text(text)
            FILE.chmod(0o644)
        # Also where an interrupted deployment wrote it, and came no further.
        if "=yes" in systemctl("show", f"{UNIT}*.service", "--property=NeedDaemonReload").stdout or changed:
            systemctl("daemon-reload")
    return {"changed": changed}


def start(names: list[str]) -> dict[str, list[str]]:
    units = [f"{UNIT}{name}.service" for name in names]
    done = systemctl("start", *units)
    if done.returncode:
        states = read_units()
        reasons = [explain(name, states.get(name, {})) for name in names]
        sys.exit("; ".join(filter(None, reasons)) or done.stderr.strip())
    return {"changed": names}


def explain(name: str, unit: dict[str, str]) -> str:
    """Return why a validator does not run, with the end of its log; nothing if it does."""
    if unit.get("ActiveState") == "active":
        return ""
    log = Path(unit.get("StandardOutput", "").removeprefix("append:"))
    try:
        ending = " | ".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    except OSError:
        ending = "it wrote no log"
    result, code = unit.get("Result", "not found"), unit.get("ExecMainStatus", "?")
    return f"{name} did not start ({result}, exit code {code}): {ending}"


def stop() -> dict[str, list[str]]:
    running = [name for name, unit in read_units().items() if unit["ActiveState"] not in ("inactive", "failed")]
    done = systemctl("stop", f"{UNIT}*.service")
    if done.returncode:
        sys.exit(done.stderr.strip())
    systemctl("reset-failed", f"{UNIT}*.service")
    return {"changed": sorted(running)}


def state() -> dict[str, dict[str, str]]:
    words = {"active": "running", "inactive": "stopped"}
    return {
        "states": {name: words.get(unit["ActiveState"], unit["ActiveState"]) for name, unit in read_units().items()}
    }


def remove(check: bool) -> dict[str, list[str]]:
    changed = [] if check else stop()["changed"]
    directory = FILE.with_name(f"{FILE.name}.d")
    changed += [str(path) for path in (FILE, directory) if path.exists()]
    if not check and changed:
        FILE.unlink(missing_ok=True)
        for path in sorted(directory.glob("*")) if directory.exists() else []:
            path.unlink()
        if directory.exists():
            directory.rmdir()
        systemctl("daemon-reload")
    return {"changed": changed}


if __name__ == "__main__":
    verb, words = sys.argv[1], sys.argv[2:]
    if verb == "setup":
        print(json.dumps(setup(words[0], "--check" in words)))
    elif verb == "start":
        print(json.dumps(start(words)))
    elif verb == "remove":
        print(json.dumps(remove("--check" in words)))
    else:
        print(json.dumps({"stop": stop, "state": state}[verb]()))
