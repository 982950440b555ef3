"""Links between honest validators."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp.web
import pytest
from microchain.consensus.messages import Status, Transactions, Votes
from microchain.network.tls import load_tls_contexts

from tests.cluster import make_cluster, until
from tests.network.peers import id_of, mesh_of, sorted_indexes


async def test_two_validators_link_and_exchange_messages_of_any_size(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path, 2)
    big = Transactions((bytes(2_000_000), b"\x01" * 1_500_000))
    small = Votes((b"vote",))
    async with mesh_of(cluster, 0) as (first, seen_by_first), mesh_of(cluster, 1) as (second, seen_by_second):
        await until(lambda: len(seen_by_first.log) == len(seen_by_second.log) == 1)
        first.send(id_of(cluster, 1), big)
        first.broadcast(small)
        second.broadcast(big)
        second.send(id_of(cluster, 0), small)
        await until(lambda: len(seen_by_first.messages()) == len(seen_by_second.messages()) == 2)
        for observer in (seen_by_first, seen_by_second):
            assert sorted(observer.messages(), key=repr) == sorted([big, small], key=repr)
            assert observer.messages()[0] == small, "the vote did not wait for the bulk"
        for phase in ("voting", "transactions"):
            sent, received = first.counters.phases[phase], second.counters.phases[phase]
            assert (sent.sent_messages, sent.sent_bytes) == (received.received_messages, received.received_bytes)
            assert sent.sent_messages == 1
    assert [what for what, _ in seen_by_first.log] == ["connected", "disconnected"]


async def test_four_validators_make_one_link_for_each_pair(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path, 4)
    async with (
        mesh_of(cluster, 0) as a,
        mesh_of(cluster, 1) as b,
        mesh_of(cluster, 2) as c,
        mesh_of(cluster, 3) as d,
    ):
        await until(lambda: all(len(observer.log) == 3 for _, observer in (a, b, c, d)))
        status = Status(bytes(32), 0, bytes(32), 0, bytes(32), 0, b"")
        a[0].broadcast(status)
        await until(lambda: all(observer.messages() == [status] for _, observer in (b, c, d)))
        assert sum(mesh.counters.incidents.total() for mesh, _ in (a, b, c, d)) == 0


async def test_the_clock_offset_of_a_peer_is_measured_within_its_bound(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path, 2)
    ahead = 5_000_000_000
    async with mesh_of(cluster, 0) as (first, _), mesh_of(cluster, 1, shift_ns=ahead) as (second, _):
        await until(lambda: all(peer.offset for mesh in (first, second) for peer in mesh.peers()))
        for mesh, true_offset in ((first, ahead), (second, -ahead)):
            (peer,) = mesh.peers()
            assert peer.offset is not None
            assert abs(peer.offset.offset_ns - true_offset) <= peer.offset.bound_ns


async def test_a_validator_that_returns_is_linked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make_cluster(tmp_path, 2)
    for stays, leaves in (sorted_indexes(cluster), sorted_indexes(cluster)[::-1]):
        async with mesh_of(cluster, stays) as (_, observer):
            for life in (1, 2):
                async with mesh_of(cluster, leaves):
                    await until(lambda life=life: len(observer.log) == 2 * life - 1)  # type: ignore[misc]
                await until(lambda life=life: len(observer.log) == 2 * life)  # type: ignore[misc]
            assert [what for what, _ in observer.log] == ["connected", "disconnected"] * 2


async def test_a_message_that_no_peer_would_take_is_not_sent(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path, 2, parameters={"max_block_bytes": 65536, "max_tx_bytes": 1024})
    async with mesh_of(cluster, 0) as (first, seen), mesh_of(cluster, 1):
        await until(lambda: len(seen.log) == 1)
        first.broadcast(Transactions((bytes(5 << 20),)))
        assert first.counters.incidents["unsent-too-large"] == 1
        await asyncio.sleep(0.05)
        assert len(seen.log) == 1, "the link stays"


async def test_a_dialler_refuses_a_server_with_another_validators_certificate(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path, 3)
    honest, impostor, victim = sorted_indexes(cluster)
    greeted = False

    async def greet(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        nonlocal greeted
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            greeted = greeted or message.type is aiohttp.WSMsgType.BINARY
        return socket

    address = cluster.config(victim).listen.peer
    runner = aiohttp.web.ServerRunner(aiohttp.web.Server(greet))
    await runner.setup()
    tls = load_tls_contexts(cluster.config(impostor).node.keys).server
    await aiohttp.web.TCPSite(runner, address.host, address.port, ssl_context=tls).start()
    async with mesh_of(cluster, honest) as (mesh, observer):
        await until(lambda: mesh.counters.incidents["unknown-certificate"] > 0)
        assert observer.log == []
    await runner.cleanup()
    assert not greeted, "nothing is said to an impostor"


async def test_nothing_is_left_after_closing(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path, 2)

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def live_and_die() -> None:
        async with mesh_of(cluster, 0) as (_, observer), mesh_of(cluster, 1):
            await until(lambda: len(observer.log) == 1)

    await live_and_die()
    before = descriptors()
    for _ in range(3):
        await live_and_die()
    await until(lambda: descriptors() <= before)
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_an_address_in_use_is_an_error(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path, 2)
    async with mesh_of(cluster, 0):
        with pytest.raises(OSError, match="in use"):
            async with mesh_of(cluster, 0):
                pass
