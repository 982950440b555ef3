"""The load generator's clock: measured against fake and real validators, also ones whose clocks are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from microchain.client.load import now_ns
from microchain.client.node_client import NodeClient, NodeError
from microchain.telemetry.line_protocol import parse_line
from microchain.telemetry.recorder import CLIENT, Recorder
from microchain.telemetry.spool import Spool

from analysis import load
from analysis.timeline import build_timeline
from control.conductor.clocks import EXCHANGE_S, FIRST_EXCHANGES, ClockExchange
from control.inventory import Deployment, Endpoint
from tests.analysis.synthetic import write
from tests.cluster import Cluster, make_cluster
from tests.control.fake_nodes import FakeChain
from tests.wrong_clocks import Truth, write_hook

S = 10**9
INTERVAL_S = 0.05
WRONG = {"pi-1": (3 * S, 60.0), "pi-2": (-86_400 * S, -60.0)}
"""How far each host's clock is ahead (ns), and its drift (ppm)."""


def make_recorder(directory: Path) -> Recorder:
    return Recorder(Spool(directory), run="test", cell="test", validator=CLIENT, host="control")


def read_peers(recorder: Recorder, directory: Path) -> dict[str, list[tuple[int, int, int]]]:
    """Close the spool; the time, offset and bound of each peer point, by peer."""
    recorder.close(now_ns())
    found: dict[str, list[tuple[int, int, int]]] = {}
    for segment in sorted(directory.iterdir()):
        for line in segment.read_text().splitlines():
            point = parse_line(line)
            if point.measurement == "peer":
                fields = point.fields
                offset, bound = fields["offset_ns"], fields["bound_ns"]
                assert isinstance(offset, int) and isinstance(bound, int)
                found.setdefault(point.tags["peer"], []).append((point.time, offset, bound))
    return found


@asynccontextmanager
async def clients(chain: FakeChain) -> AsyncIterator[dict[str, NodeClient]]:
    async with AsyncExitStack() as stack:
        yield {node.name: await stack.enter_async_context(NodeClient(node.url)) for node in chain.nodes}


async def measure(exchange: ClockExchange, seconds: float) -> None:
    """Begin, keep measuring for a while, end."""
    await exchange.begin()
    task = asyncio.create_task(exchange.keep())
    await asyncio.sleep(seconds)
    exchange.end()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_other_hosts_are_measured_every_interval_and_this_one_once(tmp_path: Path) -> None:
    recorder = make_recorder(tmp_path)
    async with FakeChain(3).running() as chain, clients(chain) as nodes:
        chain.nodes[0].ahead_ns = 5 * S
        exchange = ClockExchange(nodes, recorder, INTERVAL_S, same_clock={"validator-3"})
        await measure(exchange, 4 * INTERVAL_S)
        assert [node.times_asked for node in chain.nodes] == [FIRST_EXCHANGES] * 3
    peers = read_peers(recorder, tmp_path)
    assert len(peers["validator-1"]) >= 3 and len(peers["validator-2"]) >= 3
    assert len(peers["validator-3"]) == 1
    for name, ahead in (("validator-1", 5 * S), ("validator-2", 0), ("validator-3", 0)):
        for _, offset, bound in peers[name]:
            assert abs(offset - ahead) <= bound + 1_000_000, "the fake reads the wall clock, which is adjusted"


async def test_a_validator_that_tells_no_time_fails_nothing_and_has_no_points(tmp_path: Path) -> None:
    recorder = make_recorder(tmp_path)
    async with FakeChain(2).running() as chain, clients(chain) as nodes:
        chain.nodes[0].timeless = True
        await measure(ClockExchange(nodes, recorder, INTERVAL_S), 2 * INTERVAL_S)
    assert set(read_peers(recorder, tmp_path)) == {"validator-2"}


@pytest.mark.parametrize("answer", [b"", b"{}", b"\xff", b'{"received_ns":-1,"sent_ns":1}', b'{"received_ns":1e300}'])
async def test_an_answer_that_is_no_time_is_a_node_error(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def rubbish(self: NodeClient, method: str, path: str) -> bytes:
        return answer

    monkeypatch.setattr(NodeClient, "_request", rubbish)
    with pytest.raises(NodeError, match="the answer is no time"):
        await NodeClient("http://127.0.0.1:1").exchange_time(now_ns)


@pytest.mark.parametrize(
    ("addresses", "host"),
    [
        (["192.0.2.1", "127.0.0.1"], "host-2"),
        (["localhost", "192.0.2.1"], "host-1"),
        (["192.0.2.1", "[::1]"], "host-2"),
        (["192.0.2.1", "a.host.invalid"], "control"),
        ([], "control"),
    ],
)
def test_the_load_generator_is_on_the_host_whose_address_is_this_machines(addresses: list[str], host: str) -> None:
    endpoints = tuple(
        Endpoint(name=f"v-{number}", host=f"host-{number}", api=f"https://{address}:9201")
        for number, address in enumerate(addresses, 1)
    )
    deployment = Deployment(ca="", token_file="", endpoints=endpoints, devices=())
    assert deployment.client_host() == host
    assert deployment.validators_on("host-1") == (frozenset({"v-1"}) if addresses else frozenset())


# --- real validators whose clocks are wrong ---


async def watch_clocks(cluster: Cluster, names: Sequence[str], recorder: Recorder, moments: list[int]) -> None:
    """Measure the clocks of running validators, and record a transaction now and then."""
    async with AsyncExitStack() as stack:
        nodes = {}
        for index, name in enumerate(names):
            config = cluster.config(index)
            client = NodeClient(f"https://{config.listen.api}", ca_file=config.node.keys / "ca.crt")
            nodes[name] = await stack.enter_async_context(client)
            await answers(client)
        exchange = ClockExchange(nodes, recorder, 0.2)
        task = asyncio.create_task(measure(exchange, 2.5 * EXCHANGE_S))
        for number in range(5):
            moments.append(now_ns())
            recorder.transactions("submitted", [bytes([number]) * 32], moments[-1])
            await asyncio.sleep(0.4 * EXCHANGE_S)
        await task


async def answers(client: NodeClient) -> None:
    """Wait until a validator listens."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.status()
                return
            except ConnectionError:
                await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Truth, Path, list[int]]]:
    """The truth; a run of two validators with wrong clocks and a load generator with the right one; its moments."""
    root = tmp_path_factory.mktemp("clocks")
    cluster, truth, hook = make_cluster(root / "cluster", 4), Truth(WRONG), write_hook(root / "hook")
    names = cluster.names[: len(WRONG)]
    cell = root / "run" / "cells" / "test"
    moments: list[int] = []
    recorder = make_recorder(cell / "client")
    try:
        for index, host in enumerate(WRONG):
            config = cluster.config_path(index)
            config.write_text(config.read_text().replace('host = "localhost"', f'host = "{host}"'))
        processes = [
            cluster.spawn(index, environment=truth.environment(host, hook)) for index, host in enumerate(WRONG)
        ]
        asyncio.run(watch_clocks(cluster, names, recorder, moments))
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
    finally:
        cluster.terminate()
    recorder.close(now_ns())
    for name in names:
        (cell / "nodes" / name).mkdir(parents=True)
        (cluster.root / name / "data" / "spool").rename(cell / "nodes" / name / "spool")
    workload = {"kind": "rounds", "rounds": 1, "transactions": 1, "transaction_bytes": 1024}
    document = {"id": "test", "run": "test", "validators": names, "parameters": {"max_block_bytes": 1 << 20}}
    write(cell / "cell.json", document | {"workload": workload, "telemetry": {"interval_s": 0.2}})
    yield truth, root / "run", moments


def test_each_measured_offset_is_within_its_bound_of_the_truth(measured: tuple[Truth, Path, list[int]]) -> None:
    truth, run, _ = measured
    peers = load(run).peers
    own = peers[peers["validator"] == CLIENT]
    for host, name in zip(WRONG, ("validator-1", "validator-2"), strict=True):
        samples = own[own["peer"] == name]
        assert len(samples) > 8
        for shown, offset, bound in zip(samples["time"], samples["offset_ns"], samples["bound_ns"], strict=True):
            # 20 µs: two readings of this machine's clocks are never made at once.
            error = abs(truth.shows(host, int(shown)) - int(shown) - int(offset))
            assert error <= bound + 20_000, (host, error, bound)


def test_the_load_generators_times_are_put_on_the_validators_clock(measured: tuple[Truth, Path, list[int]]) -> None:
    truth, directory, moments = measured
    run = load(directory)
    timeline = build_timeline(run, run.cells["test"])
    reference = timeline.clocks.reference
    assert reference in WRONG and timeline.unreachable == () and timeline.hosts[CLIENT] == "control"
    submitted = timeline.transactions[timeline.transactions["validator"] == CLIENT]
    assert len(submitted) == len(moments)
    expected = np.array([truth.shows(reference, moment) - timeline.origin for moment in moments], dtype=np.float64)
    error = np.abs(submitted.sort_values("time")["at"].to_numpy() - expected)
    assert (error <= submitted["bound"].to_numpy() + 20_000).all()
    assert submitted["bound"].max() < 50e6, "the bounds say something"
    wrong_by = np.abs(submitted["time"].to_numpy() - timeline.origin - expected)
    assert wrong_by.min() > 2e9, "without correction they would be off by seconds"
