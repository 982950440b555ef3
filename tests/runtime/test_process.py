"""`microchain-node run` as a process: signals, exit codes, what it says."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from microchain.cli import main
from microchain.telemetry.spool import spool_segments

from tests.cluster import Cluster, certify, make_cluster, make_keys


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = make_cluster(tmp_path, 1)
    yield cluster
    cluster.terminate()


@pytest.fixture
def refused(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, str]]:
    """Returns exit code and output of a node that should not start."""

    def run() -> tuple[int, str]:
        code = main(["run", "--config", str(cluster.config_path(0))])
        return code, capsys.readouterr().err

    return run


Refused = Callable[[], tuple[int, str]]


def change_config(cluster: Cluster, old: str, new: str) -> None:
    text = cluster.config_path(0).read_text()
    assert old in text
    cluster.config_path(0).write_text(text.replace(old, new))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_cleanly(cluster: Cluster, number: signal.Signals) -> None:
    process = cluster.spawn(0)
    await cluster.wait_ready(0)
    process.send_signal(number)
    assert await asyncio.to_thread(process.wait, 20) == 0
    log = cluster.log(0).read_text()
    assert "validator-1 on chain" in log and number.name in log and log.endswith("INFO stopped\n")
    assert "Traceback" not in log and "Exception" not in log
    assert "closed=true" in spool_segments(cluster.config(0).spool_path)[-1].read_text()
    assert not cluster.config(0).ledger_path.with_name("ledger.db-wal").exists(), "the ledger was closed"


async def test_the_service_manager_is_told(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(30)
        process = cluster.spawn(0, environment={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"})
        states: list[bytes] = []
        while states.count(b"WATCHDOG=1") < 3 or b"READY=1" not in states:
            states.append(await asyncio.to_thread(manager.recv, 100))
        assert (await cluster.request(0, "GET", "/v1/health"))[0] == 200, "it is ready when it says so"
        process.terminate()
        while states[-1] != b"STOPPING=1":
            states.append(await asyncio.to_thread(manager.recv, 100))
    assert await asyncio.to_thread(process.wait, 20) == 0


def test_a_port_in_use_is_exit_code_3_and_one_sentence(cluster: Cluster) -> None:
    address = cluster.config(0).listen.api
    with socket.create_server((address.host, address.port)):
        assert cluster.spawn(0).wait(timeout=30) == 3
    sentence = f"microchain-node: cannot listen on {address} (listen.api): {os.strerror(errno.EADDRINUSE)}\n"
    assert cluster.log(0).read_text() == sentence


def make_keys_copy(cluster: Cluster, tmp_path: Path) -> Path:
    """Give the node a key directory of its own that a test may damage."""
    keys = cluster.config(0).node.keys
    copy = tmp_path / "keys"
    shutil.copytree(keys, copy)
    change_config(cluster, f'keys = "{keys}"', f'keys = "{copy}"')
    return copy


@pytest.mark.parametrize("missing", ["ca.crt", "tls.crt", "tls.key", "signing.pem", "vrf.key"])
def test_a_missing_key_file_is_exit_code_2_and_one_sentence(
    cluster: Cluster, tmp_path: Path, refused: Refused, missing: str
) -> None:
    (make_keys_copy(cluster, tmp_path) / missing).unlink()
    code, output = refused()
    assert code == 2
    assert missing in output and len(output.splitlines()) == 1


def test_certificates_that_do_not_fit_are_exit_code_2(cluster: Cluster, tmp_path: Path, refused: Refused) -> None:
    keys = make_keys_copy(cluster, tmp_path)
    other, bundle = make_keys("validator-9", "ed25519", "validator")
    shutil.copy(other / "tls.crt", keys / "tls.crt")
    code, output = refused()
    assert code == 2 and "is tls.crt for this tls.key?" in output
    shutil.copy(other / "tls.key", keys / "tls.key")
    certify(keys, bundle)
    code, output = refused()
    assert code == 2 and "deploy again" in output.splitlines()[-1]


def test_a_genesis_without_this_node_is_exit_code_2(cluster: Cluster, tmp_path: Path, refused: Refused) -> None:
    genesis = cluster.config(0).node.genesis
    other = make_cluster(tmp_path / "other", 2)
    other.config(0).node.genesis.replace(genesis)
    change_config(cluster, 'name = "validator-1"', 'name = "validator-2"')
    code, output = refused()
    assert code == 2 and "is validator-1's" in output.splitlines()[-1]
    change_config(
        cluster,
        str(make_keys("validator-1", "ed25519", "validator")[0]),
        str(make_keys("validator-9", "ed25519", "validator")[0]),
    )
    code, output = refused()
    assert code == 2 and "lists no validator with the key" in output.splitlines()[-1]
    genesis.unlink()
    code, output = refused()
    assert code == 2 and "genesis.json" in output.splitlines()[-1]


def test_a_token_is_needed(cluster: Cluster, refused: Refused) -> None:
    cluster.config(0).api.token_file.write_text("\n")
    code, output = refused()
    assert code == 2 and "is empty" in output
    cluster.config(0).api.token_file.unlink()
    code, output = refused()
    assert code == 2 and "token" in output.splitlines()[-1]


def test_a_damaged_ledger_is_exit_code_4_and_one_sentence(cluster: Cluster, refused: Refused) -> None:
    cluster.config(0).ledger_path.write_bytes(b"this is no ledger" * 1000)
    code, output = refused()
    assert code == 4
    assert "ledger.db" in output and len(output.splitlines()) == 1


async def test_two_processes_never_share_a_ledger(cluster: Cluster) -> None:
    first = cluster.spawn(0)
    await cluster.wait_ready(0)
    second: subprocess.Popen[bytes] = cluster.spawn(0)
    assert await asyncio.to_thread(second.wait, 30) == 4
    first.terminate()
    assert await asyncio.to_thread(first.wait, 20) == 0
