"""A validator without telemetry, to compare with: ``python silent_node.py run --config FILE``.

Nodes have no such switch; what is left is what the engine spends on saying what it does.
"""

from __future__ import annotations

import sys
from types import MappingProxyType
from typing import Any

from microchain import cli
from microchain.runtime import node
from microchain.telemetry.spool import Spool

__all__ = ["SilentRecorder"]


class SilentRecorder:
    """Takes the place of a `microchain.telemetry.recorder.Recorder` and records nothing."""

    points = 0
    dropped = 0
    last_board: MappingProxyType[str, float] = MappingProxyType({})

    def __init__(self, spool: Spool, **tags: object) -> None:
        spool.close()

    def trace(self, *said: object) -> None: ...

    def transactions(self, *said: object, **more: object) -> None: ...

    def peer(self, *said: object) -> None: ...

    def messages(self, *said: object) -> None: ...

    def board(self, at: int) -> None: ...

    def close(self, at: int | None = None) -> None: ...


if __name__ == "__main__":
    replaced: Any = node
    replaced.Recorder = SilentRecorder
    sys.exit(cli.main())
