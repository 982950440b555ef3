"""``./testbed runs explain RUN``: what was different then, in plain sentences, and how to do it again."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from control.environment import describe_environment
from control.errors import SpecError, UsageError
from control.inventory import Deployment, read_deployment
from control.project import ROOT, control_directory, shown_path
from control.rundir import RunDirectory
from control.spec import Experiment
from control.spec_reader import load_experiment

__all__ = ["Section", "explain", "print_explanation"]

_BENCH = "bench"
"""The inventory of runs that ``./testbed bench`` made, without a deployment."""
_SHOWN_FILES = 6
_COMMIT = re.compile("[0-9a-f]{7,64}")


@dataclass(frozen=True)
class Section:
    """What differs in one respect; no lines: nothing does."""

    title: str
    lines: tuple[str, ...]


def print_explanation(console: Console, run: RunDirectory) -> None:
    """Print what differs between then and now, and the commands to repeat the run."""
    sections = explain(run)
    console.print(Text(f"{run.name}: what differs from now", style="bold"))
    if not any(section.lines for section in sections):
        console.print("Nothing that was recorded differs from now.")
    for section in sections:
        if section.lines:
            console.print(Text(f"\n{section.title}", style="bold"))
            for line in section.lines:
                console.print(f"  {line}", markup=False, soft_wrap=True)
    same = [section.title.lower() for section in sections if not section.lines]
    if same and len(same) < len(sections):
        console.print(f"\nThe same as now: {', '.join(same)}.", markup=False, soft_wrap=True)
    console.print(Text("\nTo do it again", style="bold"))
    for line in list_commands(run):
        console.print(f"  {line}", markup=False, soft_wrap=True)


def explain(run: RunDirectory, root: Path = ROOT) -> list[Section]:
    """Compare a run with the project, the machine and the deployment as they are now; UsageError if it is no run."""
    run.cells()
    then, now = _read(run.path / "environment.json"), describe_environment(root)
    return [
        Section("Experiment", tuple(_explain_experiment(run, root))),
        Section("Code", tuple(_explain_code(_part(then, "git"), _part(now, "git"), root))),
        Section("Versions", tuple(_explain_values(_part(then, "versions"), _part(now, "versions")))),
        Section("Control machine", tuple(_explain_values(_part(then, "host"), _part(now, "host")))),
        Section("Deployment", tuple(_explain_deployment(_read(run.path / "inventory.json"), root))),
    ]


def _explain_experiment(run: RunDirectory, root: Path) -> Iterator[str]:
    try:
        then = msgspec.json.decode((run.path / "resolved.json").read_bytes(), type=Experiment)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        yield f"resolved.json can't be read ({error}): what was planned stands in cells.json."
        return
    if _is_bench(run):
        return
    for file in sorted((root / "experiments").glob("*.yml")):
        try:
            now = load_experiment(file)
        except SpecError:
            continue
        if now.name == then.name:
            yield from _explain_settings(then, now, shown_path(file, root))
            return
    yield f"No file in experiments/ is named '{then.name}' now; the run's own is {shown_path(run.path / 'spec.yml')}."


def _explain_settings(then: Experiment, now: Experiment, file: str) -> Iterator[str]:
    for key in Experiment.__struct_fields__:
        if key == "description":
            continue
        before, after = msgspec.to_builtins(getattr(then, key)), msgspec.to_builtins(getattr(now, key))
        for topic, old, new in _differing(before, after, key):
            yield f"{topic} was {old}; in {file} it is {new} now."


def _explain_code(then: Mapping[str, Any], now: Mapping[str, Any], root: Path) -> Iterator[str]:
    before, after = then.get("commit"), now.get("commit")
    if before is None:
        yield "The commit was not recorded: it can't be said what code ran."
    elif before != after:
        yield f"The commit was {str(before)[:12]}; it is {str(after)[:12]} now{_distance(str(before), root)}."
    old, new = _changes(then), _changes(now)
    if old and old == new:
        yield "It ran with the same uncommitted changes that are here now."
    elif old:
        yield f"It ran with uncommitted changes, kept in environment.json: {_files(then)}."
    if new and old != new:
        yield f"There are uncommitted changes now: {_files(now)}."


def _changes(git: Mapping[str, Any]) -> tuple[object, ...]:
    return (git.get("diff"), git.get("status")) if git.get("dirty") else ()


def _files(git: Mapping[str, Any]) -> str:
    files = [line[3:] for line in str(git.get("status") or "").splitlines()]
    hidden = len(files) - _SHOWN_FILES
    return ", ".join(files[:_SHOWN_FILES]) + (f" and {hidden} more" if hidden > 0 else "")


def _distance(commit: str, root: Path) -> str:
    """How far the present commit is from another one, as far as git knows."""
    if not _COMMIT.fullmatch(commit):  # from a file: git must not take it for an option
        return ""
    count = _git(root, "rev-list", "--count", f"{commit}..HEAD", "--")
    if count is None:
        return ", and this repository does not hold the other one"
    changed = (_git(root, "diff", "--name-only", commit, "HEAD", "--") or "").splitlines()
    places = Counter(name.split("/")[0] if "/" in name else "other" for name in changed)
    shown = ", ".join(f"{place} {number}" for place, number in places.most_common())
    commits = "1 commit" if count == "1" else f"{count} commits"
    return f", {commits} later ({len(changed)} files changed: {shown})" if shown else f", {commits} later"


def _explain_values(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if not then:
        yield "Nothing was recorded."
        return
    for topic, old, new in _differing(then, now, ""):
        yield f"{topic} was {old}; it is {new} now."


def _explain_deployment(then: Mapping[str, Any], root: Path) -> Iterator[str]:
    name = str(then.get("name", ""))
    if name == _BENCH:
        return
    if not (root / "inventory" / name).is_dir() or not name:
        yield f"There is no inventory '{name}' now."
        return
    try:
        now = read_deployment(control_directory(name, root) / "endpoints.json")
    except UsageError:
        yield f"Nothing is deployed on inventory '{name}' now."
        return
    for topic, old, new in _differing(_describe(then), _describe_deployment(now), ""):
        yield f"{topic} was {old}; it is {new} now."


def _describe(inventory: Mapping[str, Any]) -> dict[str, Any]:
    validators = inventory.get("validators")
    entries = [entry for entry in validators if isinstance(entry, dict)] if isinstance(validators, list) else []
    hosts = {str(entry.get("name")): entry.get("host") for entry in entries}
    devices = inventory.get("devices")
    return {
        "signature": inventory.get("signature"),
        "host of": hosts,
        "devices": len(devices) if isinstance(devices, list) else None,
    }


def _describe_deployment(deployment: Deployment) -> dict[str, Any]:
    return {
        "signature": deployment.signature,
        "host of": {endpoint.name: endpoint.host for endpoint in deployment.endpoints},
        "devices": len(deployment.devices),
    }


def list_commands(run: RunDirectory, root: Path = ROOT) -> list[str]:
    """Return the commands that repeat a run as far as the records go."""
    git = _part(_read(run.path / "environment.json"), "git")
    inventory = str(_read(run.path / "inventory.json").get("name", ""))
    place = shlex.quote(shown_path(run.path))
    commit = git.get("commit")
    is_other = commit and commit != _git(root, "rev-parse", "HEAD")
    commands = [f"git checkout {shlex.quote(str(commit))}"] if is_other else []
    if git.get("diff"):
        read = 'import json; print(json.load(open("environment.json"))["git"]["diff"], end="")'
        commands.append(f"(cd {place} && python3 -c {shlex.quote(read)}) | git apply")
    if any(line.startswith("??") for line in str(git.get("status") or "").splitlines()):
        commands.append("# files that git did not know then were not kept: see 'status' in environment.json")
    if git.get("diff_truncated"):
        commands.append("# the uncommitted changes were too long to be kept whole")
    if _is_bench(run):
        commands.append("# it was made by a benchmark, on processes of one machine; --help has its settings")
        commands.append(f"./testbed bench {_bench_name(run)}")
    else:
        chosen = f" -i {shlex.quote(inventory)}" if inventory != "local" else ""
        commands += [f"./testbed deploy{chosen}", f"./testbed experiment {place}/spec.yml{chosen}"]
    return [*commands, f"./testbed compare {shlex.quote(run.name)} last"]


def _is_bench(run: RunDirectory) -> bool:
    return _read(run.path / "inventory.json").get("name") == _BENCH


def _bench_name(run: RunDirectory) -> str:
    cells = run.cells()
    return shlex.quote(cells[0].experiment.removeprefix(f"{_BENCH}-")) if cells else ""


def _differing(then: Any, now: Any, topic: str) -> Iterator[tuple[str, str, str]]:
    """Every value that differs, with where it stands."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*then, *now)):
            yield from _differing(then.get(key), now.get(key), f"{topic} {key}".strip())
    elif then != now:
        yield topic, _shown(then), _shown(now)


def _shown(value: Any) -> str:
    if value is None:
        return "not there"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _part(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = document.get(key)
    return part if isinstance(part, dict) else {}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
