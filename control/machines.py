"""``python -m control.machines RUN_DIR``: writes what the hosts of a run are into its ``environment.json``.

A request on stdin has what each host said of itself (``python -m microchain.machine``), and which of them the inventory
calls emulated. What a host says is read as from a stranger.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from control.errors import ControlError, UsageError
from control.rundir import RunDirectory, write_json

__all__ = ["Machine", "Request", "main", "record_machines"]

_Text = Annotated[str, Meta(max_length=200)]
_Count = Annotated[int, Meta(ge=0, le=2**62)]
_BY_INVENTORY = "as the inventory says"


class Machine(Struct, kw_only=True):
    """What a host said of itself; see ``microchain.machine``."""

    cpu: _Text = ""
    cores: _Count | None = None
    memory_bytes: _Count | None = None
    architecture: _Text = ""
    kernel: _Text = ""
    system: _Text = ""
    python: _Text = ""
    board: _Text | None = None
    governor: _Text = ""
    emulated: _Text = ""


class Request(Struct, forbid_unknown_fields=True):
    """``machines``: each host's own words, by host; ``emulated``: hosts that are, whatever they say themselves."""

    machines: dict[str, str]
    emulated: tuple[str, ...] = ()


def record_machines(run: RunDirectory, request: Request) -> list[str]:
    """Bring ``environment.json`` up to date; return the hosts that said nothing that makes sense.

    A host that is known stays as it was once a cell is sealed: figures of it are there already. UsageError for a run
    whose environment can't be read.
    """
    path = run.path / "environment.json"
    try:
        environment = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        known = msgspec.convert(environment.get("hosts", {}), dict[str, Any])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    begun = any(run.is_cell_sealed(cell.id) for cell in run.cells())
    silent = []
    for host, words in request.machines.items():
        try:
            machine = msgspec.json.decode(words, type=Machine)
        except (msgspec.MsgspecError, UnicodeError):
            silent.append(host)
            continue
        if host in request.emulated:
            machine.emulated = machine.emulated or _BY_INVENTORY
        if not (begun and host in known):
            known[host] = msgspec.to_builtins(machine)
    if known != environment.get("hosts"):
        write_json(path, environment | {"hosts": dict(sorted(known.items()))})
    return silent


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.machines", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    options = parser.parse_args(arguments)
    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
        silent = record_machines(RunDirectory(options.run_dir), request)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        print(f"the request is malformed: {error}", file=sys.stderr)
        return 2
    except ControlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if silent:
        print(f"these hosts did not say what they are: {', '.join(silent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
