"""Asks all validators for their status: at once, but not too many at a time, and never for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from microchain.client.node_client import AuthorityFileError, NodeClient, NodeError, Unreachable

from control.errors import UsageError
from control.inventory import Deployment
from control.watch.status import Away, Sample, Status

__all__ = ["Poller"]

_AT_ONCE = 32
_ANSWER_S = 5.0
_MAX_ANSWER = 1 << 20


class Poller:
    """``async with Poller(deployment) as poller``: connections to all validators of a deployment, kept open."""

    def __init__(self, deployment: Deployment) -> None:
        authority = Path(deployment.ca) if deployment.ca else None
        try:
            self._nodes = {
                endpoint.name: NodeClient(
                    endpoint.api, ca_file=authority, timeout_s=_ANSWER_S, connections=1, max_answer=_MAX_ANSWER
                )
                for endpoint in deployment.endpoints
            }
        except AuthorityFileError as error:
            raise UsageError(f"{error}; './testbed deploy' writes it again") from None
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._stack = AsyncExitStack()

    @property
    def names(self) -> Sequence[str]:
        return tuple(self._nodes)

    async def __aenter__(self) -> Self:
        for node in self._nodes.values():
            await self._stack.enter_async_context(node)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def ask(self) -> dict[str, Sample | Away]:
        """Return what each validator says, in the deployment's order."""
        answers = await asyncio.gather(*map(self._ask_one, self._nodes.values()))
        return dict(zip(self._nodes, answers, strict=True))

    async def _ask_one(self, node: NodeClient) -> Sample | Away:
        async with self._turns:
            try:
                status = msgspec.convert(await node.status(), Status)
            except Unreachable as error:
                return Away(error.reason)
            except NodeError as error:
                return Away(f"{error.status} {error.code}: {error.message}")
            except msgspec.ValidationError as error:
                return Away(f"its status makes no sense: {error}")
            return Sample(time.monotonic(), status)
