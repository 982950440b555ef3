"""Why a node stops."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["StopCode"]


class StopCode(IntEnum):
    """Exit codes of ``microchain-node run``."""

    DONE = 0
    ENGINE = 1
    SETUP = 2
    ADDRESS_IN_USE = 3
    STORAGE = 4
