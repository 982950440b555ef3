"""Every query of both dashboards, on real servers: each panel shows what is known of a cell made for it."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from control.influx.dashboard_files import VARIABLES, build_grafana, build_template, read_panels
from tests.influx.observed_cell import BLOCKS, CELL, OTHER_RUN, RUN, START, STOP, TRANSACTIONS, VALIDATORS, observe
from tests.influx.servers import InfluxServer

Rows = list[dict[str, Any]]
Seen = dict[tuple[str, ...], float]

ALL = "(all)"
NAMES = tuple(VALIDATORS)
PAIRS = [(name, peer) for name in NAMES for peer in NAMES if name != peer]
AHEAD = {"pi-1": 0.0, "pi-2": 0.003}


def for_each(names: tuple[str, ...], value: float) -> Seen:
    return {(name,): value for name in names}


LINES: dict[str, Seen] = {
    "heights": {
        (event, name): 14.0 if (event, name) == ("finalized", "validator-4") else 16.5
        for event in ("adopted", "finalized")
        for name in NAMES
    },
    "finality_lag": for_each(NAMES, 0.0),
    "throughput": for_each(NAMES, 5.0),
    "latency": {("p50",): 0.8, ("p90",): 0.8, ("p99",): 0.8},
    "block_timings": {("T_bp",): 0.04, ("T_cf",): 0.04, ("proposed to final",): 0.7},
    "pool_to_final": {(name,): 0.48 + 0.1 * index for index, name in enumerate(NAMES)},
    "messages_by_phase": {("voting",): 8.0, ("sync",): 0.0},
    "bytes_by_phase": {("voting",): 800.0, ("sync",): 0.0},
    "votes": {("sent",): 2.0, ("received",): 6.0},
    "process_cpu": for_each(NAMES, 30.0),
    "process_memory": for_each(NAMES, 60.0 * (1 << 20)),
    "board_cpu": {("pi-1",): 12.5, ("pi-2",): 62.5},
    "board_memory": {("pi-1",): 25.0, ("pi-2",): 25.0},
    "board_temperature": {("pi-1",): 48.0, ("pi-2",): 81.0},
    "board_throttled": {
        (host, field): float(host == "pi-2" and field in ("under_voltage_now", "throttled_now"))
        for host in ("pi-1", "pi-2")
        for field in ("under_voltage_now", "frequency_capped_now", "throttled_now", "temperature_limit_now")
    },
    "clock_offset": {(name, peer): AHEAD[VALIDATORS[peer]] - AHEAD[VALIDATORS[name]] for name, peer in PAIRS},
    "clock_bound": dict.fromkeys(PAIRS, 0.000529),
    "telemetry_points": for_each(NAMES, 8.0),
}
"""Of each panel with lines: the median of each line, told apart by the panel's labels."""

TOTALS = {"throughput": (4 * BLOCKS - 1) * TRANSACTIONS, "votes": 4 * 4 * BLOCKS}
"""Of panels that count: what all windows of 10 s together come to."""

STATS = {"final_height": 24, "final_transactions": 240, "largest_bound": 0.000558, "telemetry_dropped": 0}

BOARD = {"cpu_percent": 12.5, "load1": 1.5, "temperature_c": 48.0, "frequency_hz": 1.2e9, "throttled": 0.0}
TABLES: dict[str, tuple[str, dict[str, dict[str, float]]]] = {
    "latency_summary": ("percentile", {name: {"_value": 0.8} for name in ("p50", "p90", "p99", "max")}),
    "traffic_totals": (
        "phase",
        {
            "voting": dict.fromkeys(("sent_messages", "received_messages"), 4 * 8 * 58.0)
            | dict.fromkeys(("sent_bytes", "received_bytes"), 4 * 800 * 58.0),
            "sync": dict.fromkeys(("sent_messages", "received_messages", "sent_bytes", "received_bytes"), 0.0),
        },
    ),
    "boards": (
        "host",
        {"pi-1": BOARD, "pi-2": BOARD | {"cpu_percent": 62.5, "temperature_c": 81.0, "throttled": float(0x50005)}},
    ),
    "telemetry_spools": ("validator", {}),
}
"""Of each table: the column that names a row, and the numbers of each row."""


class Dashboard:
    """Asks a dashboard file's queries as the program does that the file is for."""

    def __init__(self, program: str, server: InfluxServer, window: str = "10s") -> None:
        self.server = server
        self.window = window
        self.stop = STOP
        self.chosen = {"run": RUN, "cell": CELL, "validator": ALL}
        self.panels: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        if program == "influxdb":
            *variables, board = build_template(server.connection.bucket)
            self.panels = {chart["name"]: chart["queries"][0]["query"] for chart in board["spec"]["charts"]}
            named = {one["spec"]["name"].removeprefix("microchain_"): one["spec"] for one in variables}
            self.variables = {name: named[name]["query"] for name in VARIABLES}
            self.ask = self._ask_as_influxdb
        else:
            board = build_grafana()
            self.panels = {panel["title"]: panel["targets"][0]["query"] for panel in board["panels"]}
            self.variables = {one["name"]: one["query"] for one in board["templating"]["list"][1:]}
            self.ask = self._ask_as_grafana

    def _ask_as_influxdb(self, query: str) -> Rows:
        """InfluxDB's page sends its variables as the option ``v``."""
        chosen = {"bucket": self.server.connection.bucket} | self.chosen
        quoted = ", ".join(f"microchain_{name}: {json.dumps(value)}" for name, value in chosen.items())
        times = f"timeRangeStart: {START}, timeRangeStop: {self.stop}, windowPeriod: {self.window}"
        return self.server.query(f"option v = {{{quoted}, {times}}}\n{query}")

    def _ask_as_grafana(self, query: str) -> Rows:
        """Grafana puts values into the text: its variables in the browser, the rest in the server."""
        text = re.sub(r"\$\{(\w+):json\}", lambda match: json.dumps(self.chosen[match[1]]), query)
        assert "$" not in text
        bucket = json.dumps(self.server.connection.bucket)
        values = {
            "timeRangeStart": START,
            "timeRangeStop": self.stop,
            "windowPeriod": self.window,
            "defaultBucket": bucket,
        }
        for name, value in values.items():
            text = text.replace(f"v.{name}", value)
        return self.server.query(text)


@pytest.fixture(params=["influxdb", "grafana"])
def program(request: pytest.FixtureRequest) -> str:
    """Whose file it is."""
    return str(request.param)


@pytest.fixture(scope="module")
def spools(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All lines of the cell."""
    return [lines.decode() for lines in observe(tmp_path_factory.mktemp("observed"))]


@pytest.fixture
def dashboard(program: str, influx_server: InfluxServer, spools: list[str]) -> Dashboard:
    """A dashboard over a server that holds the cell."""
    for lines in spools:
        influx_server.write(lines)
    return Dashboard(program, influx_server)


def medians(rows: Rows, labels: tuple[str, ...]) -> Seen:
    """The median of each line."""
    lines = defaultdict(list)
    for row in rows:
        assert row["_time"] is not None
        lines[tuple(row[label] for label in labels)].append(float(row["_value"]))
    return {line: statistics.median(values) for line, values in lines.items()}


def test_every_panel_shows_what_the_cell_was(dashboard: Dashboard) -> None:
    assert {panel.name for panel in read_panels()} == {*LINES, *STATS, *TABLES}
    for panel in read_panels():
        rows = dashboard.ask(dashboard.panels[panel.title])
        if panel.kind == "lines":
            seen = medians(rows, panel.labels)
            seen.pop(("client",), None)
            assert seen == pytest.approx(LINES[panel.name], rel=0.02), panel.name
            if panel.name in TOTALS:
                assert 10 * sum(row["_value"] for row in rows) == pytest.approx(TOTALS[panel.name]), panel.name
        elif panel.kind == "stat":
            (row,) = rows
            assert row["_value"] == pytest.approx(STATS[panel.name]), panel.name
        else:
            key, expected = TABLES[panel.name]
            table = {row[key]: {name: row[name] for name in expected.get(row[key], ())} for row in rows}
            for name, numbers in expected.items():
                assert table[name] == pytest.approx(numbers), (panel.name, name)
            if panel.name == "telemetry_spools":
                assert sorted(table) == sorted([*NAMES, "client"])
                assert {row["closed"] for row in rows} == {1}
                assert min(row["points"] for row in rows) > 500


def test_one_validator_can_be_looked_at(dashboard: Dashboard) -> None:
    dashboard.chosen["validator"] = "validator-2"
    titles = {panel.name: panel for panel in read_panels()}
    expected = {
        "throughput": {("validator-2",): 5.0},
        "latency": {("p50",): 0.6, ("p90",): 0.6, ("p99",): 0.6},
        "votes": {("sent",): 0.5, ("received",): 1.5},
        "process_cpu": {("validator-2",): 30.0},
        "board_cpu": {("pi-1",): 12.5},
        "clock_offset": {pair: LINES["clock_offset"][pair] for pair in PAIRS if pair[0] == "validator-2"},
    }
    for name, lines in expected.items():
        rows = dashboard.ask(dashboard.panels[titles[name].title])
        assert medians(rows, titles[name].labels) == pytest.approx(lines, rel=0.02), name


def test_variables_list_what_is_there(dashboard: Dashboard, tmp_path: Path) -> None:
    dashboard.server.write([lines.decode() for lines in observe(tmp_path, OTHER_RUN)])
    values = {name: [row["_value"] for row in dashboard.ask(query)] for name, query in dashboard.variables.items()}
    assert values == {"run": [RUN, OTHER_RUN], "cell": [CELL], "validator": [ALL, *NAMES]}


@pytest.mark.parametrize("program", ["influxdb"], indirect=True)
@pytest.mark.parametrize("stop", ["2026-01-02T03:04:00.700Z", "2026-01-02T03:04:02.430Z"])
def test_a_cell_that_has_just_begun_is_shown_as_far_as_it_is(dashboard: Dashboard, stop: str) -> None:
    """One point of each counter and nothing else; then a block that is not final on all."""
    dashboard.stop = stop
    panels = {panel.name: panel for panel in read_panels()}
    if dashboard.server.generation == "1.8":  # its Flux can't fill a column that is not there yet (docs/dashboards.md)
        del panels["finality_lag"]
    for panel in panels.values():
        rows = dashboard.ask(dashboard.panels[panel.title])
        if panel.name in ("final_height", "heights") and stop.startswith("2026-01-02T03:04:00"):
            assert rows == []
        elif panel.name in ("process_memory", "telemetry_spools"):
            assert len(rows) >= len(NAMES), panel.name


@pytest.mark.parametrize("program", ["influxdb"], indirect=True)
def test_where_there_is_nothing_no_panel_fails(dashboard: Dashboard) -> None:
    dashboard.chosen["cell"] = "another"
    for panel in read_panels():
        assert dashboard.ask(dashboard.panels[panel.title]) == [], panel.name
