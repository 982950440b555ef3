"""`./testbed watch`: what is shown of validators and of a run, what can't be said, and what a hostile answer may do."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from rich.console import Console

from control.cli import main
from control.inventory import Deployment, Endpoint
from control.project import ROOT
from control.watch.poll import Poller
from control.watch.render import render
from control.watch.screen import look_once
from control.watch.status import Away, Sample, Status
from control.watch.sweep import SweepWatch
from control.watch.view import ClusterView, Lag, Row
from tests.cluster import make_cluster, until

NAMES = ("pi01", "pi02", "pi03", "pi04")
STATUS: dict[str, Any] = {
    "chain_id": "a" * 64, "ready": True, "syncing": False, "observing": False, "head": {"height": 12},
    "finalized": {"height": 10}, "rss_bytes": 84_000_000, "cpu_s": 3.0, "finalized_transactions_total": 500,
    "peers": [{"connected": True, "bound_ns": 400_000}, {"connected": True, "bound_ns": 1_250_000},
              {"connected": False, "bound_ns": 9_000_000_000}],
    "board": {"cpu_percent": 41.0, "temperature_c": 58.2},
}  # fmt: skip


def sample(at: float, **changes: Any) -> Sample:
    return Sample(at, msgspec.convert(STATUS | changes, Status))


def view_of(*polls: tuple[float, dict[str, Sample | Away]]) -> ClusterView:
    view = ClusterView(NAMES[: len(polls[0][1])])
    for now, answers in polls:
        view.apply(answers, now)
    return view


def text_of(rows: list[Row], width: int = 80, height: int | None = None, sweep: str = "no run") -> list[str]:
    console = Console(file=io.StringIO(), record=True, width=width)
    console.print(render(rows, sweep, interval_s=2, width=width, height=height))
    return console.export_text().splitlines()


def test_rates_are_between_looks_and_unknown_before_the_second() -> None:
    first = {"pi01": sample(100)}
    (row,) = view_of((100, dict(first))).rows()
    assert (row.rate, row.cpu_percent) == (None, None)
    second = {"pi01": sample(104, finalized_transactions_total=900, cpu_s=5.0)}
    (row,) = view_of((100, dict(first)), (104, dict(second))).rows()
    assert (row.rate, row.cpu_percent) == (100, 50)
    assert (row.height, row.memory_bytes, row.temperature_c, row.board_cpu_percent) == (12, 84_000_000, 58.2, 41)
    assert (row.connected, row.peers, row.clock_bound_ns) == (2, 3, 1_250_000)


@pytest.mark.parametrize(
    "changes",
    [{"chain_id": "b" * 64}, {"cpu_s": 0.1}, {"finalized_transactions_total": 3}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_node_that_began_anew_has_no_rate_yet(changes: dict[str, Any]) -> None:
    (row,) = view_of((100, {"pi01": sample(100)}), (102, {"pi01": sample(102, **changes)})).rows()
    assert row.rate is None


def test_rates_are_of_the_last_seconds_and_few_samples_are_kept() -> None:
    view = ClusterView(["pi01"])
    for second in range(10_000):
        view.apply({"pi01": sample(second, finalized_transactions_total=second**2)}, second)
    (row,) = view.rows()
    assert row.rate == pytest.approx(2 * 9994, rel=1e-3)
    assert len(view._samples["pi01"]) <= 12


def test_the_lag_is_behind_the_greatest_head_and_as_old_as_its_first_block_has_been_seen() -> None:
    def poll(at: float, head: int, final: int) -> tuple[float, dict[str, Sample | Away]]:
        stuck = sample(at, head={"height": min(head, 11)}, finalized={"height": 10})
        return at, {"pi01": sample(at, head={"height": head}, finalized={"height": final}), "pi02": stuck}

    well, stuck = view_of(poll(100, 11, 11), poll(102, 12, 11), poll(104, 14, 12)).rows()
    assert well.lag == Lag(2, 0)
    assert stuck.lag == Lag(4, 4, at_least=True)  # block 11 was there when the watch began
    well, stuck = view_of(poll(100, 10, 10), poll(102, 11, 10), poll(109, 12, 10)).rows()
    assert stuck.lag == Lag(2, 7)
    assert view_of((1, {"pi01": sample(1, finalized={"height": 12})})).rows()[0].lag == Lag(0, 0)


def test_a_validator_on_another_chain_says_so_and_has_no_lag() -> None:
    polls = {name: sample(1) for name in NAMES[:2]} | {"pi03": sample(1, chain_id="b" * 64, head={"height": 10**9})}
    rows = view_of((1, dict(polls))).rows()
    assert rows[2].lag is None and "another chain" in rows[2].notes
    assert rows[0].lag is not None and rows[0].lag.blocks == 2


def test_a_head_beyond_all_reason_takes_no_memory() -> None:
    view = view_of((1, {"pi01": sample(1, head={"height": 2**53}), "pi02": sample(1)}))
    assert len(view._seen) <= 4096
    assert [row.lag.blocks for row in view.rows() if row.lag] == [2**53 - 10] * 2


def test_eighty_columns_hold_everything() -> None:
    polls = {name: sample(100) for name in NAMES[:3]} | {"desktop-12": Away("Connection refused")}
    later = {name: sample(102, finalized_transactions_total=1500, cpu_s=4) for name in NAMES[:3]}
    view = ClusterView([*NAMES[:3], "desktop-12"])
    view.apply(dict(polls), 100)
    view.apply({**later, "desktop-12": Away("Connection refused")}, 102)
    lines = text_of(view.rows())
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == ["validator", "height", "lag", "tx/s", "CPU", "%", "MB", "°C", "peers", "clock", "±"]
    assert lines[3].split() == ["pi01", "12", "2", "≥2", "s", "500.0", "50", "84", "58", "2/3", "1.25", "ms"]
    assert lines[6].split() == ["desktop-12", "away"]
    assert lines[7].strip() == "desktop-12: nobody listens; validators run only while a cell does"


def test_what_is_not_known_is_a_dash_and_never_a_number() -> None:
    nothing = sample(1, board={}, peers=[], finalized={"height": 12})
    lines = text_of(view_of((1, {"pi01": nothing})).rows())
    assert lines[3].split() == ["pi01", "12", "0", "—", "—", "84", "—", "0/0", "—"]


def test_a_wide_screen_shows_the_hosts_load_and_what_ails_a_board() -> None:
    board = STATUS["board"] | {"under_voltage_now": True, "throttled_now": True}
    lines = text_of(view_of((1, {"pi01": sample(1, board=board, ready=False)})).rows(), width=120)
    assert "41" in lines[3].split()
    assert lines[3].strip().endswith("not ready, under voltage, throttled")


def test_reasons_are_told_once_with_who_and_can_do_nothing_to_the_terminal() -> None:
    polls: dict[str, Sample | Away] = {name: Away("\x1b[31mNo route to host\r\n[bold]x") for name in NAMES[:2]}
    lines = text_of(view_of((1, {**polls, "pi03": Away("its certificate is not trusted")})).rows())
    assert lines[-2].startswith("pi01 and 1 more: No route to host\ufffd\ufffd[bold]x")
    assert lines[-1].strip() == "pi03: its certificate is not trusted"


def test_a_low_screen_counts_what_it_has_no_place_for_and_keeps_those_that_answer() -> None:
    polls: dict[str, Sample | Away] = {f"pi{n:02d}": sample(1) if n > 8 else Away("gone") for n in range(1, 17)}
    view = ClusterView(list(polls))
    view.apply(polls, 1)
    lines = text_of(view.rows(), height=12)
    assert len(lines) == 12
    assert [line.split()[0] for line in lines[3:10]] == [f"pi{n:02d}" for n in range(9, 16)]
    assert "and 9 more" in lines[10]


async def test_real_validators_tell_how_they_are_and_one_that_died_is_told(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path, 4, parameters={"propose": "pool"})
    async with cluster.nodes() as nodes:
        async with Poller(deployment_of(cluster)) as poller:
            view = ClusterView(poller.names)
            view.apply(await poller.ask(), time.monotonic())
            await nodes[0].submit([cluster.transaction(b"hello")])
            await until(lambda: all(node.status()["finalized_transactions_total"] for node in nodes))
            view.apply(await poller.ask(), time.monotonic())
            rows = view.rows()
            assert [row.away for row in rows] == [""] * 4
            assert all(row.rate and row.height and row.memory_bytes for row in rows)
            assert [(row.connected, row.peers) for row in rows] == [(3, 3)] * 4
            await nodes[3].stop()
            view.apply(await poller.ask(), time.monotonic())
            assert view.rows()[3] == Row("validator-4", away="Connection refused")
            assert view.rows()[0].away == ""
        output = io.StringIO()
        await look_once(Poller(deployment_of(cluster)), SweepWatch("local", tmp_path), Console(file=output), 0.1)
    lines = output.getvalue().splitlines()
    assert lines == [line.rstrip() for line in lines]
    assert lines[0] == "no experiment ran here yet"
    assert lines[3].split()[0] == "validator-1" and lines[6].split() == ["validator-4", "away"]


def deployment_of(cluster: Any) -> Deployment:
    configs = [cluster.config(index) for index in range(len(cluster.names))]
    endpoints = tuple(
        Endpoint(name=name, host="local", api=f"https://{config.listen.api}")
        for name, config in zip(cluster.names, configs, strict=True)
    )
    return Deployment(ca=str(configs[0].node.keys / "ca.crt"), token_file="", endpoints=endpoints, devices=())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"<html>", "not_the_api"),
        (b"{}", "its status makes no sense"),
        (msgspec.json.encode(STATUS | {"cpu_s": 1e300}), "its status makes no sense"),
        (msgspec.json.encode(STATUS | {"peers": [{"connected": True}] * 20_000}), "its status makes no sense"),
        (b'{"name": "' + b"x" * (2 << 20) + b'"}', "larger than 1048576 bytes"),
        (b"[" * 100_000, "not_the_api"),
    ],
)
async def test_hostile_answers_are_reasons(answer: bytes, told: str) -> None:
    async with serving(answer) as url:
        endpoint = Endpoint(name="pi01", host="pi01", api=url)
        async with Poller(Deployment(ca="", token_file="", endpoints=(endpoint,), devices=())) as poller:
            said = (await poller.ask())["pi01"]
    assert isinstance(said, Away) and told in said.reason


@asynccontextmanager
async def serving(answer: bytes) -> AsyncIterator[str]:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=answer)

    app = web.Application()
    app.router.add_get("/v1/status", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


_WATCHER = """
import asyncio, sys
from pathlib import Path
from rich.console import Console
from control.inventory import Deployment, Endpoint
from control.watch.poll import Poller
from control.watch.screen import look_on
from control.watch.sweep import SweepWatch
endpoint = Endpoint(name="pi01", host="pi01", api="http://127.0.0.1:1")
poller = Poller(Deployment(ca="", token_file="", endpoints=(endpoint,), devices=()))
asyncio.run(look_on(poller, SweepWatch("local", Path(sys.argv[1])), Console(), 0.5))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_terminal_is_as_it_was_when_the_watch_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-c", _WATCHER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        shown = b""
        while b"nobody listens" not in shown:
            shown += os.read(ours, 65536)
        process.send_signal(number)
        assert process.wait() == 0
    after = termios.tcgetattr(theirs)
    os.close(theirs)
    with contextlib.suppress(OSError):  # Linux says so at the end
        while data := os.read(ours, 65536):
            shown += data
    os.close(ours)
    assert after == before
    assert b"Traceback" not in shown
    for on, off in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h")):
        assert 0 <= shown.find(on) < shown.rfind(off)


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "1e9"])
def test_an_interval_that_makes_no_sense_is_refused(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", f"--interval={interval}"]) == 2
    assert "give 0.5 to 3600 seconds" in capsys.readouterr().err
