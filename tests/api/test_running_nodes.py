"""Four real validators answer as the OpenAPI document says, and a client can check a finality proof by itself."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import aiohttp
from microchain.client.load import Fate, LoadGenerator
from microchain.client.node_client import NodeClient, client_context
from microchain.client.schedule import make_fixed_schedule
from microchain.client.signing import SigningPlan, sign_range
from microchain.consensus.objects import decode_header, decode_vote
from microchain.consensus.types import Digest, Height
from microchain.crypto.merkle import verify_inclusion
from microchain.crypto.signatures import get_scheme

from tests.api.contract import Api, check_schema
from tests.cluster import TOKEN, make_cluster


async def test_load_on_real_validators_ends_in_checkable_finality(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path, 4, parameters={"propose": "pool"})
    plan = SigningPlan(cluster.genesis.chain_id(), "ed25519", cluster.device.to_pem(), Height(1000), 600)
    transactions = sign_range(plan, 0, 40)
    ids = {transaction.id.hex() for transaction in transactions}
    async with cluster.nodes() as nodes:
        ca_file = cluster.config(0).node.keys / "ca.crt"
        clients = [NodeClient(f"https://127.0.0.1:{node.api_port}", ca_file=ca_file, token=TOKEN) for node in nodes]
        async with clients[0].events() as events:
            check_schema("/components/schemas/Event", await anext(events))
            load = LoadGenerator(clients, transactions, make_fixed_schedule(1000, len(transactions)))
            report = await load.run()
            assert report.count(Fate.ACCEPTED) == len(transactions), report.reasons()
            final: set[str] = set()
            async with asyncio.timeout(30):
                while not ids <= final:
                    event = await anext(events)
                    check_schema("/components/schemas/Event", event)
                    final |= set(event["ids"]) if event["type"] == "finalized" else set()
        await check_reads(clients[0].url, ca_file, min(ids))
        proof = await clients[0].transaction(Digest(bytes.fromhex(min(ids))))
        assert proves_finality(proof, {m["id"]: m for m in (await clients[0].committee())["members"]})
        for client in clients:
            await client.close()


async def check_reads(url: str, ca_file: Path, id: str) -> None:
    """Every read of a running node fits the document."""
    connector = aiohttp.TCPConnector(ssl=client_context(ca_file))
    async with aiohttp.ClientSession(url, connector=connector) as session:
        api = Api(session)
        for path in ("/v1/status", "/v1/health", "/v1/committee", "/v1/genesis", "/v1/blocks", "/metrics"):
            assert (await api.get(path)).status == 200, path
        assert (await api.get("/v1/transactions/{id}", id=id)).body["state"] == "finalized"
        for block in ("1", "finalized"):
            assert (await api.get("/v1/blocks/{block}", "?bodies=1", block=block)).body["finalized"] is True
        assert (await api.get("/v1/blocks/{block}", block="head")).status == 200


def proves_finality(answer: dict[str, Any], members: dict[str, dict[str, Any]]) -> bool:
    """Inclusion in the signed header, and votes of more than two thirds of the weight for one checkpoint."""
    header = decode_header(base64.b64decode(answer["header"]))
    path = [bytes.fromhex(digest) for digest in answer["proof"]["path"]]
    leaf, index, size = bytes.fromhex(answer["id"]), answer["proof"]["index"], answer["proof"]["size"]
    assert verify_inclusion(Digest(header.body.tx_root), leaf, index, size, path)
    weight: dict[Digest, int] = {}
    for vote in (decode_vote(base64.b64decode(raw)) for raw in answer["certificate"]):
        member = members[vote.voter.hex()]
        key = base64.b64decode(member["signing_key"])
        assert get_scheme("ed25519").verify(key, vote.id, vote.signature)
        weight[vote.target] = weight.get(vote.target, 0) + member["weight"]
    total: int = sum(member["weight"] for member in members.values())
    return 3 * max(weight.values()) > 2 * total
