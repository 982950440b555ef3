"""What the report says about a run besides its figures: cells, machines, versions, how to run it again, its files.

Everything here was written by other programs and may be anything: what can't be read is said, never raised.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from analysis.documents import HostFacts
from analysis.problems import Problem

__all__ = ["Command", "Facts", "FileFact", "RunCell", "read_facts"]

MAX_FILE_BYTES = 16 << 20
MAX_TEXT = 20_000
"""Characters of a specification or a diff that the report quotes; the file beside it has the rest."""

_EXTRACT = 'import json, sys; print(json.load(open(sys.argv[1]))["git"]["diff"], end="")'
_MALFORMED = (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Machine(HostFacts, kw_only=True):
    """A host with what only the report shows."""

    architecture: str = ""
    system: str = ""


class Git(Struct, kw_only=True):
    """The state of the project that ran."""

    commit: str | None = None
    dirty: bool | None = None
    status: str = ""
    diff: str = ""
    diff_truncated: bool = False


class Surroundings(Struct, kw_only=True):
    """``environment.json``."""

    git: Git = msgspec.field(default_factory=Git)
    versions: dict[str, str] = {}
    host: Machine | None = None
    hosts: dict[str, Machine] = {}


class Member(Struct, kw_only=True):
    """A validator of the deployment and where it ran."""

    name: str
    host: str = ""


class Inventory(Struct, kw_only=True):
    """``inventory.json``."""

    name: str = ""
    signature: str = ""
    validators: tuple[Member, ...] = ()
    devices: tuple[str, ...] = ()

    def validators_by_host(self) -> dict[str, list[str]]:
        """Return the validators of each host."""
        found: dict[str, list[str]] = {}
        for member in self.validators:
            found.setdefault(member.host, []).append(member.name)
        return found


class Resolved(Struct, kw_only=True):
    """``resolved.json``, as far as it is shown."""

    name: str = ""
    description: str = ""
    seed: int | None = None


class PlannedCell(Struct, kw_only=True):
    """One entry of ``cells.json``, as far as it is shown."""

    id: str
    validators: tuple[str, ...] = ()
    parameters: dict[str, Any] = {}
    workload: dict[str, Any] = {}
    seed: int | None = None


class CellEnd(Struct, kw_only=True):
    """``outcome.json``, as far as it is shown."""

    status: str = ""
    message: str = ""
    chain_id: str = ""
    started: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class RunCell:
    """One cell as planned and as it ended."""

    plan: PlannedCell
    end: CellEnd | None


@dataclass(frozen=True)
class FileFact:
    """A file of the run: ``path`` is relative to the run directory; ``sealed`` None where the seal does not list it."""

    path: str
    size: int
    sha256: str
    sealed: bool | None


@dataclass(frozen=True)
class Command:
    """A step that a reader may type, and why."""

    why: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """All of it; ``problems`` say what could not be read."""

    name: str
    surroundings: Surroundings | None
    inventory: Inventory | None
    resolved: Resolved | None
    spec: str
    cells: tuple[RunCell, ...]
    files: tuple[FileFact, ...]
    raw_files: int
    raw_bytes: int
    sealed_files: int | None
    seal_sha256: str
    commands: tuple[Command, ...]
    problems: tuple[Problem, ...]

    @property
    def machines(self) -> dict[str, Machine]:
        """The described hosts, and the control machine if it is none of them."""
        if self.surroundings is None:
            return {}
        own, hosts = self.surroundings.host, self.surroundings.hosts
        return hosts if own is None or own in hosts.values() else {"this machine": own, **hosts}


def read_facts(run_dir: Path) -> Facts:
    """Read a run directory's documents."""
    problems: list[Problem] = []
    surroundings = _read(run_dir, "environment.json", Surroundings, problems)
    inventory = _read(run_dir, "inventory.json", Inventory, problems)
    resolved = _read(run_dir, "resolved.json", Resolved, problems)
    plans = _read(run_dir, "cells.json", tuple[PlannedCell, ...], problems) or ()
    cells = []
    for plan in plans:
        # A name from a file is no path: only a plain one leads to the folder of a cell.
        plain = plan.id == Path(plan.id).name
        cells.append(
            RunCell(plan, _read(run_dir, f"cells/{plan.id}/outcome.json", CellEnd, problems) if plain else None)
        )
    seal = _read_seal(run_dir)
    count, size = _measure_raw(run_dir)
    return Facts(
        name=run_dir.resolve().name,
        surroundings=surroundings,
        inventory=inventory,
        resolved=resolved,
        spec=_read_text(run_dir / "spec.yml"),
        cells=tuple(cells),
        files=tuple(_list_files(run_dir, seal or {})),
        raw_files=count,
        raw_bytes=size,
        sealed_files=None if seal is None else len(seal),
        seal_sha256="" if seal is None else _digest(run_dir / "SHA256SUMS"),
        commands=tuple(_commands(run_dir, surroundings, inventory)),
        problems=tuple(problems),
    )


Document = TypeVar("Document")


def _read(run_dir: Path, name: str, kind: type[Document], problems: list[Problem]) -> Document | None:
    path = run_dir / name
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            problems.append(Problem(name, f"larger than {MAX_FILE_BYTES >> 20} MB: not read"))
            return None
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        problems.append(Problem(name, "missing"))
    except _MALFORMED as error:
        problems.append(Problem(name, f"can't be read: {error}"))
    return None


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_TEXT).decode("utf-8", "replace")
    except OSError:
        return ""


def _read_seal(run_dir: Path) -> dict[str, str] | None:
    """Return the digests that ``SHA256SUMS`` lists by file; None if the run was not sealed."""
    try:
        lines = (run_dir / "SHA256SUMS").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    return {file: digest for digest, _, file in (line.partition("  ") for line in lines)}


def _list_files(run_dir: Path, seal: dict[str, str]) -> list[FileFact]:
    """The files at the top of the run directory, small enough to be hashed; cells are counted only."""
    found = []
    for path in sorted(run_dir.iterdir()):
        if path.is_symlink() or not path.is_file() or path.name.startswith(".") or path.name == "report.html":
            continue
        digest = _digest(path)
        sealed = seal.get(path.name)
        found.append(FileFact(path.name, path.stat().st_size, digest, None if sealed is None else sealed == digest))
    return found


def _measure_raw(run_dir: Path) -> tuple[int, int]:
    sizes = [
        path.lstat().st_size for path in (run_dir / "cells").rglob("*") if path.is_file() and not path.is_symlink()
    ]
    return len(sizes), sum(sizes)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _commands(run_dir: Path, surroundings: Surroundings | None, inventory: Inventory | None) -> list[Command]:
    """How to run the same again, in the project's directory."""
    run = shlex.quote(f"runs/{run_dir.resolve().name}")
    named = inventory is not None and re.fullmatch("[a-z0-9][a-z0-9_-]*", inventory.name)
    place = inventory.name if inventory is not None and named else "local"
    steps = [_checkout(surroundings.git if surroundings is not None else Git(), run)]
    measure = "Deploy, measure, and take everything away again"
    if place == "bench":
        place = "local"
        measure += " (the run was made by ./testbed bench, without a deployment; this is the same experiment on one)"
    steps += [
        Command(
            measure,
            (
                f"./testbed deploy -i {place}",
                f"./testbed experiment {run}/spec.yml -i {place}",
                f"./testbed teardown -i {place}",
            ),
        ),
        Command(
            "The same with Ansible alone",
            (
                ". .venv/bin/activate",
                f"ansible-playbook playbooks/deploy.yml -i inventory/{place}",
                f"ansible-playbook playbooks/experiment.yml -i inventory/{place} -e experiment={run}/spec.yml",
                f"ansible-playbook playbooks/teardown.yml -i inventory/{place}",
            ),
        ),
        Command("Check the raw data, and make this report from them again", _remake(run)),
    ]
    return steps


def _remake(run: str) -> tuple[str, ...]:
    return (f"(cd {run} && sha256sum --check --quiet SHA256SUMS)", f"./testbed report {run}")


def _checkout(git: Git, run: str) -> Command:
    if not git.commit or not re.fullmatch("[0-9a-f]{7,64}", git.commit):
        return Command("The commit of the project was not recorded; in a clone of it:", ())
    lines = [f"git checkout {git.commit}"]
    if git.diff:
        lines.append(f"python3 -c {shlex.quote(_EXTRACT)} {run}/environment.json | git apply")
    why = "In a clone of the project, its state at the time"
    if git.dirty:
        why += ", uncommitted changes included (files that git did not know are listed above, not kept)"
    return Command(why, tuple(lines))
