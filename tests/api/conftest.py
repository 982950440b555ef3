"""A stand-in node served over real TLS on the loopback, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from microchain.api.server import create_app, server_context, start_server
from microchain.client.node_client import NodeClient, client_context
from microchain.crypto.authority import create_authority, create_request, create_tls_key, sign_request

from tests.api.contract import Api
from tests.api.stand_in import TOKEN, StandInNode


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with tls.key, tls.crt (for 127.0.0.1) and ca.crt."""
    directory = tmp_path_factory.mktemp("tls")
    start = datetime.now(UTC) - timedelta(minutes=1)
    end = start + timedelta(days=1)
    authority = create_authority("tests", not_before=start, not_after=end)
    key = create_tls_key()
    request = create_request(key, "validator-1")
    certificate = sign_request(
        request, authority, name="validator-1", hosts=["127.0.0.1"], not_before=start, not_after=end
    )
    for name, content in (("tls.key", key), ("tls.crt", certificate), ("ca.crt", authority.certificate)):
        (directory / name).write_bytes(content)
    return directory


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StandInNode]:
    node = StandInNode(tmp_path)
    yield node
    node.ledger.close()


@pytest.fixture
async def url(node: StandInNode, tls: Path) -> AsyncIterator[str]:
    """Where the node's API answers."""
    context = server_context(tls / "tls.crt", tls / "tls.key")
    runner, port = await start_server(create_app(node, TOKEN), "127.0.0.1", 0, context)
    yield f"https://127.0.0.1:{port}"
    await runner.cleanup()


@pytest.fixture
async def client(url: str, tls: Path) -> AsyncIterator[NodeClient]:
    async with NodeClient(url, ca_file=tls / "ca.crt", token=TOKEN) as client:
        yield client


@pytest.fixture
async def http(url: str, tls: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A plain HTTP client, without the token."""
    connector = aiohttp.TCPConnector(ssl=client_context(tls / "ca.crt"))
    async with aiohttp.ClientSession(url, connector=connector) as session:
        yield session


@pytest.fixture
def api(http: aiohttp.ClientSession) -> Api:
    """Requests whose answers are checked against the OpenAPI document."""
    return Api(http)
