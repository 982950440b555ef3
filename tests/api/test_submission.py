"""POST /v1/transactions: outcomes, bounds and hostile bodies."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from microchain.api import limits, submission
from microchain.api.service import NodeBusy
from microchain.client.node_client import client_context
from microchain.consensus.interface import Outcome
from microchain.consensus.objects import seal, split

from tests.api.contract import AUTHORIZED, Api
from tests.api.stand_in import StandInNode, make_signed, until

PATH = "/v1/transactions"
MSGPACK = {"Content-Type": "application/msgpack"}


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def pack(*raws: bytes) -> bytes:
    return msgspec.msgpack.encode(raws)


async def test_single_submission_is_accepted_with_its_id(api: Api, node: StandInNode) -> None:
    signed = make_signed(node.genesis)
    answer = await api.post(PATH, json={"transaction": b64(signed.raw)})
    assert (answer.status, answer.body["id"], answer.body["code"]) == (202, signed.id.hex(), "accepted")
    assert node.chain.pool == {signed.id: signed.raw}


@pytest.mark.parametrize("form", ["json", "msgpack"])
async def test_many_get_one_result_each_in_order(api: Api, node: StandInNode, form: str) -> None:
    good, other = make_signed(node.genesis, nonce=1), make_signed(node.genesis, nonce=2)
    raws = [good.raw, b"\x00", other.raw, good.raw]
    if form == "json":
        answer = await api.post(PATH, json={"transactions": [b64(raw) for raw in raws]})
    else:
        answer = await api.post(PATH, data=pack(*raws), headers=MSGPACK)
    assert answer.status == 200
    assert answer.body["accepted"] == 2
    assert [(r["status"], r["code"]) for r in answer.body["results"]] == [
        (202, "accepted"),
        (400, "malformed"),
        (202, "accepted"),
        (409, "duplicate"),
    ]
    assert [r["id"] for r in answer.body["results"]] == [good.id.hex(), None, other.id.hex(), good.id.hex()]


async def test_single_refusals_have_the_status_of_their_reason(api: Api, node: StandInNode) -> None:
    async def refused(raw: bytes) -> tuple[int, str]:
        answer = await api.post(PATH, json={"transaction": b64(raw)})
        return answer.status, answer.code

    good = make_signed(node.genesis)
    signed_bytes, signature = split(good.raw)
    forged = seal(signed_bytes, bytes(len(signature)))
    assert await refused(forged) == (403, "bad_signature")
    assert await refused(good.raw + b"\x00") == (400, "malformed")
    assert await refused(make_signed(node.genesis, signer="stranger").raw) == (403, "unknown_sender")
    assert await refused(make_signed(node.genesis, valid_until=0).raw) == (410, "expired")
    assert await refused(make_signed(node.genesis, size=300_000).raw) == (413, "too_large")
    await api.post(PATH, json={"transaction": b64(good.raw)})
    assert await refused(good.raw) == (409, "duplicate")


async def test_full_pool_says_when_to_try_again(api: Api, node: StandInNode) -> None:
    node.pool_full = True
    answer = await api.post(PATH, json={"transaction": b64(make_signed(node.genesis).raw)})
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (429, "pool_full", "1")


async def test_busy_node_says_when_to_try_again(api: Api, node: StandInNode) -> None:
    node.busy = True
    answer = await api.post(PATH, data=pack(b"x"), headers=MSGPACK)
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "busy", "1")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "application/json", 400, "bad_json"),
        (b"{", "application/json", 400, "bad_json"),
        (b"\xff\xfe", "application/json", 400, "bad_json"),
        (b"[]", "application/json", 400, "bad_json"),
        (b"{}", "application/json", 400, "bad_json"),
        (b'{"transaction": "!!!"}', "application/json", 400, "bad_json"),
        (b'{"transaction": 5}', "application/json", 400, "bad_json"),
        (b'{"transactions": "AAAA"}', "application/json", 400, "bad_json"),
        (b'{"transactions": ["AA=", "AA=="]}', "application/json", 400, "bad_json"),
        (b'{"transaction": "AAAA", "transactions": []}', "application/json", 400, "bad_json"),
        (b'{"transaction": "AAAA", "more": 1}', "application/json", 400, "bad_json"),
        (b"[" * 100_000, "application/json", 400, "bad_json"),
        (b'{"transactions": []}', "application/json", 400, "no_transactions"),
        (b"", "application/msgpack", 400, "bad_msgpack"),
        (b"\x90", "application/msgpack", 400, "no_transactions"),
        (b"\x91\xc4", "application/msgpack", 400, "bad_msgpack"),
        (b"\x91\xc4\x00", "application/msgpack", 400, "bad_msgpack"),
        (b"\x91\xa1a", "application/msgpack", 400, "bad_msgpack"),
        (b"\x91\xc4\x01a extra", "application/msgpack", 400, "bad_msgpack"),
        (b"\xdd\xff\xff\xff\xff", "application/msgpack", 400, "bad_msgpack"),
        (b"\x91" * 5000, "application/msgpack", 400, "bad_msgpack"),
        (b"x", "text/plain", 415, "unsupported_type"),
        (b"x", "", 415, "unsupported_type"),
    ],
)
async def test_hostile_bodies_get_a_clear_error(
    api: Api, node: StandInNode, body: bytes, content_type: str, status: int, code: str
) -> None:
    answer = await api.post(PATH, data=body, headers={"Content-Type": content_type})
    assert (answer.status, answer.code) == (status, code)
    assert node.submissions == 0


async def test_submission_needs_the_token(api: Api, node: StandInNode) -> None:
    missing = await api.post(PATH, token=False, data=pack(b"x"), headers=MSGPACK)
    wrong = await api.post(PATH, data=pack(b"x"), headers={**MSGPACK, "Authorization": "Bearer other"})
    strange = await api.post(PATH, data=pack(b"x"), headers={**MSGPACK, "Authorization": "Bearer \xe9\xff"})
    basic = await api.post(PATH, data=pack(b"x"), headers={**MSGPACK, "Authorization": "Basic YTpi"})
    assert [(a.status, a.code) for a in (missing, wrong, strange, basic)] == [
        (401, "token_missing"),
        (401, "token_wrong"),
        (401, "token_wrong"),
        (401, "token_missing"),
    ]
    assert missing.headers["WWW-Authenticate"] == "Bearer"
    assert node.submissions == 0


async def test_number_of_transactions_is_bounded(api: Api, node: StandInNode) -> None:
    answer = await api.post(PATH, data=pack(*[b"x"] * (limits.MAX_TRANSACTIONS + 1)), headers=MSGPACK)
    assert (answer.status, answer.code) == (413, "too_many_transactions")
    answer = await api.post(PATH, data=pack(*[b"x"] * limits.MAX_TRANSACTIONS), headers=MSGPACK)
    assert (answer.status, answer.body["accepted"]) == (200, 0)


async def test_huge_bodies_are_refused_with_and_without_a_length(api: Api, node: StandInNode) -> None:
    bound = limits.compute_max_body(node.genesis.parameters)

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(bound // (1 << 20) + 1):
            yield bytes(1 << 20)

    chunked = await api.post(PATH, data=stream(), headers=MSGPACK)
    assert (chunked.status, chunked.code) == (413, "body_too_large")
    declared = await api.post(PATH, data=io.BytesIO(bytes(bound + 1)), headers=MSGPACK)
    assert (declared.status, declared.code) == (413, "body_too_large")
    assert node.submissions == 0


async def test_concurrent_submissions_are_bounded(api: Api, node: StandInNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SUBMISSIONS", 3)
    node.hold = asyncio.Event()
    body = pack(b"x")
    waiting = [asyncio.create_task(api.post(PATH, data=body, headers=MSGPACK)) for _ in range(3)]
    await until(lambda: node.submissions == 3)
    answer = await api.post(PATH, data=body, headers=MSGPACK)
    assert (answer.status, answer.code) == (503, "busy")
    node.hold.set()
    assert [a.status for a in await asyncio.gather(*waiting)] == [200, 200, 200]
    assert (await api.post(PATH, data=body, headers=MSGPACK)).status == 200


def test_bytes_of_concurrent_submissions_are_bounded() -> None:
    gate = limits.SubmissionGate(100)
    with gate.admit(80):
        with pytest.raises(NodeBusy), gate.admit(30):
            pass
        with gate.admit(20):
            assert gate.in_flight == 2
    with gate.admit(500):
        assert gate.in_flight == 1
    with gate.admit(1), gate.admit(99):
        assert gate.in_flight == 2
    assert gate.in_flight == 0


async def test_body_that_never_ends_is_given_up(url: str, tls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "BODY_TIMEOUT_S", 0.05)
    assert b"408" in (answer := await send_head(url, tls, length=100))
    assert b"body_timeout" in answer


async def test_body_that_is_declared_too_large_is_not_waited_for(url: str, tls: Path) -> None:
    assert b"413" in (answer := await send_head(url, tls, length=10**12))
    assert b"body_too_large" in answer


async def send_head(url: str, tls: Path, *, length: int) -> bytes:
    """Announce a body, send only three bytes of it, and return the answer."""
    host, port = url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=client_context(tls / "ca.crt"))
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZED['Authorization']}\r\n"
    writer.write(f"{head}Content-Type: application/msgpack\r\nContent-Length: {length}\r\n\r\nabc".encode())
    try:
        return await asyncio.wait_for(reader.readuntil(b"}}"), 10)
    finally:
        writer.transport.abort()


async def test_unexpected_failure_is_an_error_without_details(
    api: Api, node: StandInNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(transactions: object) -> tuple[Outcome, ...]:
        raise RuntimeError("secret")

    monkeypatch.setattr(node, "submit", fail)
    answer = await api.post(PATH, data=pack(b"x"), headers=MSGPACK)
    assert (answer.status, answer.code) == (500, "internal")
    assert "secret" not in str(answer.body)
    assert "secret" in caplog.text
