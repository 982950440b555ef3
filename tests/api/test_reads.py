"""Transactions with their proofs, blocks, committee and genesis."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import aiohttp
import pytest
from microchain.api import limits
from microchain.api.limits import LedgerReads
from microchain.api.service import NodeBusy
from microchain.consensus.genesis import decode_genesis
from microchain.consensus.objects import decode_header, decode_transaction, decode_vote
from microchain.consensus.types import Digest
from microchain.crypto.merkle import verify_inclusion
from microchain.crypto.signatures import get_scheme

from tests.api.contract import Api
from tests.api.stand_in import StandInNode, make_signed, until

TRANSACTION = "/v1/transactions/{id}"
BLOCK = "/v1/blocks/{block}"


async def pool(node: StandInNode, count: int, first: int = 0) -> list[Digest]:
    """Submit transactions; returns their ids."""
    signed = [make_signed(node.genesis, nonce=nonce) for nonce in range(first, first + count)]
    await node.submit([transaction.raw for transaction in signed])
    return [transaction.id for transaction in signed]


def proves(body: dict[str, Any]) -> bool:
    """What a client does with an answer: from the transaction's id to the root in the signed header."""
    header = decode_header(base64.b64decode(body["header"]))
    proof = body["proof"]
    path = [bytes.fromhex(digest) for digest in proof["path"]]
    assert body["block"] == header.id.hex()
    return verify_inclusion(Digest(header.body.tx_root), bytes.fromhex(body["id"]), proof["index"], proof["size"], path)


async def test_transaction_goes_from_pooled_to_finalized_with_proof(api: Api, node: StandInNode) -> None:
    ids = await pool(node, 7)
    id = ids[4].hex()
    assert (await api.get(TRANSACTION, id=id)).body == {"id": id, "state": "pooled"}

    node.make_block()
    included = (await api.get(TRANSACTION, id=id)).body
    assert (included["state"], included["height"], included["index"]) == ("included", 1, 4)
    assert proves(included)
    assert "certificate" not in included

    node.justify()
    assert (await api.get(TRANSACTION, id=id)).body["state"] == "committed"

    node.finalize()
    final = (await api.get(TRANSACTION, id=id)).body
    assert (final["state"], final["height"], final["block"]) == ("finalized", 1, included["block"])
    assert proves(final)
    votes = [decode_vote(base64.b64decode(vote)) for vote in final["certificate"]]
    keys = {member.id: member.signing_key for member in node.genesis.committee().members}
    assert len(votes) == 3
    assert all(get_scheme("ed25519").verify(keys[vote.voter], vote.id, vote.signature) for vote in votes)
    assert {vote.target.hex() for vote in votes} == {final["block"]}


async def test_proof_of_another_transaction_does_not_fit(api: Api, node: StandInNode) -> None:
    ids = await pool(node, 3)
    node.make_block()
    body = (await api.get(TRANSACTION, id=ids[0].hex())).body
    assert not proves({**body, "id": ids[1].hex()})


async def test_transaction_that_just_became_final_is_found_when_the_ledger_has_it(api: Api, node: StandInNode) -> None:
    (id,) = await pool(node, 1)
    node.make_block()
    records = node.finalize_engine()
    question = asyncio.create_task(api.get(TRANSACTION, id=id.hex()))
    block_question = asyncio.create_task(api.get(BLOCK, block="1"))
    await asyncio.sleep(0.02)
    assert not question.done()
    node.store(records)
    assert (await question).body["state"] == "finalized"
    assert (await block_question).body["finalized"] is True


async def test_unknown_and_malformed_ids(api: Api) -> None:
    unknown = await api.get(TRANSACTION, id="ab" * 32)
    assert (unknown.status, unknown.code) == (404, "unknown_transaction")
    for bad in ("abc", "AB" * 32, "zz" * 32, "ab" * 33, "x" * 4000, "%00" * 64):
        answer = await api.get(TRANSACTION, id=bad)
        assert (answer.status, answer.code) == (400, "bad_id"), bad
        assert len(answer.body["error"]["message"]) < 400


async def test_block_is_found_by_height_id_head_and_finalized(api: Api, node: StandInNode) -> None:
    await pool(node, 2)
    first = node.make_block()
    node.finalize()
    ids = await pool(node, 3, first=10)
    second = node.make_block()
    third = node.make_block()

    async def read(reference: str) -> tuple[str, bool]:
        body = (await api.get(BLOCK, block=reference)).body
        return body["id"], body["finalized"]

    assert await read("1") == await read(first.id.hex()) == await read("finalized") == (first.id.hex(), True)
    assert await read("2") == await read(second.id.hex()) == (second.id.hex(), False)
    assert await read("3") == await read("head") == (third.id.hex(), False)
    body = (await api.get(BLOCK, block="2")).body
    assert body["transactions"] == [id.hex() for id in ids]
    assert body["parent"] == first.id.hex()
    assert body["proposer"]["name"] == "validator-1"
    assert [vote["target"] for vote in body["votes"]] == [first.id.hex()]
    assert body["tx_root"] == decode_header(base64.b64decode(body["header"])).body.tx_root.hex()


async def test_block_bodies_come_when_asked_for(api: Api, node: StandInNode) -> None:
    (id,) = await pool(node, 1)
    node.make_block()
    assert "bodies" not in (await api.get(BLOCK, block="1")).body
    (raw,) = (await api.get(BLOCK, "?bodies=1", block="1")).body["bodies"]
    assert decode_transaction(base64.b64decode(raw)).id == id
    answer = await api.get(BLOCK, "?bodies=yes", block="1")
    assert (answer.status, answer.code) == (400, "bad_query")


async def test_stored_block_that_is_not_final_is_not_called_final(api: Api, node: StandInNode) -> None:
    await pool(node, 1)
    final = node.make_block()
    node.finalize()
    abandoned = node.make_block()
    node.ledger.write([abandoned], durable=False)
    node.chain.branch.clear()
    assert (await api.get(BLOCK, block=abandoned.id.hex())).body["finalized"] is False
    assert (await api.get(BLOCK, block=final.id.hex())).body["finalized"] is True


@pytest.mark.parametrize("reference", ["0", "7", "999999999999999999", "cd" * 32, "head", "finalized"])
async def test_blocks_that_are_not_there(api: Api, reference: str) -> None:
    answer = await api.get(BLOCK, block=reference)
    assert (answer.status, answer.code) == (404, "unknown_block")


@pytest.mark.parametrize("reference", ["-1", "1.5", "tail", "9" * 19, "9" * 5000, "%D9%A3"])
async def test_what_is_no_block_reference(api: Api, reference: str) -> None:
    answer = await api.get(BLOCK, block=reference)
    assert (answer.status, answer.code) == (400, "bad_block")
    assert len(answer.body["error"]["message"]) < 400


async def test_finalized_blocks_are_listed_page_by_page(api: Api, node: StandInNode) -> None:
    for number in range(5):
        await pool(node, 1, first=number)
        node.make_block()
    node.finalize()
    await pool(node, 1, first=100)
    node.make_block()
    first = (await api.get("/v1/blocks", "?limit=3")).body
    assert [block["height"] for block in first["blocks"]] == [1, 2, 3]
    assert (first["next"], first["finalized_height"]) == (4, 5)
    second = (await api.get("/v1/blocks", f"?from={first['next']}&limit=3")).body
    assert [block["height"] for block in second["blocks"]] == [4, 5]
    assert second["next"] is None
    assert (await api.get("/v1/blocks", "?from=900000000000000000")).body["blocks"] == []


@pytest.mark.parametrize("query", ["?from=-1", "?from=x", "?limit=0", "?limit=101", "?limit=9999999999999999999999"])
async def test_bad_pages_are_refused(api: Api, query: str) -> None:
    answer = await api.get("/v1/blocks", query)
    assert (answer.status, answer.code) == (400, "bad_query")


async def test_committee_has_weights_and_keys(api: Api, node: StandInNode) -> None:
    body = (await api.get("/v1/committee")).body
    committee = node.genesis.committee()
    assert body["chain_id"] == node.genesis.chain_id().hex()
    assert body["committee_root"] == committee.root.hex()
    assert [m["id"] for m in body["members"]] == [m.id.hex() for m in committee.members]
    assert sum(m["weight"] for m in body["members"]) == body["total_weight"]
    assert {m["address"] for m in body["members"]} == {f"127.0.0.1:{port}" for port in range(9101, 9105)}


async def test_genesis_document_hashes_to_the_chain_id(
    http: aiohttp.ClientSession, api: Api, node: StandInNode
) -> None:
    await api.get("/v1/genesis")
    async with http.get("/v1/genesis") as response:
        assert decode_genesis(await response.read()).chain_id() == node.genesis.chain_id()


async def test_unknown_path_and_method_have_the_error_form(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/nothing") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_path")
    async with http.delete("/v1/transactions") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (405, "method_not_allowed")
        assert response.headers["Allow"] == "POST"


async def test_waiting_ledger_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_WAITING_READS", 1)
    reads, open_gate, started = LedgerReads(), threading.Event(), []

    def read() -> bool:
        started.append(1)
        return open_gate.wait(10)

    tasks = [asyncio.create_task(reads.run(read)) for _ in range(3)]
    await until(lambda: len(started) == 2)
    with pytest.raises(NodeBusy):
        await reads.run(read)
    assert len(started) == 2
    open_gate.set()
    assert await asyncio.gather(*tasks) == [True, True, True]
    assert await reads.run(lambda: 5) == 5
