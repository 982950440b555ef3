"""POST /v1/transactions: one or many transactions as JSON, or many as msgpack (the fast path)."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
from aiohttp import web

from microchain.api.access import TokenGuard
from microchain.api.limits import BODY_TIMEOUT_S, MAX_TRANSACTIONS, SubmissionGate
from microchain.api.responses import ApiError, error_response, json_response, quote
from microchain.api.service import NodeService
from microchain.consensus.interface import AdmissionCode, Outcome

__all__ = ["HTTP_STATUS", "Result", "SubmissionRoutes"]

HTTP_STATUS: Final = {code: code.value for code in AdmissionCode} | {AdmissionCode.BAD_SIGNATURE: 403}
"""The status of each outcome. A wrong signature is 403: 401 means the token, and with the right one nothing changes."""

_CODES = {code: code.name.lower() for code in AdmissionCode}
_POOL_FULL_RETRY_S = 1.0
_MSGPACK_TYPES = frozenset({"application/msgpack", "application/x-msgpack", "application/vnd.msgpack"})


class SubmissionRequest(msgspec.Struct, forbid_unknown_fields=True):
    """JSON body (base64): exactly one of the two."""

    transaction: bytes | None = None
    transactions: list[bytes] | None = None


class Result(msgspec.Struct, frozen=True):
    """What became of one transaction; ``status`` is what a single submission would have answered."""

    id: str | None
    status: int
    code: str
    message: str


class Results(msgspec.Struct, frozen=True):
    """Answer to a submission of many, in the order in which they were sent."""

    accepted: int
    results: list[Result]


_msgpack_decoder = msgspec.msgpack.Decoder(list[Annotated[bytes, msgspec.Meta(min_length=1)]])


class SubmissionRoutes:
    """Handler of submissions."""

    def __init__(self, service: NodeService, guard: TokenGuard, gate: SubmissionGate, max_body: int) -> None:
        self._service = service
        self._guard = guard
        self._gate = gate
        self._max_body = max_body

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/transactions", self.post_transactions)]

    async def post_transactions(self, request: web.Request) -> web.Response:
        self._guard.check(request)
        size = self._max_body if request.content_length is None else request.content_length
        if size > self._max_body:
            raise ApiError(413, "body_too_large", f"the body has {size} bytes; at most {self._max_body} are taken")
        with self._gate.admit(size):
            body = await _read_body(request)
            transactions, single = _parse(request.content_type, body)
            _check_number(len(transactions))
            outcomes = await self._service.submit(transactions)
        if single:
            return _answer_one(outcomes[0])
        return json_response(_to_results(outcomes))


async def _read_body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise ApiError(408, "body_timeout", f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None


def _parse(content_type: str, body: bytes) -> tuple[list[bytes], bool]:
    """Return (transactions, whether it was a single submission)."""
    if content_type in _MSGPACK_TYPES:
        try:
            return _msgpack_decoder.decode(body), False
        except msgspec.MsgspecError as error:
            raise ApiError(400, "bad_msgpack", f"the body should be a msgpack array of binaries: {error}") from None
    if content_type != "application/json":
        expected = "application/json or application/msgpack"
        raise ApiError(
            415, "unsupported_type", f"Content-Type {quote(content_type)} is not understood; send {expected}"
        )
    expected = '{"transaction": base64} or {"transactions": [base64, ...]}'
    try:
        request = msgspec.json.decode(body, type=SubmissionRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ApiError(400, "bad_json", f"the body should be {expected}: {error}") from None
    if request.transaction is not None and request.transactions is None:
        return [request.transaction], True
    if request.transactions is not None and request.transaction is None:
        return request.transactions, False
    raise ApiError(400, "bad_json", f"the body should be {expected}, one of them")


def _check_number(number: int) -> None:
    if number == 0:
        raise ApiError(400, "no_transactions", "the request holds no transaction; send at least one")
    if number > MAX_TRANSACTIONS:
        message = f"the request holds {number} transactions; send at most {MAX_TRANSACTIONS} at a time"
        raise ApiError(413, "too_many_transactions", message)


def _to_result(outcome: Outcome) -> Result:
    id_hex = None if outcome.id is None else outcome.id.hex()
    return Result(id_hex, HTTP_STATUS[outcome.code], _CODES[outcome.code], outcome.detail)


def _to_results(outcomes: tuple[Outcome, ...]) -> Results:
    results = [_to_result(outcome) for outcome in outcomes]
    return Results(sum(1 for outcome in outcomes if outcome.code is AdmissionCode.ACCEPTED), results)


def _answer_one(outcome: Outcome) -> web.Response:
    result = _to_result(outcome)
    if outcome.code is AdmissionCode.ACCEPTED:
        return json_response(result, status=202)
    retry_after = _POOL_FULL_RETRY_S if outcome.code is AdmissionCode.POOL_FULL else None
    return error_response(ApiError(result.status, result.code, result.message, retry_after=retry_after))
