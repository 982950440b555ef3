"""Looks at a board: what it is, and what it has, before anything of it is changed.

    survey.py record REQUEST   notes what the host has in a file, unless that is there, then makes the validators'
                               user and the testbed's directories; prints {"changed": [what, ...], "board"}
    survey.py compare REQUEST  says what differs from a record, and what of the testbed is left;
                               prints {"left": [sentence]}

The request is JSON, `-` where it is on stdin. Runs as root, with the host's own Python and its standard library.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

GOVERNORS = "devices/system/cpu/cpu*/cpufreq/scaling_governor"
TIME_SERVICES = ("chrony", "chronyd", "systemd-timesyncd", "ntp", "ntpd", "ntpsec", "openntpd")
JOURNAL = "/etc/systemd/journald.conf"
# Where programs put what the system is to keep, and how deep to look.
SEARCHED = (
    ("/etc", 8),
    ("/opt", 2),
    ("/usr/local", 4),
    ("/var/lib", 1),
    ("/var/spool/cron", 3),
    ("/home", 2),
    ("/root", 1),
)
PASSING = ("/etc/mtab", "/etc/resolv.conf", "/etc/adjtime", "/etc/ld.so.cache", "/etc/.pwd.lock")


def run(*command: str) -> str:
    """Return what a command prints, or nothing where there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def describe_board(sysfs: Path = Path("/sys")) -> dict[str, Any]:
    """Return the facts of the board; what it does not tell is empty."""
    release = dict(line.split("=", 1) for line in read(Path("/etc/os-release")).splitlines() if "=" in line)
    model = read(Path("/proc/device-tree/model")) or read(sysfs / "class/dmi/id/product_name")
    memory = read(Path("/proc/meminfo")).split()
    temperatures = [
        int(text) for zone in sysfs.glob("class/thermal/thermal_zone*/temp") if (text := read(zone)).isdigit()
    ]
    return {
        "model": model,
        "machine": os.uname().machine,
        "kernel": os.uname().release,
        "system": release.get("PRETTY_NAME", "").strip('"'),
        "cores": os.cpu_count(),
        "memory_mb": int(memory[1]) >> 10 if len(memory) > 1 else None,
        "temperature_c": max(temperatures) / 1000 if temperatures else None,
        "throttled": read(sysfs / "devices/platform/soc/soc:firmware/get_throttled")
        or run("vcgencmd", "get_throttled").partition("=")[2],
        "governor": " ".join(sorted(set(read_governors(sysfs).values()))),
    }


def read_governors(sysfs: Path = Path("/sys")) -> dict[str, str]:
    return {str(path): read(path) for path in sorted(sysfs.glob(GOVERNORS))}


def describe_host(directories: list[str]) -> dict[str, Any]:
    """Return what a deployment may change, and what one would see if something were left."""
    return {
        "packages": sorted(run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n").replace("ii ", "").split()),
        "users": sorted(entry.pw_name for entry in pwd.getpwall()),
        "groups": sorted(entry.gr_name for entry in grp.getgrall()),
        "governors": read_governors(),
        "journald": read(Path(JOURNAL)),
        "time": {
            name: state
            for name in TIME_SERVICES
            if (state := run("systemctl", "is-enabled", name)) not in ("", "not-found")
        },
        "files": sorted(find_files()),
        "units": find_units(),
        "nft": sorted(run("nft", "list", "tables").splitlines()),
        "tc": sorted(line.partition(" refcnt")[0] for line in run("tc", "qdisc", "show").splitlines()),
        "directories": [path for path in map(os.path.expanduser, directories) if Path(path).exists()],
    }


def find_files() -> set[str]:
    found: set[str] = set()
    for top, depth in SEARCHED:
        for place, directories, files in os.walk(top):
            level = len(Path(place).relative_to(top).parts)
            if level >= depth - 1:
                names, directories[:] = [*files, *directories], []
            else:
                names = [*files, *directories]
            # A name that ends in "-" is the copy that useradd makes of a file before it changes it.
            found.update(f"{place}/{name}" for name in names if not name.endswith("-"))
    return {path for path in found if not path.startswith(PASSING) and "/.ansible" not in path}


def find_units() -> list[str]:
    """Return the units that systemd has loaded from files of its administrator, or that run as transient ones."""
    kinds = ("*.service", "*.timer", "*.path", "*.socket")
    blocks = run("systemctl", "show", *kinds, "--property=Id,FragmentPath").split("\n\n")
    units = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks]
    places = ("/etc/", "/run/systemd/transient/")
    return sorted(unit["Id"] for unit in units if unit.get("FragmentPath", "").startswith(places))


def record(request: dict[str, Any]) -> dict[str, Any]:
    """Do what is missing, one step after the other; with ``check`` only say which."""
    changed = []
    for name, step in find_steps(request):
        changed.append(name)
        if not request["check"]:
            step()
    return {"changed": changed, "board": describe_board()}


def find_steps(request: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what is missing; each step is done, or not, before the next is looked for."""
    path, user = Path(request["record"]), request["user"]
    if not path.exists():
        yield f"write {path}", partial(write_record, path, request["directories"])
    wanted = request["governor"]
    for name, governor in read_governors().items() if wanted else ():
        if governor != wanted:
            yield f"set {name}", partial(set_governor, Path(name), wanted)
    if user not in {entry.pw_name for entry in pwd.getpwall()}:
        yield f"make user {user}", partial(make_user, user, request["home"])
    for place, owner, group, mode in request["places"]:
        if describe_place(Path(place)) != (owner, find_group(group), mode):
            yield f"make {place}", partial(make_place, Path(place), owner, find_group(group), mode)


def write_record(path: Path, directories: list[str]) -> None:
    seen = json.dumps(describe_host(directories))
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(seen)
    draft.replace(path)


def make_user(name: str, home: str) -> None:
    command = ["useradd", "--system", "--no-create-home", "--home-dir", home, "--shell", "/usr/sbin/nologin", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"user {name} could not be made: {done.stderr.strip()}")


def find_group(name: str) -> str:
    """Return a user's own group where its name is given as ``~USER``."""
    return grp.getgrgid(pwd.getpwnam(name[1:]).pw_gid).gr_name if name.startswith("~") else name


def describe_place(place: Path) -> tuple[str, str, str]:
    """Return owner, group and mode of a directory; nothing if there is none."""
    if place.is_symlink() or not place.is_dir():
        return "", "", ""
    status = place.stat()
    names = {entry.pw_uid: entry.pw_name for entry in pwd.getpwall()}
    groups = {entry.gr_gid: entry.gr_name for entry in grp.getgrall()}
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    return names.get(status.st_uid, "?"), groups.get(status.st_gid, "?"), mode


def make_place(place: Path, owner: str, group: str, mode: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    shutil.chown(place, owner, group)
    place.chmod(int(mode, 8))


def set_governor(path: Path, wanted: str) -> None:
    try:
        path.write_text(wanted)
    except OSError:
        offered = read(path.with_name("scaling_available_governors"))
        sys.exit(f"base_governor: there is no '{wanted}' here, but {offered}")


def compare(request: dict[str, Any]) -> dict[str, Any]:
    return {"left": find_remains(request) + find_differences(request)}


def find_remains(request: dict[str, Any]) -> list[str]:
    """Look for all that a deployment makes, by the names that it has."""
    root, user, ports = Path(request["root"]), request["user"], request["ports"]
    left = [f"{path} is there" for path in map(Path, [str(root), *request["paths"]]) if path.exists()]
    with contextlib.suppress(KeyError):
        if user:
            left.append(f"user {user} (uid {pwd.getpwnam(user).pw_uid}) is there")
    left += [f"{process} runs" for process in find_processes(root, user)]
    left += [f"port {port} is listened on" for port in sorted(find_listening() & set(ports))]
    if request["systemd"]:
        left += [f"unit {name} is there" for name in find_own_units()]
        left += [f"nft {name} is there" for name in run("nft", "list", "tables").splitlines() if "testbed" in name]
        left += [f"{name} is there" for name in find_cron()]
        left += [f"certificate {path} is there" for path in Path("/etc/ssl/certs").glob("*icrochain*")]
    return left


def find_own_units() -> list[str]:
    """Return the testbed's units, those that failed and those that only have a file too."""
    shown = ""
    for listing in (("list-units", "--all"), ("list-unit-files",)):
        shown += run("systemctl", *listing, "--plain", "--no-legend", "microchain*", "testbed-*") + "\n"
    return sorted({line.split()[0] for line in shown.splitlines() if line.strip()})


def find_processes(root: Path, user: str) -> list[str]:
    """Return those of the testbed's user, and those that run from its directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            ours = words[0].startswith(f"{root}/")
            with contextlib.suppress(KeyError):
                ours = ours or (user != "" and pwd.getpwnam(user).pw_uid == process.stat().st_uid)
            if ours:
                found.append(f"process {process.name} ({' '.join(words).strip()})")
    return found


def find_listening() -> set[int]:
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read(Path(table)).splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def find_cron() -> list[str]:
    places = [*Path("/etc").glob("cron*/*"), *Path("/var/spool/cron").glob("**/*"), Path("/etc/crontab")]
    return [f"{path} names microchain, and it" for path in places if path.is_file() and "microchain" in read(path)]


def find_differences(request: dict[str, Any]) -> list[str]:
    """Compare with what the host had before, if that is known."""
    before = request["before"]
    if not before:
        return []
    now, left = describe_host(request["directories"]), []
    for kind, word in (
        ("packages", "package"), ("users", "user"), ("groups", "group"), ("files", "file"), ("units", "unit"),
        ("nft", "nft table"), ("tc", "queueing discipline"), ("directories", "directory"),
    ):  # fmt: skip
        left += [f"{word} {name} is there, and was not before" for name in now[kind] if name not in before[kind]]
        left += [
            f"{word} {name} was there before, and is not now"
            for name in before[kind]
            if name not in now[kind] and kind != "directories"
        ]
    for kind, word in (("governors", "the governor"), ("journald", "journald's setting"), ("time", "the time service")):
        if now[kind] != before[kind]:
            left.append(f"{word} is {now[kind]}, and was {before[kind]} before")
    return left


if __name__ == "__main__":
    action = {"record": record, "compare": compare}[sys.argv[1]]
    print(json.dumps(action(json.loads(sys.stdin.read() if sys.argv[2] == "-" else sys.argv[2]))))
