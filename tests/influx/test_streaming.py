"""Streaming into real servers: whatever happens on the way, every point is there in the end, once."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from microchain.config import InfluxSection
from microchain.telemetry.spool import Spool

from tests.influx.servers import InfluxServer
from tests.telemetry.streaming import FIRST_NS, eventually, numbered, section, shipping, write_points


def section_of(server: InfluxServer, directory: Path, url: str = "") -> InfluxSection:
    """What a validator's configuration would say."""
    known = server.connection
    return section(url or known.url, directory, known.write_token, org=known.org, bucket=known.bucket)


def numbers_there(server: InfluxServer) -> tuple[int, int]:
    """Count and sum of the numbered points that the server has."""
    flux = (
        'from(bucket: "{bucket}") |> range(start: 0, stop: 2200-01-01T00:00:00Z)'
        ' |> filter(fn: (r) => r._measurement == "numbered") |> '
    )
    totals = [server.query(f"{flux}{function}()") for function in ("count", "sum")]
    count, total = (sum(int(row["_value"]) for row in rows) for rows in totals)
    return count, total


def all_of(count: int) -> tuple[int, int]:
    return count, count * (count - 1) // 2


async def test_an_outage_in_the_middle_costs_no_point(own_influx_server: InfluxServer, tmp_path: Path) -> None:
    server = own_influx_server
    spool = Spool(tmp_path / "spool", interval_s=0.01, segment_bytes=100_000)
    async with shipping(section_of(server, tmp_path), tmp_path, timeout_s=5) as shipper:
        for step in range(60):
            spool.append(numbered(step * 100, 100), 100)
            await asyncio.sleep(0.01)
            if step == 20:
                await eventually(lambda: shipper.state.shipped > 0)
                await asyncio.to_thread(server.kill)
            if step == 40:
                await eventually(lambda: bool(shipper.state.error))
                await asyncio.to_thread(server.start)
        spool.close()
    assert (shipper.state.shipped, shipper.state.waiting_bytes, shipper.state.error) == (6000, 0, "")
    assert await asyncio.to_thread(numbers_there, server) == all_of(6000)


@pytest.mark.parametrize("cursor", ["kept", "lost", "damaged"])
async def test_a_restart_goes_on_where_it_was_or_repeats_without_harm(
    influx_server: InfluxServer, tmp_path: Path, cursor: str
) -> None:
    influx = section_of(influx_server, tmp_path)
    write_points(tmp_path, 0, 7000, segment_bytes=200_000)
    async with shipping(influx, tmp_path, push_s=0) as shipper:
        await eventually(lambda: shipper.state.shipped > 0)
    first = shipper.state.shipped
    file = tmp_path / "shipper.json"
    if cursor == "lost":
        file.unlink()
    elif cursor == "damaged":
        file.write_bytes(file.read_bytes()[:-9])
    write_points(tmp_path, 7000, 500)
    async with shipping(influx, tmp_path) as again:
        pass
    assert again.state.shipped == 7500
    assert 0 < first < 7000, "it was stopped on its way"
    assert await asyncio.to_thread(numbers_there, influx_server) == all_of(7500)


@asynccontextmanager
async def slow_road(url: str, bytes_per_s: float) -> AsyncIterator[str]:
    """A TCP proxy to ``url`` through which little passes."""
    host, port = url.removeprefix("http://").split(":")
    roads: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, step: int) -> None:
        while data := await reader.read(step):
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(len(data) / bytes_per_s)
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        roads.add(task)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(carry(reader, far_writer, 256), carry(far_reader, writer, 4096))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            far_writer.transport.abort()

    proxy = await asyncio.start_server(pass_on, "127.0.0.1", 0, limit=1024)
    try:
        yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    finally:
        proxy.close()
        for road in roads:
            road.cancel()
        await asyncio.gather(*roads, return_exceptions=True)


async def test_a_server_too_slow_for_a_whole_batch_gets_smaller_ones(
    influx_server: InfluxServer, tmp_path: Path
) -> None:
    write_points(tmp_path, 0, 5000)
    slow = 0
    async with (
        slow_road(influx_server.connection.url, 30_000) as url,
        shipping(section_of(influx_server, tmp_path, url), tmp_path, timeout_s=0.4) as shipper,
    ):
        while shipper.state.waiting_bytes or not shipper.state.shipped:
            slow += "no answer" in shipper.state.error
            await asyncio.sleep(0.01)
    assert slow, "the first batch was too large for this road"
    assert (shipper.state.shipped, shipper.state.rejected) == (5000, 0)
    assert await asyncio.to_thread(numbers_there, influx_server) == all_of(5000)


async def test_one_bad_line_among_thousands_is_refused_alone(influx_server: InfluxServer, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", interval_s=0)
    conflict = f'numbered,run=test n="text" {FIRST_NS}\n'
    spool.append(numbered(0, 3210) + "this is no point\n" + numbered(3210, 1000) + conflict + numbered(4210, 790))
    spool.close()
    async with shipping(section_of(influx_server, tmp_path), tmp_path):
        pass
    async with shipping(section_of(influx_server, tmp_path), tmp_path) as shipper:
        assert await asyncio.to_thread(numbers_there, influx_server) == all_of(5000)
        await eventually(lambda: shipper.state.shipped > 0)
        assert (shipper.state.shipped, shipper.state.rejected, shipper.state.error) == (5000, 2, "")
    first, line, second, other = (tmp_path / "rejected.lp").read_text().splitlines()
    assert (line, other) == ("this is no point", conflict.strip())
    assert "unable to parse" in first and "field type conflict" in second


async def test_a_bucket_that_is_not_there_is_waited_for(influx_server: InfluxServer, tmp_path: Path) -> None:
    write_points(tmp_path, 0, 500)
    known = influx_server.connection
    wrong = section(known.url, tmp_path, known.admin_token, org=known.org, bucket="nowhere/autogen")
    async with shipping(wrong, tmp_path, push_s=5) as shipper:
        await eventually(lambda: "answered 404" in shipper.state.error)
        assert (shipper.state.shipped, shipper.state.rejected) == (0, 0)
        assert known.admin_token not in shipper.state.error


async def test_a_revoked_token_is_replaced_while_streaming(influx_server: InfluxServer, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", interval_s=0)
    influx = section_of(influx_server, tmp_path)
    async with shipping(influx, tmp_path) as shipper:
        spool.append(numbered(0, 1000))
        spool.flush()
        await eventually(lambda: shipper.state.shipped == 1000)
        await asyncio.to_thread(influx_server.revoke_write_token)
        spool.append(numbered(1000, 1000))
        spool.close()
        await eventually(lambda: "answered 401" in shipper.state.error)
        assert (shipper.state.shipped, shipper.state.rejected) == (1000, 0)
        await asyncio.to_thread(influx_server.renew_tokens)
        influx.token_file.write_text(influx_server.connection.write_token)
        await eventually(lambda: shipper.state.shipped == 2000)
    assert await asyncio.to_thread(numbers_there, influx_server) == all_of(2000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


async def test_a_full_disk_costs_the_cursor_but_no_point(
    influx_server: InfluxServer, tmp_path: Path, small_disk: Path
) -> None:
    spool = Spool(tmp_path / "spool", interval_s=0)
    spool.append(numbered(0, 3000) + "no point\n")
    spool.flush()
    (small_disk / "spool").symlink_to(tmp_path / "spool")
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    influx = section_of(influx_server, tmp_path)
    async with shipping(influx, small_disk) as shipper:
        await eventually(lambda: shipper.state.rejected == 1)
        assert (shipper.state.shipped, shipper.state.error) == (3000, "")
        cursor = small_disk / "shipper.json"
        assert not cursor.exists() or not cursor.stat().st_size
    async with shipping(influx, small_disk) as again:
        await eventually(lambda: again.state.rejected == 1)
        assert again.state.shipped == 3000, "repeated"
        filler.unlink()
        spool.append(numbered(3000, 10))
        spool.close()
    assert await asyncio.to_thread(numbers_there, influx_server) == all_of(3010)
    assert b'"rejected":1' in cursor.read_bytes()
