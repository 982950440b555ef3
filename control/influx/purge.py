"""``python -m control.influx.purge --connection FILE``: removes every point of the bucket that runs are streamed to."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from control.errors import ControlError
from control.influx.connection import load_connection
from control.influx.store import Store

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.influx.purge", description=__doc__)
    parser.add_argument("--connection", type=Path, required=True, metavar="FILE", help="connection file of the server")
    options = parser.parse_args(arguments)
    try:
        with Store(load_connection(options.connection)) as store:
            store.remove_all()
    except ControlError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
