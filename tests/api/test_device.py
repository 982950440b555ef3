"""The device client: readings of this host arrive at a node, and mistakes are explained."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from microchain.client.__main__ import main
from microchain.consensus.objects import decode_transaction

from tests.api.stand_in import SCHEME, TOKEN, StandInNode, signing_key, until


@pytest.fixture
def keys(tmp_path: Path, tls: Path) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir()
    (directory / "signing.pem").write_bytes(signing_key("device-1").to_pem())
    (directory / "token").write_text(TOKEN + "\n")
    (directory / "ca.crt").write_bytes((tls / "ca.crt").read_bytes())
    return directory


async def run(keys: Path, urls: Sequence[str], *more: str) -> int:
    """Run the command line in a thread (it has an event loop of its own); returns its exit status."""
    nodes = [part for url in urls for part in ("--node", url)]
    files = ["--ca", str(keys / "ca.crt"), "--token-file", str(keys / "token"), "--keys", str(keys)]
    return await asyncio.to_thread(main, [*nodes, *files, "--interval", "0.001", *more])


async def test_readings_of_this_host_are_accepted(
    url: str, keys: Path, node: StandInNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(keys, [url], "--count", "3", "--size", "900") == 0
    assert [len(raw) for raw in node.chain.pool.values()] == [900] * 3
    payload = json.loads(decode_transaction(next(iter(node.chain.pool.values()))).body.payload)
    assert payload["memory_total_bytes"] > 0
    assert len(re.findall(r"[0-9a-f]{16}  accepted after \d+ ms", capsys.readouterr().out)) == 3


async def test_device_waits_for_finality_when_asked(
    url: str, keys: Path, node: StandInNode, capsys: pytest.CaptureFixture[str]
) -> None:
    running = asyncio.create_task(run(keys, [url], "--count", "1", "--wait", "finalized"))
    await until(lambda: bool(node.chain.pool))
    node.make_block()
    await asyncio.sleep(0.1)
    assert not running.done()
    node.finalize()
    assert await running == 0
    assert "finalized at height 1" in capsys.readouterr().out


async def test_dead_node_is_passed_over(url: str, keys: Path, node: StandInNode, unused_tcp_port: int) -> None:
    assert await run(keys, [f"https://127.0.0.1:{unused_tcp_port}", url], "--count", "1") == 0
    assert len(node.chain.pool) == 1


async def test_refused_readings_show_in_the_exit_status(
    url: str, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (keys / "token").write_text("wrong")
    assert await run(keys, [url], "--count", "1") == 1
    assert "rejected: token_wrong" in capsys.readouterr().out


async def test_no_node_at_all(keys: Path, unused_tcp_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(keys, [f"https://127.0.0.1:{unused_tcp_port}"], "--count", "1") == 3
    assert "is the node running" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda keys: (keys / "signing.pem").unlink(), "signing.pem can't be read"),
        (lambda keys: (keys / "signing.pem").write_text("x"), "this chain signs with ed25519"),
        (lambda keys: (keys / "signing.pem").write_bytes(SCHEME.generate().to_pem()), "not registered on this chain"),
        (lambda keys: (keys / "token").unlink(), "token"),
        (lambda keys: (keys / "ca.crt").write_text("x"), "ca.crt"),
    ],
)
async def test_wrong_files_are_explained(
    url: str, keys: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], message: str
) -> None:
    spoil(keys)
    assert await run(keys, [url], "--count", "1") == 2
    assert message in capsys.readouterr().err


async def test_size_too_small_for_a_reading_is_explained(
    url: str, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(keys, [url], "--count", "1", "--size", "300") == 2
    assert "make the size larger" in capsys.readouterr().err


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "x"])
def test_impossible_intervals_are_refused(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--node", "u", "--token-file", "t", "--keys", "k", "--interval", interval])
    assert exit.value.code == 2
    assert "--interval" in capsys.readouterr().err
