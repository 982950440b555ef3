"""``python -m control.forget --state DIR NAME…``: forgets validators that were torn down, on the control side.

Other hosts may not have been torn down yet (they were left out, or not meant): what is needed for them stays. With the
last validator the whole state goes: authority, certificates, device keys, token.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from microchain.keys import write_whole

from control.errors import ControlError
from control.inventory import Endpoint, read_deployment

__all__ = ["forget", "main"]


def forget(state: Path, names: Sequence[str], *, check: bool = False) -> list[str]:
    """Return what is removed from ``state``, or with ``check`` would be."""
    if not state.exists():
        return []
    left = _left(state, names)
    if left == ():
        if not check:
            shutil.rmtree(state)
        return [state.name]
    public = [state / "bundles" / f"{name}.json" for name in names]
    files = [path for path in (*public, *(state / "certificates" / f"{name}.crt" for name in names)) if path.exists()]
    if not check:
        for path in files:
            path.unlink()
        _write(state / "endpoints.json", left)
    return [str(path.relative_to(state)) for path in files]


def _left(state: Path, names: Sequence[str]) -> tuple[Endpoint, ...]:
    """Return the validators that stay; a state without a list (of an interrupted deploy) has none."""
    try:
        endpoints = read_deployment(state / "endpoints.json").endpoints
    except ControlError:
        return ()
    return tuple(endpoint for endpoint in endpoints if endpoint.name not in names)


def _write(path: Path, endpoints: tuple[Endpoint, ...]) -> None:
    deployment = msgspec.structs.replace(read_deployment(path), endpoints=endpoints)
    content = msgspec.json.format(msgspec.json.encode(deployment), indent=2)
    if content != path.read_bytes():
        write_whole(path, content)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.forget", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="the control side's directory of this deployment")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a validator that was torn down")
    parser.add_argument("--check", action="store_true", help="remove nothing, only say what would be removed")
    options = parser.parse_args(arguments)
    try:
        changed = forget(options.state.resolve(), options.names, check=options.check)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    print(json.dumps({"changed": changed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
