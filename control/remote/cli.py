"""The verbs ``exec`` and ``logs`` of ``./testbed``. What they need is imported when one runs: SSH is slow to load."""

from __future__ import annotations

import argparse
import getpass
from typing import TYPE_CHECKING

from rich.console import Console

from control.errors import UsageError

if TYPE_CHECKING:
    from control.remote.hosts import Hosts

__all__ = ["add_parsers"]

_DEFAULT_TIMEOUT_S = 60.0
_LONGEST_S = 24 * 3600.0
_DEFAULT_LINES = 20
_MOST_LINES = 10_000

_EXEC_EPILOG = """\
One argument behind -- is a line for the host's shell; several are a program and its arguments, taken literally:
  ./testbed exec -i pi -- uptime
  ./testbed exec -i pi --limit 'pi01,pi02' -- 'df -h / | tail -1'

The exit code is the greatest of the hosts' (124: out of time); 3 if a host could not be reached."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs to the command line."""
    verb = commands.add_parser(
        "exec",
        help="run a command on the hosts",
        description="Run a command on all hosts of an inventory at once, over SSH.",
        epilog=_EXEC_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run=_exec)
    _add_hosts(verb)
    verb.add_argument("--sudo", action="store_true", help="as root")
    verb.add_argument(
        "--timeout",
        type=float,
        default=_DEFAULT_TIMEOUT_S,
        metavar="S",
        help=f"seconds after which the command is ended ({_DEFAULT_TIMEOUT_S:g})",
    )
    verb.add_argument("words", nargs="+", metavar="COMMAND")
    _add_logs(commands)


def _add_logs(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = commands.add_parser(
        "logs",
        help="what the validators write, from all hosts at once",
        description="Show the end of the validators' logs, each line behind the name of its validator.",
    )
    verb.set_defaults(run=_logs)
    _add_hosts(verb)
    verb.add_argument("-f", "--follow", action="store_true", help="go on with what is written, until interrupted")
    verb.add_argument("--validator", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    verb.add_argument(
        "--lines", type=int, default=_DEFAULT_LINES, metavar="N", help=f"of each log, to begin with ({_DEFAULT_LINES})"
    )


def _exec(options: argparse.Namespace, console: Console) -> int:
    from control.remote.execute import execute

    if not 0 < options.timeout <= _LONGEST_S:
        raise UsageError(f"--timeout {options.timeout:g}: give more than 0 and at most {_LONGEST_S:g} seconds")
    known = _read_hosts(options)
    return execute(known.hosts, options.words, console, sudo=options.sudo, timeout_s=options.timeout)


def _logs(options: argparse.Namespace, console: Console) -> int:
    from control.inventory import read_deployment
    from control.project import control_directory
    from control.remote.logs import choose_sources, show_logs

    if not 0 <= options.lines <= _MOST_LINES:
        raise UsageError(f"--lines {options.lines}: give 0 to {_MOST_LINES}")
    deployment = read_deployment(control_directory(options.inventory) / "endpoints.json")
    sources = choose_sources(_read_hosts(options).hosts, deployment, options.validator)
    return show_logs(sources, console, lines=options.lines, follow=options.follow)


def _add_hosts(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "-i", "--inventory", default="local", metavar="NAME", help="a directory of inventory/ (default: local)"
    )
    verb.add_argument("--limit", default="", metavar="HOSTS", help="only these hosts or groups, as Ansible's --limit")
    verb.add_argument("-K", "--ask-become-pass", action="store_true", help="ask for the password that sudo wants")


def _read_hosts(options: argparse.Namespace) -> Hosts:
    """Return the hosts chosen, from inside the network namespace that they are in."""
    from msgspec import structs

    from control.namespace import enter_namespace
    from control.remote.hosts import read_hosts

    known = read_hosts(options.inventory, options.limit)
    if options.ask_become_pass:
        password = getpass.getpass("password for sudo: ")
        hosts = {name: structs.replace(host, become_password=password) for name, host in known.hosts.items()}
        known = structs.replace(known, hosts=hosts)
    enter_namespace(known.namespace)
    return known
