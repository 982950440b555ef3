"""Command line of the device client: ``python -m microchain.client --help``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

from microchain.client.device import DeviceError, DeviceSettings, open_device
from microchain.client.node_client import AuthorityFileError, NodeClient, NodeError, Unreachable
from microchain.client.transactions import SizeError

_EXAMPLE = """\
example, on a board whose keys are in ~/keys, reporting every 10 seconds until Ctrl-C:

  python -m microchain.client --node https://10.0.0.11:9201 --node https://10.0.0.12:9201 \\
      --ca ~/keys/ca.crt --token-file ~/token --keys ~/keys --interval 10 --wait finalized

A reading goes to the first node that takes it. Sensors that the board lacks are sent as null.
exit status: 0 all delivered, 1 some were not, 2 wrong arguments or keys, 3 no node answers
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the device client; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return asyncio.run(_run(options))
    except KeyboardInterrupt:
        return 0
    except Unreachable as error:
        print(error, file=sys.stderr)
        return 3
    except (AuthorityFileError, DeviceError, NodeError, SizeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


async def _run(options: argparse.Namespace) -> int:
    token = options.token_file.read_text().strip()
    settings = DeviceSettings(interval_s=options.interval, count=options.count, size=options.size, wait=options.wait)
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(NodeClient(url, ca_file=options.ca, token=token, timeout_s=10))
            for url in options.node
        ]
        device = await open_device(nodes, options.keys, _say)
        return 1 if await device.run(settings) else 0


def _say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S}  {line}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m microchain.client",
        description="Submit this host's sensor readings to a Microchain node, again and again, as a device does.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--node", action="append", required=True, metavar="URL", help="a node's API; may be repeated")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the testbed's authority (ca.crt)")
    parser.add_argument("--token-file", type=Path, required=True, metavar="FILE", help="holds the API token")
    parser.add_argument("--keys", type=Path, required=True, metavar="DIR", help="the device's keys (signing.pem)")
    parser.add_argument("--interval", type=_positive, default=5.0, metavar="S", help="seconds between readings (5)")
    parser.add_argument("--count", type=int, default=0, metavar="N", help="stop after N readings (0: never)")
    parser.add_argument("--size", type=int, default=1024, metavar="BYTES", help="size of each transaction (1024)")
    parser.add_argument("--wait", choices=("accepted", "finalized"), default="accepted", help="what to wait for")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} should be more than 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
