"""What kept a host's time before chrony did: `restore.py keep|restore RECORD [check]`.

`keep` gets the packages that chrony will take the place of, so that they can be brought back without a package source.
`restore` removes our settings, removes chrony if it was not there before, and brings back what was. Runs as root;
prints {"changed": [what, ...]}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

DAEMONS = ("chrony", "systemd-timesyncd", "ntpsec", "openntpd")
SETTINGS = Path("/etc/chrony/conf.d/microchain-testbed.conf")


def installed() -> set[str]:
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n", *DAEMONS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {line.split()[1] for line in shown.stdout.splitlines() if line.startswith("ii ")}


def run(*command: str, place: Path | None = None) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")


def keep(record: Path, check: bool) -> list[str]:
    place = record.parent / "packages"
    wanted = [name for name in sorted(installed()) if not any(place.glob(f"{name}_*.deb"))]
    if "chrony" in wanted:
        return []
    if not check:
        for name in wanted:
            place.mkdir(mode=0o755, exist_ok=True)
            run("apt-get", "download", "-o", "APT::Sandbox::User=root", name, place=place)
    return wanted


def restore(record: Path, check: bool) -> list[str]:
    if not record.exists():
        return []
    before = json.loads(record.read_text())
    there, had = installed(), set(before["packages"]) & set(DAEMONS)
    changed = [f"remove {SETTINGS}"] if SETTINGS.exists() else []
    doomed, lost = sorted(there - had), sorted(had - there)
    changed += [f"remove {name}" for name in doomed] + [f"install {name}" for name in lost]
    if check or not changed:
        return changed
    SETTINGS.unlink(missing_ok=True)
    if doomed:
        run("apt-get", "purge", "--yes", *doomed)
    kept = [str(path) for name in lost for path in (record.parent / "packages").glob(f"{name}_*.deb")]
    if kept:
        run("apt-get", "install", "--yes", "--no-install-recommends", "--allow-downgrades", *kept)
    for name, state in before["time"].items():
        if state in ("enabled", "disabled"):
            run("systemctl", state.removesuffix("d"), name)
        if state == "enabled":
            run("systemctl", "restart", name)
    return changed


if __name__ == "__main__":
    verb, path, mode = sys.argv[1:4]
    print(json.dumps({"changed": {"keep": keep, "restore": restore}[verb](Path(path), mode == "check")}))
