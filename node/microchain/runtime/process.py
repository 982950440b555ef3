"""``microchain-node run``: one node as a process, from reading its files to its exit code."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from microchain.config import ConfigError, NodeConfig
from microchain.consensus.genesis import GenesisError
from microchain.crypto.signatures import KeyFileError
from microchain.ledger.ledger import LedgerError
from microchain.network.tls import TlsFilesError
from microchain.runtime.memory import settle, shrink_tls_buffers, tune_allocator
from microchain.runtime.node import ListenError, Node, NodeSetupError
from microchain.runtime.stopping import StopCode
from microchain.runtime.systemd import notify

__all__ = ["main"]

log = logging.getLogger("microchain")


def main(config: NodeConfig) -> int:
    """Run a node until it is told to stop; returns its exit code (`StopCode`)."""
    tune_allocator()
    shrink_tls_buffers()
    try:
        node = Node(config)
    except (ConfigError, GenesisError, KeyFileError, NodeSetupError, TlsFilesError) as error:
        return _refuse(StopCode.SETUP, error)
    except LedgerError as error:
        return _refuse(StopCode.STORAGE, error)
    except OSError as error:
        return _refuse(StopCode.SETUP, f"{error.filename}: {error.strerror}" if error.filename else error)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        return asyncio.run(_run(node))
    except ListenError as error:
        return _refuse(StopCode.ADDRESS_IN_USE, error.strerror or error)


async def _run(node: Node) -> int:
    loop = asyncio.get_running_loop()
    await node.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.request_stop, StopCode.DONE, signal.Signals(number).name)
    settle()
    log.info(
        "%s on chain %s: peers at %s, API at %s",
        node.name,
        node.genesis.chain_id().hex()[:16],
        node.config.listen.peer,
        node.config.listen.api,
    )
    notify("READY=1")
    code = await node.wait_stopped()
    notify("STOPPING=1")
    await node.stop()
    log.info("stopped")
    return int(code)


def _refuse(code: StopCode, reason: object) -> int:
    print(f"microchain-node: {reason}", file=sys.stderr)
    return int(code)
