"""The verb ``watch`` of ``./testbed``. What it needs is imported when it runs."""

from __future__ import annotations

import argparse
import math

from rich.console import Console

from control.errors import UsageError

__all__ = ["add_parser"]

_INTERVAL_S = 2.0
_SHORTEST_S, _LONGEST_S = 0.5, 3600.0
_EPILOG = """\
lag      blocks that are not final, and for how long the first of them has been there
tx/s     transactions made final, over the last ten seconds
CPU %    of one core, by the validator; host CPU % by all on its host (where the screen is wide)
clock ±  how far off the measured difference to a peer's clock may be, at worst

In a pipe, or with --once, it prints one table, of two looks, and ends."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = commands.add_parser(
        "watch",
        help="how the validators are and how far the run is, live",
        description="Show how all validators are, as they say themselves, and how far the run is. Ctrl-C ends it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run=_watch)
    verb.add_argument(
        "-i", "--inventory", default="local", metavar="NAME", help="a directory of inventory/ (default: local)"
    )
    verb.add_argument(
        "--interval", type=float, default=_INTERVAL_S, metavar="S", help=f"seconds between two looks ({_INTERVAL_S:g})"
    )
    verb.add_argument("--once", action="store_true", help="print one table and end")


def _watch(options: argparse.Namespace, console: Console) -> int:
    from control.watch.screen import watch

    interval = options.interval
    if not math.isfinite(interval) or not _SHORTEST_S <= interval <= _LONGEST_S:
        raise UsageError(f"--interval {interval:g}: give {_SHORTEST_S:g} to {_LONGEST_S:g} seconds")
    watch(options.inventory, console, interval_s=interval, once=options.once or not console.is_terminal)
    return 0
