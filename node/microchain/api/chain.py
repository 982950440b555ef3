"""What clients ask of the chain: a transaction with its proof, blocks, the committee and the genesis document."""

from __future__ import annotations

import asyncio
import re

from aiohttp import web

from microchain.api.limits import MAX_LISTED_BLOCKS, LedgerReads
from microchain.api.responses import ApiError, json_response, quote
from microchain.api.service import NodeService
from microchain.api.views import (
    Names,
    view_block,
    view_committee,
    view_included,
    view_pooled,
    view_summary,
)
from microchain.consensus.genesis import encode_genesis
from microchain.consensus.interface import BlockRecord
from microchain.consensus.types import Digest, Height

__all__ = ["ChainRoutes"]

_ID = re.compile(r"[0-9a-f]{64}")
_HEIGHT = re.compile(r"[0-9]{1,18}")
_DEFAULT_LISTED = 20
_CATCH_UP_TRIES = 20
_CATCH_UP_S = 0.05


class ChainRoutes:
    """Handlers of reads. What is not final comes from the engine, what is final from the ledger, in a thread."""

    def __init__(self, service: NodeService) -> None:
        self._service = service
        self._reads = LedgerReads()
        self._committee = service.genesis.committee()
        self._names: Names = {member.id: member.name for member in self._committee.members}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/transactions/{id}", self.get_transaction, allow_head=False),
            web.get("/v1/blocks", self.get_blocks, allow_head=False),
            web.get("/v1/blocks/{block}", self.get_block, allow_head=False),
            web.get("/v1/committee", self.get_committee, allow_head=False),
            web.get("/v1/genesis", self.get_genesis, allow_head=False),
        ]

    async def get_transaction(self, request: web.Request) -> web.Response:
        """Where a transaction is, with the proof that it is there."""
        id = _parse_id(request.match_info["id"])
        engine = self._service.engine
        found = engine.find_transaction(id)
        if found is not None:
            state, block_id = found
            if block_id is None:
                return json_response(view_pooled(id))
            record = engine.find_block(block_id)
            if record is not None:
                block = record
                return json_response(await self._reads.run(lambda: view_included(id, state, block, None)))
        await self._await_ledger()
        body = await self._reads.run(lambda: self._read_finalized(id))
        if body is None:
            message = f"transaction {id.hex()} is unknown here: never submitted, expired, or not on this chain"
            raise ApiError(404, "unknown_transaction", message)
        return json_response(body)

    def _read_finalized(self, id: Digest) -> bytes | None:
        ledger = self._service.ledger
        found = ledger.find_transaction(id)
        if found is None:
            return None
        height, _ = found
        record = ledger.block_at(height)
        if record is None:
            return None
        return view_included(id, "finalized", record, ledger.certificate_for(height) or ())

    async def _await_ledger(self) -> None:
        """Wait (at most a second) until what the engine calls final is in the ledger: the two differ for a moment."""
        for _ in range(_CATCH_UP_TRIES):
            height = self._service.engine.status().finalized_height
            if (await self._reads.run(self._service.ledger.finalized))[0] >= height:
                return
            await asyncio.sleep(_CATCH_UP_S)

    async def get_block(self, request: web.Request) -> web.Response:
        """One block by height, id, ``head`` or ``finalized``; ``?bodies=1`` adds the transactions themselves."""
        reference = request.match_info["block"]
        bodies = _parse_flag(request, "bodies")
        record, final = await self._find_block(reference)
        if record is None:
            raise ApiError(404, "unknown_block", f"there is no block {reference} on this node's branch")
        found = record
        return json_response(await self._reads.run(lambda: view_block(found, final, self._names, bodies)))

    async def _find_block(self, reference: str) -> tuple[BlockRecord | None, bool]:
        """Return (block, whether it is final)."""
        engine, ledger = self._service.engine, self._service.ledger
        if reference == "finalized":
            await self._await_ledger()
            return await self._reads.run(lambda: ledger.block_at(ledger.finalized()[0])), True
        if reference == "head":
            return await self._find_block_by_id(engine.status().head)
        if _ID.fullmatch(reference):
            return await self._find_block_by_id(Digest(bytes.fromhex(reference)))
        if not _HEIGHT.fullmatch(reference):
            message = f"{quote(reference)} is no block: give a height, an id (64 hexadecimal digits), head or finalized"
            raise ApiError(400, "bad_block", message)
        height = Height(int(reference))
        if (record := self._find_on_branch(height)) is not None:
            return record, False
        await self._await_ledger()
        return await self._reads.run(lambda: ledger.block_at(height)), True

    async def _find_block_by_id(self, id: Digest) -> tuple[BlockRecord | None, bool]:
        if (record := self._service.engine.find_block(id)) is not None:
            return record, False
        await self._await_ledger()
        return await self._reads.run(lambda: self._read_block(id))

    def _read_block(self, id: Digest) -> tuple[BlockRecord | None, bool]:
        # The ledger also keeps blocks that are not final: of the branch, and of branches soon to be discarded.
        record = self._service.ledger.block(id)
        final = None if record is None else self._service.ledger.block_at(record.height)
        return record, final is not None and final.id == id

    def _find_on_branch(self, height: Height) -> BlockRecord | None:
        """The unfinalized block of that height on the head's branch."""
        record = self._service.engine.find_block(self._service.engine.status().head)
        while record is not None and record.height > height:
            record = self._service.engine.find_block(record.parent)
        return record if record is not None and record.height == height else None

    async def get_blocks(self, request: web.Request) -> web.Response:
        """Finalized blocks from a height on, without their transactions; ``next`` is where to go on."""
        start = _parse_number(request, "from", default=1, low=0, high=10**18)
        limit = _parse_number(request, "limit", default=_DEFAULT_LISTED, low=1, high=MAX_LISTED_BLOCKS)
        return json_response(await self._reads.run(lambda: self._read_summaries(start, limit)))

    def _read_summaries(self, start: int, limit: int) -> dict[str, object]:
        ledger = self._service.ledger
        last = ledger.finalized()[0]
        end = min(max(start, 1) + limit, last + 1)
        records = (ledger.block_at(Height(height)) for height in range(max(start, 1), end))
        blocks = [view_summary(record, True, self._names) for record in records if record is not None]
        return {"finalized_height": last, "next": end if end <= last else None, "blocks": blocks}

    async def get_committee(self, request: web.Request) -> web.Response:
        return json_response(view_committee(self._service.genesis, self._committee))

    async def get_genesis(self, request: web.Request) -> web.Response:
        return json_response(encode_genesis(self._service.genesis))


def _parse_id(text: str) -> Digest:
    if not _ID.fullmatch(text):
        raise ApiError(400, "bad_id", f"{quote(text)} is no transaction id: it has 64 lower-case hexadecimal digits")
    return Digest(bytes.fromhex(text))


def _parse_number(request: web.Request, name: str, *, default: int, low: int, high: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,19}", text) or not low <= int(text) <= high:
        raise ApiError(400, "bad_query", f"{name} is {quote(text)}; give a whole number from {low} to {high}")
    return int(text)


def _parse_flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "0")
    if text not in ("0", "1"):
        raise ApiError(400, "bad_query", f"{name} is {quote(text)}; give 0 or 1")
    return text == "1"
