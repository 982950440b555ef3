"""Signing transactions before a run: an RSA signature costs more than all else the load generator does with one."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import msgspec

from microchain.client.sensors import SensorReader
from microchain.client.transactions import SignedTransaction, compute_payload_size, encode_reading, make_transaction
from microchain.consensus.genesis import node_id
from microchain.consensus.types import Digest, Height
from microchain.crypto.signatures import get_scheme

__all__ = ["SigningPlan", "sign_ahead", "sign_range"]

_CHUNK = 256


class SigningPlan(msgspec.Struct, frozen=True):
    """Who signs what: ``scheme`` and ``pem`` are the device's key, ``size`` the envelope's exact bytes."""

    chain_id: Digest
    scheme: str
    pem: bytes
    valid_until: Height
    size: int


def sign_range(plan: SigningPlan, first_nonce: int, count: int) -> list[SignedTransaction]:
    """Sign ``count`` readings with nonces from ``first_nonce`` on, in this thread."""
    key = get_scheme(plan.scheme).load(plan.pem)
    sender = node_id(key.public_key)
    payload_size = compute_payload_size(plan.size, plan.valid_until, len(key.sign(bytes(32))))
    sensors = SensorReader()
    payloads = (
        encode_reading(sensors.read(), nonce, payload_size) for nonce in range(first_nonce, first_nonce + count)
    )
    return [make_transaction(plan.chain_id, key, sender, plan.valid_until, payload) for payload in payloads]


async def sign_ahead(plan: SigningPlan, count: int, *, first_nonce: int = 0) -> list[SignedTransaction]:
    """Sign ``count`` readings, in as many processes as there are cores where that pays; the event loop stays free."""
    starts = range(first_nonce, first_nonce + count, _CHUNK)
    sizes = [min(_CHUNK, first_nonce + count - start) for start in starts]
    if len(sizes) <= 2:
        return await asyncio.to_thread(sign_range, plan, first_nonce, count)
    # Forking a process that runs threads may deadlock; a spawned one imports this module anew.
    context = multiprocessing.get_context("spawn")
    workers = min(len(sizes), os.cpu_count() or 1)
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        parts: Sequence[list[SignedTransaction]] = await asyncio.gather(
            *(
                loop.run_in_executor(pool, sign_range, plan, start, size)
                for start, size in zip(starts, sizes, strict=True)
            )
        )
    return [transaction for part in parts for transaction in part]
