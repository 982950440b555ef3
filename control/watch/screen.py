"""The loop of the watch: ask, draw, wait; in a terminal on a screen of its own, which is given back at the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

from rich.console import Console, RenderableType
from rich.live import Live

from control.inventory import read_deployment
from control.namespace import enter_namespace
from control.playbooks import control_namespace
from control.project import control_directory
from control.watch.poll import Poller
from control.watch.render import render
from control.watch.sweep import SweepWatch
from control.watch.view import ClusterView

__all__ = ["look_on", "look_once", "watch"]

_PIPE_WIDTH = 160


def watch(inventory: str, console: Console, *, interval_s: float, once: bool) -> None:
    """Watch the validators of an inventory until interrupted, or print one table of them.

    UsageError if nothing is deployed there, DeploymentFailed if its network namespace can't be entered.
    """
    namespace = control_namespace(inventory)
    deployment = read_deployment(control_directory(inventory) / "endpoints.json")
    enter_namespace(namespace)
    poller, sweep = Poller(deployment), SweepWatch(inventory)
    asyncio.run((look_once if once else look_on)(poller, sweep, console, interval_s))


async def look_once(poller: Poller, sweep: SweepWatch, console: Console, interval_s: float) -> None:
    """Print one table of two looks: rates are between them."""
    view = ClusterView(poller.names)
    async with poller:
        view.apply(await poller.ask(), time.monotonic())
        await asyncio.sleep(interval_s)
        view.apply(await poller.ask(), time.monotonic())
    width = console.width if console.is_terminal else _PIPE_WIDTH
    with console.capture() as captured:
        console.print(render(view.rows(), sweep.line(), interval_s=interval_s, width=width), width=width, crop=False)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=console.file)


async def look_on(poller: Poller, sweep: SweepWatch, console: Console, interval_s: float) -> None:
    """Draw until interrupted or told to end; the terminal is as it was then."""
    view = ClusterView(poller.names)
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)

    def draw() -> RenderableType:
        width, height = console.size
        return render(view.rows(), sweep.line(), interval_s=interval_s, width=width, height=height)

    with (
        contextlib.suppress(asyncio.CancelledError),
        Live(draw(), console=console, screen=True, auto_refresh=False) as live,
    ):
        async with poller:
            while True:
                view.apply(await poller.ask(), time.monotonic())
                live.update(draw(), refresh=True)
                await asyncio.sleep(interval_s)
