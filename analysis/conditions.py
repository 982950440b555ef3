"""Under what conditions runs were made, and in which of them two groups differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Conditions", "Difference", "describe_differences", "list_cell_conditions", "list_run_conditions"]

Conditions = Mapping[str, str]
"""What a run was made with, by topic (``commit``, ``host cpu``, ``parameter slot_timeout_ms`` …)."""

_NOT_CONDITIONS = {"id", "run", "experiment", "planned_s", "lease_s", "seed"}
"""What differs between any two cells or runs, or only names them."""
_NONE = "not recorded"
_MAX_VALUE = 120


@dataclass(frozen=True)
class Difference:
    """A condition with what it was in the runs of each group."""

    topic: str
    a: tuple[str, ...]
    b: tuple[str, ...]

    @property
    def is_within(self) -> bool:
        """Whether runs of one group are unlike each other."""
        return len(self.a) > 1 or len(self.b) > 1

    def __str__(self) -> str:
        return f"{self.topic}: A {' and '.join(self.a)}; B {' and '.join(self.b)}"


def list_run_conditions(run: Path) -> Conditions:
    """Return what holds for a whole run directory; what was not recorded is left out."""
    environment = _read(run / "environment.json")
    inventory = _read(run / "inventory.json")
    found: dict[str, str] = {}
    git = _mapping(environment.get("git"))
    if "commit" in git:
        found["commit"] = _describe_commit(git)
    _flatten(found, "version of", _mapping(environment.get("versions")))
    _flatten(found, "control machine's", _mapping(environment.get("host")))
    _flatten(found, "host", _mapping(environment.get("hosts")))
    if inventory:
        validators = [_mapping(entry) for entry in _sequence(inventory.get("validators"))]
        hosts = [str(entry.get("host")) for entry in validators]
        found["validators deployed on"] = ", ".join(f"{host} ({hosts.count(host)})" for host in sorted(set(hosts)))
        found["inventory"] = _text(inventory.get("name"))
        found["signatures"] = _text(inventory.get("signature"))
    return found


def list_cell_conditions(run: Path, cells: Iterable[str]) -> Conditions:
    """Return the settings of cells of one shape; several values are joined."""
    collected: dict[str, list[str]] = {}
    for cell in cells:
        document = _read(run / "cells" / cell / "cell.json")
        flat: dict[str, str] = {}
        _flatten(flat, "", {key: value for key, value in document.items() if key not in _NOT_CONDITIONS})
        for topic, value in flat.items():
            collected.setdefault(topic, []).append(value)
    return {topic: " or ".join(dict.fromkeys(values)) for topic, values in collected.items()}


def describe_differences(a: Sequence[Conditions], b: Sequence[Conditions]) -> list[Difference]:
    """Return every condition that is not the same in all runs, in the order of first mention."""
    topics = dict.fromkeys(topic for conditions in (*a, *b) for topic in conditions)
    found = []
    for topic in topics:
        sides = [tuple(dict.fromkeys(run.get(topic, _NONE) for run in group)) for group in (a, b)]
        if len({*sides[0], *sides[1]}) > 1:
            found.append(Difference(topic, *sides))
    return found


def _flatten(found: dict[str, str], prefix: str, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        topic = f"{prefix} {key}".strip()
        if isinstance(value, dict):
            _flatten(found, topic, value)
        else:
            found[topic] = _text(value)


def _describe_commit(git: Mapping[str, Any]) -> str:
    commit = _text(git.get("commit"))[:12]
    if not git.get("dirty"):
        return commit
    changes = hashlib.sha256(_text(git.get("diff"), cut=False).encode()).hexdigest()[:8]
    return f"{commit} with uncommitted changes ({changes})"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return _mapping(msgspec.json.decode(path.read_bytes()))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any, *, cut: bool = True) -> str:
    """A value as text; lists of names by their number, for their names rarely matter."""
    if isinstance(value, list):
        return f"{len(value)}"
    text = "none" if value is None else str(value)
    return f"{text[:_MAX_VALUE]}…" if cut and len(text) > _MAX_VALUE else text
