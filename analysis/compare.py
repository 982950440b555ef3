"""``python -m analysis.compare --a DIR … --b DIR …``: what differs between two groups of runs, and how sure that is.

Exit code: 0 done (also if there are too few runs), 1 nothing could be compared, 2 a path is no run or is on both sides.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.text import Text

from analysis.compare_runs import Comparison, RunSummary, compare_runs, summarise_run
from analysis.compare_table import build_table, explain
from analysis.effect import MIN_RUNS
from analysis.rendering import clean, to_rich
from analysis.report import PLAIN_WIDTH
from analysis.run import NotARun
from analysis.verdict import Level

__all__ = ["list_warnings", "main", "render"]

_SHOWN_TOPICS = 30
_SHOWN_TEXT = 200
_MADE = re.compile(r"\d{8}-\d{6}(?=-)")
_LOUD = "bold yellow"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis.compare", description=__doc__)
    for name in ("--a", "--b"):
        parser.add_argument(name, type=Path, nargs="+", required=True, metavar="DIR", help="run directories")
    options = parser.parse_args(arguments)
    a, b = (list(dict.fromkeys(path.resolve() for path in paths)) for paths in (options.a, options.b))
    both = set(a) & set(b)
    if both:
        print(f"compare: {min(both)} stands on both sides", file=sys.stderr)
        return 2
    try:
        comparison = compare_runs(map(summarise_run, a), map(summarise_run, b))
    except NotARun as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(*render(comparison), sep="\n")
    return 0 if comparison.shapes else 1


def render(comparison: Comparison) -> list[RenderableType]:
    """Return the comparison for a rich console: who, what speaks against it, the tables, how to read them."""
    parts: list[RenderableType] = [_describe_group("A", comparison.a), _describe_group("B", comparison.b)]
    parts += [Text(f"WARNING: {clean(text)}", style=_LOUD) for text in list_warnings(comparison)]
    parts += [_describe_differences(comparison), Text()]
    for shape, figures in comparison.shapes.items():
        parts += [Text(clean(str(shape)), style="bold"), to_rich(build_table(figures))]
    return [*parts, *(Text(line, style="dim") for line in explain(comparison))]


def _describe_group(name: str, runs: Sequence[RunSummary]) -> Text:
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    marked = (f"{run.name}{' (SUSPECT)' if run.verdict.level is Level.SUSPECT else ''}" for run in runs)
    return Text(clean(f"{name}: {count}{': ' if runs else ''}{', '.join(marked)}"))


def list_warnings(comparison: Comparison) -> list[str]:
    """Return what makes the comparison doubtful."""
    found = []
    for run in comparison.refused:
        worst = next(reason.text for reason in run.verdict.reasons if reason.level is Level.INVALID)
        found.append(f"{run.name} is INVALID and left out: {worst[:_SHOWN_TEXT]}{'…' if worst[_SHOWN_TEXT:] else ''}")
    if not comparison.shapes:
        found.append("there is nothing to compare: no cell of A has the shape of a cell of B")
    for shape, side in comparison.unmatched.items():
        found.append(f"only {side} has cells with {shape}; they are left out")
    suspect = [run.name for run in (*comparison.a, *comparison.b) if run.verdict.level is Level.SUSPECT]
    if suspect:
        found.append(f"SUSPECT: {', '.join(suspect)}; './testbed runs show RUN' says why")
    within = [difference for difference in comparison.differences if difference.is_within]
    if within:
        topics = ", ".join(difference.topic for difference in within[:_SHOWN_TOPICS])
        found.append(f"runs of one group are not alike ({topics}): their scatter is not chance alone")
    between = [difference for difference in comparison.differences if not difference.is_within]
    if len(between) > 1:
        found.append(f"A and B differ in {len(between)} things: which of them made a difference can't be said")
    if _is_apart(comparison):
        found.append("all runs of one group were made before those of the other: a drift would look like a difference")
    return found


def _is_apart(comparison: Comparison) -> bool:
    """Whether the groups were made one after the other, as the runs' names say."""
    a, b = ([match[0] for run in group if (match := _MADE.match(run.name))] for group in (comparison.a, comparison.b))
    return min(len(a), len(b)) >= MIN_RUNS and (max(a) < min(b) or max(b) < min(a))


def _describe_differences(comparison: Comparison) -> Text:
    if not comparison.differences:
        return Text("A and B were made under the same conditions, as far as these were recorded.")
    lines = [f"  {difference}" for difference in comparison.differences[:_SHOWN_TOPICS]]
    hidden = len(comparison.differences) - len(lines)
    lines += [f"  … and {hidden} more"] if hidden else []
    return Text(clean("What differs:") + "\n" + "\n".join(map(clean, lines)))


if __name__ == "__main__":
    sys.exit(main())
