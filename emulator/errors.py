"""What can go wrong, each with its exit code (docs/operations.md)."""

from __future__ import annotations

__all__ = ["CheckFailed", "EmulationFailed", "EmulatorError", "UsageError"]


class EmulatorError(Exception):
    """Ends a command with one message that says what to do."""

    exit_code = 1


class CheckFailed(EmulatorError):
    """Something is missing or not as it should be."""


class UsageError(EmulatorError):
    """The command makes no sense, or not now."""

    exit_code = 2


class EmulationFailed(EmulatorError):
    """A host, or something that it needs, could not be made."""

    exit_code = 3
