"""Peers that break the rules: each is told why, counted, refused for a while where no honest node does that."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from pathlib import Path

import aiohttp
import pytest
from microchain.consensus.messages import GetTransactions, Transactions, Votes, encode_message
from microchain.network import link as link_module
from microchain.network import mesh as mesh_module
from microchain.network.frames import FRAME_BYTES, MAX_RECORDS, Kind, LinkLimits, encode_record
from microchain.network.hello import CloseReason
from microchain.network.limits import Penalty

from tests.cluster import Cluster, certify, make_cluster, make_keys, until
from tests.network.peers import Hostile, client_context, hello_record, id_of, mesh_of, sorted_indexes

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return make_cluster(tmp_path, 3)


@pytest.fixture
def hostile(cluster: Cluster) -> Hostile:
    """The validator with the lowest id, about to dial the one with the highest (see `honest`)."""
    lowest, _, highest = sorted_indexes(cluster)
    return Hostile(cluster, highest, cluster.config(lowest).node.keys)


@pytest.fixture
def honest(cluster: Cluster) -> int:
    return sorted_indexes(cluster)[2]


@pytest.fixture
def hello(cluster: Cluster) -> bytes:
    return hello_record(cluster, sorted_indexes(cluster)[0])


def begin(total: int, chunk: bytes) -> bytes:
    return encode_record(Kind.BEGIN, struct.pack(">I", total) + chunk)


OFFENCES = {
    "garbage": (b"\xde\xad\xbe\xef" * 20, CloseReason.BAD_FRAME),
    "an empty frame": (b"", CloseReason.BAD_FRAME),
    "too many records": (encode_record(Kind.PING, bytes(8)) * (MAX_RECORDS + 1), CloseReason.BAD_FRAME),
    "an oversized frame": (bytes(FRAME_BYTES + 1), CloseReason.OVERSIZED_FRAME),
    "an endless message": (begin(2**32 - 1, b"x"), CloseReason.BAD_FRAME),
    "more chunks than announced": (begin(2, b"x") + encode_record(Kind.MORE, b"yy"), CloseReason.BAD_FRAME),
    "a malformed message": (encode_record(Kind.MESSAGE, b"\x93\x01\x02"), CloseReason.BAD_MESSAGE),
    "an unknown message": (encode_record(Kind.MESSAGE, b"\x92\x63\x90"), CloseReason.BAD_MESSAGE),
    "an answer to no ping": (encode_record(Kind.PONG, bytes(24)), CloseReason.BAD_FRAME),
    "a short ping": (encode_record(Kind.PING, bytes(7)), CloseReason.BAD_FRAME),
}


@pytest.mark.parametrize("what", OFFENCES)
async def test_an_offence_ends_the_link_and_the_peer_is_refused(
    cluster: Cluster, hostile: Hostile, honest: int, hello: bytes, what: str
) -> None:
    frame, reason = OFFENCES[what]
    async with mesh_of(cluster, honest) as (mesh, observer):
        async with hostile.connect(hello):
            await until(lambda: len(observer.log) == 1)
            await hostile.socket.send_bytes(frame)
            code = await hostile.close_code()
            # What follows an oversized frame is not read, so the reset may overtake the close message.
            assert code == reason.value or reason is CloseReason.OVERSIZED_FRAME
        await until(lambda: mesh.counters.incidents[reason.label] == 1)
        assert observer.messages() == []
        assert [event for event, _ in observer.log] == ["connected", "disconnected"]
        with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
            async with hostile.connect(hello):
                pass
        assert mesh.counters.incidents["refused"] == 1


async def test_text_and_control_frames_are_refused(
    cluster: Cluster, hostile: Hostile, honest: int, hello: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Penalty, "impose", lambda self, now: 0.0)
    async with mesh_of(cluster, honest) as (mesh, _):
        for count, speak in enumerate(("text", "ping"), start=1):
            async with hostile.connect(hello):
                await (hostile.socket.send_str("{}") if speak == "text" else hostile.socket.ping())
                assert await hostile.close_code() == CloseReason.BAD_FRAME.value
            await until(lambda count=count: mesh.counters.incidents["bad-frame"] == count)  # type: ignore[misc]


async def test_a_hello_must_be_the_first_record_and_right(
    cluster: Cluster, hostile: Hostile, honest: int, hello: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Penalty, "impose", lambda self, now: 0.0)
    lowest, middle, _ = sorted_indexes(cluster)
    vote = encode_record(Kind.MESSAGE, encode_message(Votes((b"v",))))
    cases = [
        (vote, CloseReason.BAD_HELLO),
        (encode_record(Kind.HELLO, b"nonsense"), CloseReason.BAD_HELLO),
        (hello_record(cluster, lowest, version=2), CloseReason.WRONG_VERSION),
        (hello_record(cluster, lowest, chain_id=bytes(32)), CloseReason.WRONG_CHAIN),
        (hello_record(cluster, lowest, node=id_of(cluster, middle)), CloseReason.WRONG_IDENTITY),
    ]
    async with mesh_of(cluster, honest) as (mesh, observer):
        for first_record, reason in cases:
            before = mesh.counters.incidents[reason.label]
            async with hostile.connect(first_record + vote):
                assert await hostile.close_code() == reason.value
            await until(lambda r=reason, b=before: mesh.counters.incidents[r.label] == b + 1)  # type: ignore[misc]
        assert observer.log == [], "no hello, no link"
        assert observer.messages() == []


async def test_a_replayed_hello_is_an_offence(cluster: Cluster, hostile: Hostile, honest: int, hello: bytes) -> None:
    async with mesh_of(cluster, honest), hostile.connect(hello):
        await hostile.socket.send_bytes(hello)
        assert await hostile.close_code() == CloseReason.BAD_FRAME.value


async def test_a_peer_on_another_chain_may_come_back_at_once(
    cluster: Cluster, hostile: Hostile, honest: int, hello: bytes
) -> None:
    async with mesh_of(cluster, honest) as (_, observer):
        async with hostile.connect(hello_record(cluster, sorted_indexes(cluster)[0], chain_id=bytes(32))):
            assert await hostile.close_code() == CloseReason.WRONG_CHAIN.value
        async with hostile.connect(hello):
            await until(lambda: len(observer.log) == 1)


async def test_who_says_nothing_is_cut_off(
    cluster: Cluster, hostile: Hostile, honest: int, hello: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "HELLO_TIMEOUT_S", 0.1)
    monkeypatch.setattr(link_module, "SILENCE_S", 0.3)
    async with mesh_of(cluster, honest) as (mesh, _):
        async with hostile.connect():
            assert await hostile.close_code() == CloseReason.HANDSHAKE_TIMEOUT.value
        async with hostile.connect(hello):
            assert await hostile.close_code() == CloseReason.SILENT.value
        await until(lambda: mesh.counters.incidents["silent"] == 1)


async def test_a_connection_that_asks_for_nothing_is_cut_off(
    cluster: Cluster, hostile: Hostile, honest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_module, "GREETING_TIMEOUT_S", 0.1)
    address = cluster.config(honest).listen.peer
    async with mesh_of(cluster, honest) as (mesh, _):
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=hostile.context)
        assert await reader.read() == b""
        assert mesh.counters.incidents["handshake-timeout"] == 1
        writer.close()


async def test_unregistered_certificates_get_no_further_than_tls(cluster: Cluster, honest: int, tmp_path: Path) -> None:
    device, _ = make_keys("device-1", "ed25519", "device")
    registered, bundle = make_keys(cluster.names[sorted_indexes(cluster)[0]], "ed25519", "validator")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "tls.key").write_bytes((registered / "tls.key").read_bytes())
    certify(foreign, bundle, "another testbed")
    async with mesh_of(cluster, honest) as (mesh, observer):
        with pytest.raises((aiohttp.ClientError, OSError)):
            async with Hostile(cluster, honest, device).connect():
                pass
        assert mesh.counters.incidents["unknown-certificate"] >= 1, "the client may try twice"
        foreign_hostile = Hostile(cluster, honest, foreign)
        foreign_hostile.context.load_verify_locations(registered / "ca.crt")
        with pytest.raises((aiohttp.ClientError, OSError)):
            async with foreign_hostile.connect():
                pass
        await until(lambda: mesh.counters.incidents["tls-refused"] >= 1)
        assert observer.log == []


async def test_who_does_not_speak_mutual_tls_is_refused(cluster: Cluster, honest: int) -> None:
    refused = 0

    def more_refused() -> bool:
        return mesh.counters.incidents["tls-refused"] > refused

    address, keys = cluster.config(honest).listen.peer, cluster.config(honest).node.keys
    async with mesh_of(cluster, honest) as (mesh, _):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"GET /peer HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.read()
        writer.close()
        await until(more_refused)
        refused = mesh.counters.incidents["tls-refused"]
        with pytest.raises((aiohttp.ClientError, OSError)):
            async with aiohttp.ClientSession() as session:
                await session.get(f"https://{address}/peer", ssl=client_context(keys / "ca.crt"))
        await until(more_refused)
        refused = mesh.counters.incidents["tls-refused"]
        old = client_context(keys / "ca.crt")
        old.load_cert_chain(keys / "tls.crt", keys / "tls.key")
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((aiohttp.ClientError, OSError)):
            async with aiohttp.ClientSession() as session:
                await session.get(f"https://{address}/peer", ssl=old)
        await until(more_refused)


async def test_plain_http_requests_get_plain_answers(cluster: Cluster, hostile: Hostile, honest: int) -> None:
    async with mesh_of(cluster, honest):
        assert await hostile.status("/elsewhere") == 404
        assert await hostile.status("/peer") == 426


async def test_the_lower_id_dials(cluster: Cluster) -> None:
    lowest, _, highest = sorted_indexes(cluster)
    wrong_way = Hostile(cluster, lowest, cluster.config(highest).node.keys)
    async with mesh_of(cluster, lowest) as (mesh, _):
        assert await wrong_way.status() == 403
        assert await wrong_way.status() == 429
        assert mesh.counters.incidents["wrong-direction"] == 1


async def test_a_second_connection_replaces_the_first_but_not_endlessly(
    cluster: Cluster, hostile: Hostile, honest: int, hello: bytes
) -> None:
    second = Hostile(cluster, honest, cluster.config(sorted_indexes(cluster)[0]).node.keys)
    async with mesh_of(cluster, honest) as (_, observer), hostile.connect(hello):
        await until(lambda: len(observer.log) == 1)
        async with second.connect(hello):
            assert await hostile.close_code() == CloseReason.REPLACED.value
            await until(lambda: len(observer.log) == 3)
            assert [event for event, _ in observer.log] == ["connected", "disconnected", "connected"]
            await second.socket.send_bytes(encode_record(Kind.MESSAGE, encode_message(Votes((b"v",)))))
            await until(lambda: observer.messages() == [Votes((b"v",))])
        statuses = [await second.status() for _ in range(15)]
        assert 429 in statuses, "connecting again and again is limited"


async def test_a_flood_is_slowed_down_and_its_link_lives(
    cluster: Cluster, hostile: Hostile, honest: int, hello: bytes
) -> None:
    limits = LinkLimits(message_bytes=1 << 20, messages_per_s=200.0, burst_s=0.1)
    vote = encode_record(Kind.MESSAGE, encode_message(Votes((b"v",))))
    async with mesh_of(cluster, honest, limits=limits) as (mesh, observer), hostile.connect(hello):
        for _ in range(10):
            await hostile.socket.send_bytes(vote * 10)
        await until(lambda: mesh.counters.incidents["throttled"] > 0)
        await until(lambda: len(observer.messages()) == 100)
        assert len(observer.log) == 1


async def test_reading_stops_while_the_engine_has_no_room(
    cluster: Cluster, hostile: Hostile, honest: int, hello: bytes
) -> None:
    bulk = encode_record(Kind.MESSAGE, encode_message(Transactions((bytes(100_000),))))
    async with mesh_of(cluster, honest) as (_, observer), hostile.connect(hello):
        await until(lambda: len(observer.log) == 1)
        observer.open.clear()

        async def flood() -> None:
            for _ in range(400):
                await hostile.socket.send_bytes(bulk)

        flooding = asyncio.create_task(flood())
        await until(lambda: len(observer.messages()) == 1)
        await asyncio.sleep(0.3)
        assert not flooding.done(), "40 MB do not fit into the buffers on the way"
        assert len(observer.messages()) == 1
        observer.open.set()
        await flooding
        await until(lambda: len(observer.messages()) == 400)


async def test_a_peer_that_does_not_read_gets_no_bulk_and_then_no_link(
    cluster: Cluster, hostile: Hostile, honest: int, hello: bytes
) -> None:
    limits = LinkLimits(message_bytes=2 << 20, content_queue_bytes=4 << 20, urgent_queue_bytes=64 << 10)
    async with mesh_of(cluster, honest, limits=limits) as (mesh, observer):
        address = cluster.config(honest).listen.peer
        raw = socket.create_connection((address.host, address.port))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        _reader, writer = await _upgrade(raw, hostile.context, f"{address}")
        writer.write(_masked(hello))
        await until(lambda: len(observer.log) == 1)
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()
        for _ in range(200):
            mesh.broadcast(Transactions((bytes(1 << 20),)))
            await asyncio.sleep(0)
        assert mesh.counters.incidents["dropped-content"] > 100
        assert mesh.counters.phases["transactions"].sent_bytes < 40 << 20
        assert len(observer.log) == 1, "bulk is dropped, the link stays"
        while len(observer.log) == 1:
            mesh.broadcast(GetTransactions((bytes(32),) * 1000))
            await asyncio.sleep(0)
        assert mesh.counters.incidents["dropped-urgent"] >= 1
        await until(lambda: mesh.counters.incidents["queue-full"] == 1)
        writer.close()


async def test_strangers_are_few_and_keep_nobody_out(
    cluster: Cluster, hostile: Hostile, honest: int, hello: bytes
) -> None:
    address = cluster.config(honest).listen.peer
    async with mesh_of(cluster, honest) as (mesh, observer):
        idle = [
            await asyncio.to_thread(socket.create_connection, (address.host, address.port))
            for _ in range(mesh_module.MAX_STRANGERS + 20)
        ]
        await until(lambda: mesh.counters.incidents["too-many-strangers"] >= 20)
        async with hostile.connect(hello):
            await until(lambda: len(observer.log) == 1)
        for connection in idle:
            connection.close()


async def test_a_peer_that_never_greets_has_few_connections(cluster: Cluster, hostile: Hostile, honest: int) -> None:
    address = cluster.config(honest).listen.peer
    async with mesh_of(cluster, honest) as (mesh, _):
        writers = []
        for _ in range(mesh_module.MAX_UNGREETED + 2):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=hostile.context)
            writers.append((reader, writer))
        await until(lambda: mesh.counters.incidents["handshake-timeout"] == 2)
        for reader, _ in writers[:2]:
            assert await reader.read() == b"", "the oldest go first"
        for _, writer in writers:
            writer.close()


async def test_misbehaviour_found_by_the_engine_ends_the_link(
    cluster: Cluster, hostile: Hostile, honest: int, hello: bytes
) -> None:
    async with mesh_of(cluster, honest) as (mesh, observer), hostile.connect(hello):
        await until(lambda: len(observer.log) == 1)
        mesh.punish(id_of(cluster, sorted_indexes(cluster)[0]), "a block with a forged proof")
        assert await hostile.close_code() == CloseReason.MISBEHAVIOUR.value
        assert await hostile.status() == 429


async def _upgrade(
    connection: socket.socket, context: ssl.SSLContext, host: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Speak just enough HTTP to get a WebSocket whose reading can be stopped."""
    connection.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=connection, ssl=context, server_hostname="127.0.0.1")
    writer.write(
        f"GET /peer HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert b"101" in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def _masked(payload: bytes) -> bytes:
    """A binary WebSocket message of less than 126 bytes from a client."""
    mask = os.urandom(4)
    return bytes([0x82, 0x80 | len(payload)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
