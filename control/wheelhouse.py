"""Wheels for the hosts: ``python -m control.wheelhouse --output DIR`` builds the node's and fetches what it needs.

Hosts install from these files alone: they need neither a package index nor pip, which comes as a wheel too. What has
not changed is not made again: the node's wheel follows its sources, the others follow the pins.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from control.errors import ControlError
from control.project import ROOT

__all__ = ["Wheelhouse", "WheelhouseError", "find_wheelhouse", "main"]


class WheelhouseError(ControlError):
    """Wheels could not be built or fetched; the message ends with what pip said."""


class Wheelhouse(Struct, frozen=True, kw_only=True):
    """Two directories, each named by the digest of what it was made from."""

    node: Path
    """The node's own wheel."""
    dependencies: Path
    """What the node needs, the extra packages, and pip."""
    missing: tuple[str, ...] = ()
    """Which of the two are not made yet, or were made by this call."""


def find_wheelhouse(output: Path, extra: Sequence[str] = (), *, make: bool = True, root: Path = ROOT) -> Wheelhouse:
    """Return the wheels for the present sources, with the ``extra`` packages; ``make`` those that are missing.

    WheelhouseError if the package index can't be reached or the node's package can't be built.
    """
    node = root / "node"
    pins = root / "requirements.txt"
    machine = f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}".encode()
    wanted = Wheelhouse(
        node=output / f"node-{_digest_files(_sources(node), node)}",
        dependencies=output
        / f"dependencies-{_digest([machine, *map(_read, (pins, node / 'pyproject.toml')), *_encode(extra)])}",
    )
    missing = tuple(name for name in ("dependencies", "node") if not getattr(wanted, name).is_dir())
    if make and "dependencies" in missing:
        _make(wanted.dependencies, lambda target: _fetch_dependencies(target, node, pins, extra))
    if make and "node" in missing:
        _make(wanted.node, lambda target: _pip("wheel", "--no-deps", "--no-build-isolation", "-w", target, node))
    return Wheelhouse(node=wanted.node, dependencies=wanted.dependencies, missing=missing)


def _sources(node: Path) -> list[Path]:
    files = (path for path in (node / "microchain").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted([node / "pyproject.toml", *files])


def _digest_files(files: Iterable[Path], base: Path) -> str:
    return _digest(part for path in files for part in (str(path.relative_to(base)).encode(), _read(path)))


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


def _make(target: Path, fill: Callable[[Path], None]) -> None:
    """Fill a directory beside the target, move it there when it is whole, and remove the ones it replaces."""
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = target.name.partition("-")[0]
    draft = target.with_name(f".{kind}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    fill(draft)
    for outdated in target.parent.glob(f"{kind}-*"):
        shutil.rmtree(outdated)
    draft.rename(target)


def _fetch_dependencies(target: Path, node: Path, pins: Path, extra: Sequence[str]) -> None:
    project = tomllib.loads(_read(node / "pyproject.toml").decode())["project"]
    _pip("wheel", "-w", target, "--constraint", pins, *project["dependencies"], *extra, "pip")


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        ending = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise WheelhouseError(f"pip could not prepare the wheels for the hosts:\n{ending}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.wheelhouse", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="where the directories of wheels are kept")
    parser.add_argument("--extra", action="append", default=[], help="one more package, pinned in requirements.txt")
    parser.add_argument("--check", action="store_true", help="make nothing, only say what is missing")
    options = parser.parse_args(arguments)
    try:
        wheels = find_wheelhouse(options.output.resolve(), options.extra, make=not options.check)
    except ControlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    answer = {"node": str(wheels.node), "dependencies": str(wheels.dependencies), "missing": wheels.missing}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
