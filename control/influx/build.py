"""Builds an InfluxDB server from its published sources, once, where the toolchain is present.

1.8 is pure Go. 2.7 needs Rust and a C compiler too, for its query language, and a module of ours around it: its own
go.mod has a replacement that ``go install`` refuses. Nothing is written outside the place of the build, which is
deleted afterwards, and the place of the binary. The pages that a browser would show are not part of it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from control.errors import DeploymentFailed
from control.influx.binary import HOME, VERSIONS, binary_place
from control.influx.process import read_version

__all__ = ["build", "find_missing_tools"]

_V1 = "github.com/influxdata/influxdb/cmd/influxd"
_V2 = "github.com/influxdata/influxdb/v2"
_PKG_CONFIG = "github.com/influxdata/pkg-config@v0.2.14"
_TAGS = "sqlite_foreign_keys,sqlite_json"

_GO_MOD = """\
module testbed
go 1.23
require {module} v{version}
replace github.com/nats-io/nats-streaming-server v0.11.2 => \
github.com/influxdata/nats-streaming-server v0.11.3-0.20201112040610-c277f7560803
"""
_GO_FILE = """\
//go:build tools

package testbed

import _ "{module}/cmd/influxd"
"""
# Flux forbids warnings in its own crates, and newer compilers warn more; RUSTFLAGS does not reach all of them.
_RUSTC_WRAPPER = """\
#!/bin/sh
exec "$@" --cap-lints warn
"""

_OLDEST_GO = {1: (1, 16), 2: (1, 23)}
_OLDEST_RUST = (1, 72)
_FREE_GB = {1: 1.5, 2: 4.5}
_TAIL_LINES = 12


class _Step(Struct, frozen=True):
    title: str
    command: Sequence[str]
    environment: Mapping[str, str]


def find_missing_tools(major: int) -> list[str]:
    """Return what has to be installed before a server of that generation can be built, in words."""
    missing = []
    if _read_number(["go", "version"]) < _OLDEST_GO[major]:
        missing.append(f"Go {_shown(_OLDEST_GO[major])} or newer")
    if major == 2:
        if _read_number(["rustc", "--version"]) < _OLDEST_RUST or not shutil.which("cargo"):
            missing.append(f"Rust {_shown(_OLDEST_RUST)} or newer with cargo")
        missing += [tool for tool in ("gcc", "pkg-config") if not shutil.which(tool)]
    return missing


def build(major: int, say: Callable[[str], None], waiting: Callable[[str], None]) -> Path:
    """Build the server of a generation and return its binary, or the one that is there already.

    ``say`` is told of every step that begins; ``waiting`` is called with its title while it lasts, and waits a little.
    DeploymentFailed if tools or disk are missing, or a step fails; the log stays, and the next call begins anew.
    """
    target = binary_place(major)
    HOME.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lock(HOME / f"build-{major}.lock"):  # of two at once the second waits, and finds it done
        if os.access(target, os.X_OK):
            return target
        missing = find_missing_tools(major)
        if missing:
            raise DeploymentFailed(f"InfluxDB {VERSIONS[major]} can't be built here: {', '.join(missing)} is missing")
        place, log = HOME / f"build-{major}", HOME / f"build-{major}.log"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            free = shutil.disk_usage(place).free / 1e9
            if free < _FREE_GB[major]:
                raise DeploymentFailed(
                    f"{free:.1f} GB are free at {place}, the build needs {_FREE_GB[major]}: make room"
                )
            log.write_bytes(b"")
            for step in _steps_v1(place) if major == 1 else _steps_v2(place):
                say(step.title)
                _run(step, place, log, waiting)
            _install(place / "influxd", target, VERSIONS[major])
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return target


def _steps_v1(place: Path) -> list[_Step]:
    version = VERSIONS[1]
    command = ["go", "install", "-ldflags", f"-s -w -X main.version={version}", f"{_V1}@v{version}"]
    environment = _environment(place) | {"CGO_ENABLED": "0", "GOBIN": str(place)}
    return [_Step(f"building InfluxDB {version}, about 1½ minutes", command, environment)]


def _steps_v2(place: Path) -> list[_Step]:
    version, tools = VERSIONS[2], place / "tools"
    tools.mkdir()
    (place / "go.mod").write_text(_GO_MOD.format(module=_V2, version=version))
    (place / "testbed.go").write_text(_GO_FILE.format(module=_V2))
    wrapper = tools / "rustc-wrapper"
    wrapper.write_text(_RUSTC_WRAPPER)
    wrapper.chmod(0o755)
    cargo = _bring_cargo_settings(place / "cargo")
    environment = _environment(place) | {
        "CARGO_HOME": str(cargo),
        "PATH": os.pathsep.join([str(tools), os.environ.get("PATH", os.defpath)]),
        "RUSTC_WORKSPACE_WRAPPER": str(wrapper),
        # Flux asks rustup for an older compiler, which would have to be fetched.
        "RUSTUP_TOOLCHAIN": os.environ.get("RUSTUP_TOOLCHAIN", "stable"),
    }
    main = f"{_V2}/cmd/influxd"
    flags = ["-mod=mod", "-tags", _TAGS, "-ldflags", f"-s -w -X main.version=v{version}"]
    return [
        _Step(
            "building the tool that builds Flux", ["go", "install", _PKG_CONFIG], environment | {"GOBIN": str(tools)}
        ),
        _Step(f"fetching the sources of InfluxDB {version}", ["go", "list", "-mod=mod", "-deps", main], environment),
        _Step(
            f"building InfluxDB {version}, about 6 minutes",
            ["go", "build", *flags, "-o", str(place / "influxd"), main],
            environment,
        ),
    ]


def _environment(place: Path) -> dict[str, str]:
    """All caches inside the place of the build."""
    (place / "tmp").mkdir()
    return os.environ | {
        "GOCACHE": str(place / "gocache"),
        "GOFLAGS": "-buildvcs=false -modcacherw",
        "GOMODCACHE": str(place / "gomod"),
        "TMPDIR": str(place / "tmp"),
    }


def _bring_cargo_settings(home: Path) -> Path:
    """A cargo home of the build's own, with the user's settings (a registry's mirror, say) but nothing else."""
    home.mkdir()
    users = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo") / "config.toml"
    if users.is_file():
        shutil.copyfile(users, home / "config.toml")
    return home


def _run(step: _Step, place: Path, log: Path, waiting: Callable[[str], None]) -> None:
    with log.open("ab") as stream:
        stream.write(f"$ {' '.join(step.command)}\n".encode())
        stream.flush()
        process = subprocess.Popen(
            step.command,
            cwd=place,
            env=step.environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                waiting(step.title)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # the compilers too
            process.wait()
            raise
    if process.returncode:
        ending = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        raise DeploymentFailed(f"{step.title}: failed; the end of {log} says:\n{ending}")


def _install(built: Path, target: Path, version: str) -> None:
    found = read_version(built)
    if found != version:
        raise DeploymentFailed(f"what was built says that it is InfluxDB {found}, not {version}")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".influxd.{os.getpid()}")  # the cache may lie on another disk
    shutil.copy2(built, draft)
    draft.rename(target)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_number(command: list[str]) -> tuple[int, int]:
    """Return the (major, minor) version that a compiler says, (0, 0) without one."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    found = re.search(r"(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _shown(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
