"""Running validators that stream: all of their points are in the server, and consensus does not care about it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from microchain.consensus.interface import AdmissionCode
from microchain.telemetry.line_protocol import parse_line
from microchain.telemetry.spool import read_complete_lines, spool_segments

from tests.api.contract import check_schema
from tests.cluster import Cluster, make_cluster, until
from tests.influx.servers import InfluxServer

_STATUS = "/paths/~1v1~1status/get/responses/200/content/application~1json/schema"


def stream_to(cluster: Cluster, url: str, *, org: str = "o", bucket: str = "b", token: str = "") -> None:
    """Give all configurations a section ``influx``."""
    (cluster.root / "influx.token").write_text(token)
    for index in range(len(cluster.names)):
        with cluster.config_path(index).open("a") as file:
            file.write(f'[influx]\nurl = "{url}"\norg = "{org}"\nbucket = "{bucket}"\n')
            file.write(f'token_file = "{cluster.root}/influx.token"\n')


def lines_of(cluster: Cluster) -> list[str]:
    """All lines of all spools."""
    segments = [path for index in range(4) for path in spool_segments(cluster.config(index).spool_path)]
    return [line for path in segments for line in read_complete_lines(path)[0].decode().splitlines()]


async def test_all_that_validators_experience_is_in_the_server(influx_server: InfluxServer, tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path / "cluster", 4)
    known = influx_server.connection
    stream_to(cluster, known.url, org=known.org, bucket=known.bucket, token=known.write_token)
    async with cluster.nodes() as nodes:
        for number in range(5):
            outcomes = await nodes[number % 4].submit([cluster.transaction(b"%d-%d" % (number, n)) for n in range(20)])
            assert {outcome.code for outcome in outcomes} == {AdmissionCode.ACCEPTED}
        await until(lambda: all(node.actions.finalized == 100 for node in nodes))
        await until(lambda: all(node.status()["telemetry"]["shipped"] > 0 for node in nodes))
        _, status = await cluster.request(0, "GET", "/v1/status")
        check_schema(_STATUS, status)
        assert status["telemetry"]["ship_error"] == ""
        metrics = nodes[0].metrics()
        assert metrics["telemetry_shipped_total"] > 0 and metrics["telemetry_shipping"] == 1
        assert metrics["telemetry_rejected_total"] == 0 and "telemetry_waiting_bytes" in metrics
    lines = lines_of(cluster)
    cursors = [json.loads((cluster.config(index).node.data / "shipper.json").read_bytes()) for index in range(4)]
    assert sum(cursor["shipped"] for cursor in cursors) == len(lines)
    assert all((cursor["rejected"], cursor["error"]) == (0, "") for cursor in cursors)
    assert await asyncio.to_thread(influx_server.count) == sum(len(parse_line(line).fields) for line in lines)


async def test_consensus_goes_on_while_the_server_hangs(tmp_path: Path) -> None:
    waiting: set[asyncio.StreamWriter] = set()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting.add(writer)
        while await reader.read(65536):
            pass
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        cluster = make_cluster(tmp_path, 4)
        stream_to(cluster, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with cluster.nodes() as nodes:
            await until(lambda: len(waiting) == 4)
            for number in range(10):
                await nodes[number % 4].submit([cluster.transaction(b"%d" % number)])
                await until(lambda number=number: all(n.actions.finalized == number + 1 for n in nodes))  # type: ignore[misc]
            telemetry = nodes[0].status()["telemetry"]
            assert telemetry["shipped"] == 0 and telemetry["waiting_bytes"] > 0
            # One is left to the node; the others only wait for it.
            await asyncio.gather(*(node.shipper.stop(0.1) for node in nodes[1:] if node.shipper))
    lines = lines_of(cluster)
    assert sum("closed=true" in line for line in lines) == 4, "every spool is whole"
    for index in range(4):
        saved = json.loads((cluster.config(index).node.data / "shipper.json").read_bytes())
        assert saved["error"] == "the node stopped before all was streamed"
