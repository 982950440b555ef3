"""What can go wrong on the operator's side, each with the exit code of ``./testbed`` (docs/operations.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

__all__ = ["CheckFailed", "ControlError", "DeploymentFailed", "Problem", "SpecError", "UsageError"]


class ControlError(Exception):
    """Ends a command with one message for the operator."""

    exit_code = 1


class CheckFailed(ControlError):
    """A check or a verdict failed."""


class UsageError(ControlError):
    """The command or a file that it was given makes no sense."""

    exit_code = 2


class DeploymentFailed(ControlError):
    """Hosts can't be reached, or a playbook failed on them."""

    exit_code = 3


class Problem(Struct, frozen=True):
    """One mistake in a file; ``line`` counts from 1."""

    line: int
    message: str


class SpecError(UsageError):
    """An experiment file that can't be run: every mistake found in it, each with its line."""

    def __init__(self, file: Path | str, problems: Sequence[Problem]) -> None:
        self.file = str(file)
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda p: p.line))
        super().__init__("\n".join(f"{self.file}:{p.line}: {p.message}" for p in self.problems))
