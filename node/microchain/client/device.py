"""A device that submits its sensor readings every few seconds, as a board in the field would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from microchain.client.load import Fate, LoadGenerator, LoadSettings, Submission, now_ns
from microchain.client.node_client import NodeClient, NodeError, Unreachable
from microchain.client.sensors import SensorReader
from microchain.client.transactions import DEFAULT_VALIDITY, SignedTransaction, sized_transaction
from microchain.consensus.genesis import Genesis, node_id
from microchain.consensus.types import Height, NodeId
from microchain.crypto.signatures import KeyFileError, SigningKey, get_scheme

__all__ = ["Device", "DeviceError", "DeviceSettings", "open_device"]

_FINAL_TIMEOUT_S = 60.0
_POLL_S = 0.05

T = TypeVar("T")


class DeviceError(RuntimeError):
    """The device can't work; the message says what to do."""


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``size`` is the envelope's exact bytes; ``count`` 0 means without end."""

    interval_s: float = 5.0
    count: int = 0
    size: int = 1024
    wait: Literal["accepted", "finalized"] = "accepted"


class Device:
    """Signs readings and delivers them to the first node that takes them. ``say`` gets one line for each reading."""

    def __init__(
        self, nodes: Sequence[NodeClient], genesis: Genesis, key: SigningKey, say: Callable[[str], None]
    ) -> None:
        self._nodes = nodes
        self._genesis = genesis
        self._chain_id = genesis.chain_id()
        self._key = key
        self._sender: NodeId = node_id(key.public_key)
        self._say = say
        self._sensors = SensorReader(max_age_s=0)

    async def run(self, settings: DeviceSettings) -> int:
        """Submit a reading each ``interval_s``; returns how many were not delivered (or not final in time)."""
        failed = done = 0
        due = time.monotonic()
        while not settings.count or done < settings.count:
            try:
                delivered = await self._report(settings)
            except (NodeError, Unreachable) as error:
                self._say(str(error))
                delivered = False
            failed += not delivered
            done += 1
            # A reading that was late does not make the following ones come in a burst.
            due = max(due + settings.interval_s, time.monotonic())
            if not settings.count or done < settings.count:
                await asyncio.sleep(due - time.monotonic())
        return failed

    async def _report(self, settings: DeviceSettings) -> bool:
        transaction = await self._sign_reading(settings.size)
        give_up = max(5.0, settings.interval_s)
        load = LoadGenerator(self._nodes, [transaction], [0], settings=LoadSettings(tick_s=0, give_up_s=give_up))
        submission = (await load.run()).submissions[0]
        short = transaction.id.hex()[:16]
        if submission.fate is not Fate.ACCEPTED or submission.accepted is None:
            self._say(f"{short}  {submission.fate.value}: {submission.reason}")
            return False
        self._say(f"{short}  accepted after {(submission.accepted - submission.scheduled) / 1e6:.0f} ms")
        return settings.wait == "accepted" or await self._await_final(submission)

    async def _sign_reading(self, size: int) -> SignedTransaction:
        head = (await _ask(self._nodes, NodeClient.status))["head"]["height"]
        valid_until = Height(head + min(DEFAULT_VALIDITY, self._genesis.parameters.max_validity))
        reading = await asyncio.to_thread(self._sensors.read)
        return sized_transaction(
            self._chain_id, self._key, self._sender, valid_until, reading=reading, nonce=time.time_ns(), size=size
        )

    async def _await_final(self, submission: Submission) -> bool:
        short = submission.id.hex()[:16]
        deadline = time.monotonic() + _FINAL_TIMEOUT_S
        while time.monotonic() < deadline:
            found = await _ask(self._nodes, lambda node: node.transaction(submission.id))
            if found["state"] == "finalized":
                waited = (now_ns() - submission.scheduled) / 1e6
                self._say(f"{short}  finalized at height {found['height']} after {waited:.0f} ms")
                return True
            await asyncio.sleep(_POLL_S)
        self._say(f"{short}  not final after {_FINAL_TIMEOUT_S:g} s")
        return False


async def open_device(nodes: Sequence[NodeClient], keys: Path, say: Callable[[str], None]) -> Device:
    """Load the device's key and learn the chain from the first node that answers; DeviceError says what is wrong."""
    genesis = await _ask(nodes, NodeClient.genesis)
    path = keys / "signing.pem"
    try:
        pem = await asyncio.to_thread(path.read_bytes)
        key = get_scheme(genesis.parameters.signature).load(pem)
    except OSError as error:
        raise DeviceError(f"{path} can't be read ({error.strerror}); `microchain-node keys` makes it") from None
    except KeyFileError as error:
        raise DeviceError(f"{path}: {error}; this chain signs with {genesis.parameters.signature}") from None
    if all(entry.signing_key != key.public_key for entry in genesis.registry):
        names = ", ".join(entry.name for entry in genesis.registry)
        raise DeviceError(f"the key in {path} is not registered on this chain, which knows {names}; deploy it first")
    return Device(nodes, genesis, key, say)


async def _ask(nodes: Sequence[NodeClient], question: Callable[[NodeClient], Awaitable[T]]) -> T:
    """Ask the nodes in turn until one answers; Unreachable if none does."""
    last: Unreachable | None = None
    for node in nodes:
        try:
            return await question(node)
        except Unreachable as error:
            last = error
    raise last or Unreachable("no node was given")
