"""Packages for the hosts: ``python -m control.wheelhouse --output DIR --kind KIND…`` builds and fetches what they need.

Wheels are installed here, also those for other machines, and hosts only unpack the result: they need neither a package
index nor pip. All that hosts of one kind need is one archive; the node itself, the same for all, is another. What has
not changed is not made again: the node's archive follows its sources, the others follow the pins.

A kind is ``MACHINE-PYTHON``, such as ``aarch64-3.11``, or ``local`` for this machine with the Python that runs this;
only for that may wheels be built where an index has none.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from control.errors import ControlError
from control.namespace import leave_namespace
from control.project import ROOT

__all__ = ["LOCAL", "Archive", "Wheelhouse", "WheelhouseError", "find_wheelhouse", "main"]

LOCAL = "local"

# What archives hold: of another layout there are others.
_LAYOUT = "installed packages with bytecode, readable by all"

_KIND = re.compile(r"^(?P<machine>x86_64|aarch64)-(?P<python>3\.\d{1,2})$")
# What runs on glibc 2.34 and newer: Debian 12, Raspberry Pi OS 12, Ubuntu 22.04 and all after them.
_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_28", "manylinux_2_31", "manylinux_2_34")


class WheelhouseError(ControlError):
    """Wheels could not be built or fetched; the message ends with what pip said."""


class Archive(Struct, frozen=True, kw_only=True):
    """A tar of installed packages.

    ``name`` ends with the digest of what it was made from; ``error`` says why there is none.
    """

    name: str
    path: str
    error: str = ""


class Wheelhouse(Struct, frozen=True, kw_only=True):
    """What hosts install from."""

    node: Archive
    """The node itself."""
    dependencies: dict[str, Archive]
    """For each kind of host what the node needs, and the extra packages."""
    missing: tuple[str, ...] = ()
    """The names of those that are not made yet, or were made by this call."""


def find_wheelhouse(
    output: Path, kinds: Sequence[str], extra: Sequence[str] = (), *, make: bool = True, root: Path = ROOT
) -> Wheelhouse:
    """Return the archives for the present sources, with the ``extra`` packages; ``make`` those that are missing.

    Without wheels for one kind the others still have theirs. WheelhouseError if the node's package can't be built.
    """
    node, pins = root / "node", root / "requirements.txt"
    missing: list[str] = []

    def provide(name: str, stem: str, fill: Callable[[Path], None]) -> Archive:
        path = output / f"{name}.tar.gz"
        if not path.exists():
            missing.append(name)
            if make:
                _make(path, stem, fill)
        return Archive(name=name, path=str(path))

    def provide_for(kind: str) -> Archive:
        stem = f"dependencies-{kind}"
        try:
            sources = map(_read, (pins, node / "pyproject.toml"))
            name = f"{stem}-{_digest([*sources, *_encode((_version(kind), _LAYOUT, *extra))])}"
            return provide(name, stem, lambda target: _fetch(target, kind, node, pins, extra))
        except WheelhouseError as error:
            return Archive(name=stem, path="", error=str(error))

    dependencies = {kind: provide_for(kind) for kind in sorted(set(kinds))}
    sources = _digest([*_digested(_sources(node), node), *_encode([_LAYOUT])])
    own = provide(f"node-{sources}", "node", lambda target: _build(target, node))
    return Wheelhouse(node=own, dependencies=dependencies, missing=tuple(missing))


def _version(kind: str) -> str:
    """Return what the wheels of a kind depend on beside the pins; WheelhouseError if it is no kind."""
    if kind == LOCAL:
        return f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}"
    if not _KIND.match(kind):
        raise WheelhouseError(
            f"there are no wheels for '{kind}': hosts are x86_64 or aarch64 with Python 3.11 or newer"
        )
    return " ".join((kind, *_PLATFORMS))


def _sources(node: Path) -> list[Path]:
    files = (path for path in (node / "microchain").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted([node / "pyproject.toml", *files])


def _digested(files: Iterable[Path], base: Path) -> Iterator[bytes]:
    for path in files:
        yield from (str(path.relative_to(base)).encode(), _read(path))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()[:16]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WheelhouseError(f"{path}: {error.strerror}; is this a whole checkout?") from None


def _encode(texts: Iterable[str]) -> list[bytes]:
    return [text.encode() for text in texts]


def _make(path: Path, stem: str, fill: Callable[[Path], None]) -> None:
    """Fill a directory, pack it, move the archive to its place when it is whole, and remove those it replaces."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A place of its own, since another deployment may be making the same; on the file system that the archive goes to.
    with tempfile.TemporaryDirectory(prefix=".draft-", dir=path.parent) as place:
        draft, packed = Path(place) / stem, Path(place) / path.name
        draft.mkdir()
        fill(draft)
        shutil.rmtree(draft / "bin", ignore_errors=True)  # programs that begin with the path of our own Python
        # Without docstrings: they would take 1.6 MB of each validator. Hosts run with PYTHONOPTIMIZE=2, and those with
        # another Python compile again.
        _compile(draft)
        with tarfile.open(packed, "w:gz", compresslevel=6) as archive:
            for package in sorted(draft.iterdir()):
                archive.add(package, package.name, filter=_readable)
        packed.rename(path)
    for outdated in path.parent.glob(f"{stem}-*.tar*"):
        if outdated != path:
            outdated.unlink(missing_ok=True)


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return it as the validators' user on a host must find it, whatever this process keeps from others (umask)."""
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _compile(packages: Path) -> None:
    """Put bytecode beside the sources, wherever this process has its own (PYTHONPYCACHEPREFIX)."""
    prefix, sys.pycache_prefix = sys.pycache_prefix, None
    try:
        compileall.compile_dir(packages, quiet=2, optimize=2, stripdir=str(packages))
    finally:
        sys.pycache_prefix = prefix


def _build(target: Path, node: Path) -> None:
    # Of a copy: a build leaves its steps beside the sources, where another build at the same time would take them up.
    with tempfile.TemporaryDirectory() as place:
        copy = shutil.copytree(
            node, Path(place) / "node", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        )
        _pip("install", "--no-compile", "--target", target, "--no-deps", "--no-build-isolation", copy)


def _fetch(target: Path, kind: str, node: Path, pins: Path, extra: Sequence[str]) -> None:
    project = tomllib.loads(_read(node / "pyproject.toml").decode())["project"]
    wanted = ["--no-compile", "--target", target, "--constraint", pins, *project["dependencies"], *extra]
    if kind != LOCAL:
        machine, _, python = kind.partition("-")
        wanted += [f"--platform={name}_{machine}" for name in _PLATFORMS]
        wanted += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    _pip("install", *wanted)


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        ending = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise WheelhouseError(f"pip could not prepare the packages for the hosts:\n{ending}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.wheelhouse", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="where the archives are kept")
    parser.add_argument("--kind", action="append", default=[], help="of a host, such as aarch64-3.11, or local")
    parser.add_argument("--extra", action="append", default=[], help="one more package, pinned in requirements.txt")
    parser.add_argument("--check", action="store_true", help="make nothing, only say what is missing")
    parser.add_argument("--leave-namespace", default="", metavar="NAME", help="a network that has no package index")
    options = parser.parse_args(arguments)
    try:
        leave_namespace(options.leave_namespace)
        wheels = find_wheelhouse(options.output.resolve(), options.kind, options.extra, make=not options.check)
    except ControlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(msgspec.to_builtins(wheels)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
