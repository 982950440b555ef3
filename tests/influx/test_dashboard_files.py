"""The two dashboard files: made from one source, whole, and such as their programs can take."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from control.influx.dashboard_files import (
    GRAFANA,
    TEMPLATE,
    VARIABLES,
    build_grafana,
    build_template,
    read_panels,
    read_query,
    write_files,
)

PANELS = read_panels()
QUERIES = TEMPLATE.parent / "queries"


def test_the_files_are_made_from_their_source(tmp_path: Path) -> None:
    write_files(tmp_path)
    for file in (TEMPLATE, GRAFANA):
        made = (tmp_path / file.name).read_bytes()
        assert file.read_bytes() == made, "run: .venv/bin/python -m control.influx.dashboard_files"


def test_every_query_has_its_place() -> None:
    used = [panel.name for panel in PANELS] + [f"variable_{name}" for name in VARIABLES]
    assert sorted(used) == sorted(path.stem for path in QUERIES.glob("*.flux"))
    assert len({panel.title for panel in PANELS}) == len(PANELS)


@pytest.mark.parametrize("name", [panel.name for panel in PANELS])
def test_a_query_reads_one_cell_of_one_run_and_no_more(name: str) -> None:
    """The server's index finds the series before anything is read."""
    query = read_query(name)
    sources = query.split("from(bucket: v.bucket)")[1:]
    assert len(sources) == 1
    steps = [line.strip() for line in sources[0].strip().splitlines()]
    assert steps[0] == "|> range(start: v.timeRangeStart, stop: v.timeRangeStop)"
    assert steps[1] == "|> filter(fn: (r) => r.run == v.run and r.cell == v.cell)"
    assert "$" not in query


def boxes(panels: list[dict[str, int]]) -> list[set[tuple[int, int]]]:
    """The cells of the grid that each panel covers."""
    return [{(x, y) for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])} for p in panels]


def test_the_template_is_whole() -> None:
    *variables, board = build_template("some bucket")
    assert {one["kind"] for one in variables} == {"Variable"}
    names = {one["spec"]["name"] for one in variables}
    assert variables[0]["spec"]["values"] == ["some bucket"]
    charts = board["spec"]["charts"]
    assert [chart["name"] for chart in charts] == [panel.title for panel in PANELS]
    known = names | {"timeRangeStart", "timeRangeStop", "windowPeriod"}
    queries = [chart["queries"][0]["query"] for chart in charts] + [one["spec"].get("query", "") for one in variables]
    for query in queries:
        assert set(re.findall(r"\bv\.(\w+)", query)) <= known
    places = [{"x": chart["xPos"], "y": chart["yPos"], "w": chart["width"], "h": chart["height"]} for chart in charts]
    assert max(place["x"] + place["w"] for place in places) == 12
    assert not any(one & other for one, other in itertools.combinations(boxes(places), 2))


def test_the_grafana_dashboard_is_whole() -> None:
    board = build_grafana()
    assert board["schemaVersion"] >= 36  # data sources are named by type and uid since
    panels: list[dict[str, Any]] = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == len(PANELS)
    source, *variables = board["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "influxdb")
    reference = {"type": "influxdb", "uid": f"${{{source['name']}}}"}
    for panel in panels:
        (target,) = panel["targets"]
        assert panel["datasource"] == target["datasource"] == reference
        assert target["refId"] == "A"
        assert panel["type"] in ("timeseries", "stat", "table")
        assert set(re.findall(r"\$\{(\w+):json\}", target["query"])) <= set(VARIABLES)
        assert set(re.findall(r"\bv\.(\w+)", target["query"])) <= {
            "timeRangeStart",
            "timeRangeStop",
            "windowPeriod",
            "defaultBucket",
        }
    assert [one["name"] for one in variables] == list(VARIABLES)
    assert all(one["datasource"] == reference and "${" not in one["query"].split("filter")[0] for one in variables)
    places = [panel["gridPos"] for panel in panels]
    assert max(place["x"] + place["w"] for place in places) == 24
    assert not any(one & other for one, other in itertools.combinations(boxes(places), 2))


def test_a_value_that_holds_quotes_stays_one_string() -> None:
    """Run directories have any names; Grafana puts them in as JSON, whose quoting Flux shares."""
    for panel in build_grafana()["panels"]:
        assert not re.search(r"\$\{\w+\}", panel["targets"][0]["query"])
