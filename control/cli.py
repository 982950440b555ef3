"""The command line of ``./testbed``: verbs, their help and their exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from control import verbs
from control.bench.cli import add_parser as add_bench
from control.compare import add_parser as add_compare
from control.errors import ControlError
from control.influx.cli import add_parser as add_influx
from control.remote.cli import add_parsers as add_remote
from control.report import add_parser as add_report
from control.watch.cli import add_parser as add_watch

__all__ = ["build_parser", "main"]

_Verb = Callable[[argparse.Namespace, Console], int]

_DESCRIPTION = """\
A testbed that measures consensus on real hardware: Ansible deploys Microchain validators, experiments run on
them, and every run ends with its tables and a verdict on whether they can be trusted."""

_EPILOG = """\
first steps:
  ./testbed demo                                  deploy, run a small experiment, print its table
  ./testbed deploy                                bring validators onto the hosts of an inventory
  ./testbed experiment experiments/demo.yml       run an experiment on what is deployed
  ./testbed runs show last                        look at the newest run
  ./testbed report last                           write its report, one HTML file
  ./testbed teardown                              leave the hosts as they were

exit codes:
  0 done (verdict VALID or SUSPECT)   1 INVALID, or a check failed
  2 wrong usage or experiment file    3 hosts unreachable, or a deployment failed

Each verb over a playbook prints the ansible-playbook command that it runs; run that yourself where you like."""

_PLAYBOOKS = {
    "deploy": "bring validators onto the hosts; doing it again changes nothing",
    "status": "say what runs where, and how it is",
    "collect": "fetch ledgers' digests, spools and logs of what is deployed",
    "stop": "stop the validators; their data stays",
    "reset": "stop the validators and delete their data; keys and programs stay",
    "teardown": "remove everything that deploy brought, and restore what it changed",
    "verify-clean": "look whether a teardown left anything on the hosts",
}


_PASSED_ON: dict[str, tuple[str, _Verb]] = {
    "test": ("run the tests; arguments go to pytest", verbs.test),
    "emulate": ("emulated hosts on this machine, and what may happen to them; --help says more", verbs.emulate),
    "doctor": ("say what this machine lacks, and how to get it", verbs.doctor),
    "simulate": ("run consensus under a virtual clock; --help says more", verbs.simulate),
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; the chosen one's function is in ``run``."""
    parser = argparse.ArgumentParser(
        prog="testbed", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="VERB", required=True)

    demo = _add(commands, "demo", "deploy, run experiments/demo.yml, print table and verdict, stop again", verbs.demo)
    _add_inventory(demo)
    demo.add_argument(
        "--keep-influxdb",
        action="store_true",
        help="leave the InfluxDB server running, so that points can be looked at",
    )

    for name, help_text in _PLAYBOOKS.items():
        verb = _add(commands, name, help_text, verbs.playbook)
        verb.set_defaults(playbook=name)
        verb.epilog = "Other arguments go to ansible-playbook, such as --check, --limit HOST or -v."
        _add_inventory(verb)

    experiment = _add(commands, "experiment", "run an experiment file on what is deployed", verbs.experiment)
    experiment.add_argument("file", type=Path, metavar="FILE", help="such as experiments/demo.yml")
    _add_inventory(experiment)
    experiment.add_argument("--run-dir", type=Path, metavar="DIR", help="continue this run; sealed cells are skipped")

    runs = _add(commands, "runs", "what was run, and what came of it", verbs.runs)
    runs_actions = runs.add_subparsers(dest="action", metavar="list|show|explain", required=True)
    runs_actions.add_parser("list", help="all runs, the newest last")
    show = runs_actions.add_parser("show", help="one run: cells, tables, verdict, seal")
    told = runs_actions.add_parser("explain", help="what differs from now: code, versions, machine, deployment")
    for action in (show, told):
        action.add_argument("run_name", metavar="RUN", help="its name, a part of it, or 'last'")

    add_compare(commands)
    add_report(commands)
    add_bench(commands)
    add_influx(commands)
    add_remote(commands)
    add_watch(commands)

    for name, (help_text, run) in _PASSED_ON.items():
        _add(commands, name, help_text, run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    run: _Verb = options.run
    try:
        return run(options, Console(highlight=False, soft_wrap=not sys.stdout.isatty()))
    except ControlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; ``arguments`` of the result are those that go to another program untouched."""
    if arguments and arguments[0] in _PASSED_ON:
        return argparse.Namespace(run=_PASSED_ON[arguments[0]][1], arguments=list(arguments[1:]))
    parser = build_parser()
    options, others = parser.parse_known_args(arguments)
    if others and "playbook" not in options:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    options.arguments = others
    return options


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    help_text: str,
    run: _Verb,
) -> argparse.ArgumentParser:
    verb = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    verb.set_defaults(run=run)
    return verb


def _add_inventory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", "--inventory", default="local", metavar="NAME", help="a directory of inventory/ (default: local)"
    )
