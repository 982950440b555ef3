"""Makes the two dashboard files from one source: an InfluxDB 2.x template and a Grafana dashboard.

The source is ``playbooks/roles/dashboards/files/``: ``panels.yml`` says what is shown, ``queries/NAME.flux`` how it is
asked for. Queries name their variables as InfluxDB does (``v.run``); each file gets the form that its program knows.
``python -m control.influx.dashboard_files`` writes both files; a test holds them equal to their source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from control.project import ROOT

__all__ = [
    "GRAFANA",
    "TEMPLATE",
    "TITLE",
    "VARIABLES",
    "Panel",
    "build_grafana",
    "build_template",
    "read_panels",
    "read_query",
    "render",
    "write_files",
]

_FILES = ROOT / "playbooks" / "roles" / "dashboards" / "files"
TEMPLATE = _FILES / "influxdb.json"
GRAFANA = _FILES / "grafana.json"

TITLE = "Microchain testbed"
VARIABLES = ("run", "cell", "validator")
"""What a dashboard lets choose, in order: each one's values depend on those before it."""

_PREFIX = "microchain_"
"""Of variables in InfluxDB, where they belong to the organisation and a plain name could be somebody else's."""
_DEFAULT_BUCKET = "microchain"
_COLUMNS = 12
_ROWS = 3
_SERIES_COLOURS = ("#31C0F6", "#A500A5", "#FF7E27")
_TEXT_COLOUR, _ALARM_COLOUR = "#00C9FF", "#DC4E58"


class Panel(Struct, frozen=True, forbid_unknown_fields=True):
    """One panel of both dashboards; ``labels`` are the columns that tell its lines apart, ``width`` is in twelfths."""

    name: str
    title: str
    kind: Literal["lines", "stat", "table"]
    width: int
    description: str
    unit: Literal["", "seconds", "percent", "bytes", "bytes_per_second", "per_second", "celsius"] = ""
    labels: tuple[str, ...] = ()
    alarm: float | None = None
    """From this value on a stat is red."""


class _Place(Struct, frozen=True):
    """Where a panel stands: columns of 12, rows of about 80 px."""

    x: int
    y: int
    width: int
    height: int


_SUFFIXES = {
    "": "",
    "seconds": " s",
    "percent": " %",
    "bytes": "B",
    "bytes_per_second": "B/s",
    "per_second": " /s",
    "celsius": " °C",
}
_GRAFANA_UNITS = {
    "": "none",
    "seconds": "s",
    "percent": "percent",
    "bytes": "bytes",
    "bytes_per_second": "Bps",
    "per_second": "cps",
    "celsius": "celsius",
}


def read_panels() -> list[Panel]:
    """Return all panels in reading order; msgspec.ValidationError if panels.yml is not what Panel says."""
    return msgspec.yaml.decode((_FILES / "panels.yml").read_bytes(), type=list[Panel])


def read_query(name: str) -> str:
    """Return a query's source text."""
    return (_FILES / "queries" / f"{name}.flux").read_text()


def build_template(bucket: str = _DEFAULT_BUCKET) -> list[dict[str, Any]]:
    """Return the InfluxDB template (the format of ``/api/v2/templates/apply``) for a server's bucket."""
    panels = read_panels()
    charts = [_chart(panel, place) for panel, place in zip(panels, _places(panels), strict=True)]
    constant = {"type": "constant", "values": [bucket], "selected": [bucket]}
    documents = [_object("Variable", _PREFIX + "bucket", constant | {"description": "Where the testbed's points are"})]
    for name in VARIABLES:
        query = {"type": "query", "language": "flux", "query": _influx_query(f"variable_{name}")}
        documents.append(_object("Variable", _PREFIX + name, query | {"description": f"The {name} that is shown"}))
    description = "Consensus, traffic, boards, clocks and telemetry of one cell of a run"
    documents.append(_object("Dashboard", TITLE, {"description": description, "charts": charts}))
    return documents


def build_grafana() -> dict[str, Any]:
    """Return the Grafana dashboard; its data source (InfluxDB with Flux) is chosen by a variable."""
    panels = read_panels()
    shown = [
        _grafana_panel(number, panel, place)
        for number, (panel, place) in enumerate(zip(panels, _places(panels), strict=True), 1)
    ]
    source = {"name": "datasource", "label": "data source", "type": "datasource", "query": "influxdb", "hide": 0}
    return {
        "uid": "microchain-testbed",
        "title": TITLE,
        "tags": ["microchain"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source | {"current": {}, "refresh": 1}, *map(_grafana_variable, VARIABLES)]},
        "annotations": {"list": []},
        "panels": shown,
    }


def _places(panels: list[Panel]) -> Iterator[_Place]:
    """Yield each panel's place: from left to right, a new row where the next one no longer fits."""
    x = y = 0
    for panel in panels:
        if x + panel.width > _COLUMNS:
            x, y = 0, y + _ROWS
        yield _Place(x, y, panel.width, _ROWS)
        x += panel.width


def _influx_query(name: str) -> str:
    return re.sub(r"\bv\.(bucket|run|cell|validator)\b", rf"v.{_PREFIX}\1", read_query(name))


def _grafana_query(name: str) -> str:
    """Grafana itself puts in v.defaultBucket, v.timeRangeStart and the like; our variables go in quoted, as JSON."""
    query = read_query(name).replace("v.bucket", "v.defaultBucket")
    return re.sub(r"\bv\.(run|cell|validator)\b", r"${\1:json}", query)


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower())
    metadata = {"name": f"{kind.lower()}-{stem}"}
    return {"apiVersion": "influxdata.com/v2alpha1", "kind": kind, "metadata": metadata, "spec": {"name": name} | spec}


def _chart(panel: Panel, place: _Place) -> dict[str, Any]:
    chart = {
        "kind": {"lines": "Xy", "stat": "Single_Stat", "table": "Table"}[panel.kind],
        "name": panel.title,
        "note": panel.description,
        "xPos": place.x,
        "yPos": place.y,
        "width": place.width,
        "height": place.height,
        "queries": [{"query": _influx_query(panel.name)}],
    }
    suffix = _SUFFIXES[panel.unit]
    if panel.kind == "lines":
        base = "2" if panel.unit == "bytes" else "10"
        return chart | {
            "geom": "line",
            "position": "overlaid",
            "xColumn": "_time",
            "yColumn": "_value",
            "hoverDimension": "auto",
            "legendColorizeRows": True,
            "legendOpacity": 1.0,
            "axes": [
                {"name": "x", "base": "10", "scale": "linear"},
                {"name": "y", "base": base, "scale": "linear", "suffix": suffix},
            ],
            "colors": [{"name": f"series {n}", "type": "scale", "hex": c} for n, c in enumerate(_SERIES_COLOURS, 1)],
        }
    colours: list[dict[str, Any]] = [{"name": "base", "type": "text", "hex": _TEXT_COLOUR}]
    if panel.kind == "table":
        return chart | {"colors": colours, "tableOptions": {"wrapping": "truncate"}, "decimalPlaces": 3}
    if panel.alarm is not None:
        colours.append({"name": "alarm", "type": "text", "hex": _ALARM_COLOUR, "value": panel.alarm})
    return chart | {"colors": colours, "suffix": suffix, "decimalPlaces": 4 if panel.unit == "seconds" else 0}


def _grafana_source() -> dict[str, str]:
    return {"type": "influxdb", "uid": "${datasource}"}


def _grafana_variable(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": _grafana_source(),
        "query": _grafana_query(f"variable_{name}"),
        "refresh": 2,  # when the time range changes, as the values do
        "sort": 0,
        "multi": False,
        "includeAll": False,
        "hide": 0,
        "current": {},
    }


def _grafana_panel(number: int, panel: Panel, place: _Place) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "blue", "value": None}]
    if panel.alarm is not None:
        steps.append({"color": "red", "value": panel.alarm})
    defaults: dict[str, Any] = {
        "unit": _GRAFANA_UNITS[panel.unit],
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.labels:
        defaults["displayName"] = " ".join(f"${{__field.labels.{label}}}" for label in panel.labels)
    options: dict[str, Any] = {"showHeader": True}
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value"}
    elif panel.kind == "lines":
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "id": number,
        "type": {"lines": "timeseries", "stat": "stat", "table": "table"}[panel.kind],
        "title": panel.title,
        "description": panel.description,
        "gridPos": {"x": 2 * place.x, "y": 3 * place.y, "w": 2 * place.width, "h": 3 * place.height},
        "datasource": _grafana_source(),
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [{"refId": "A", "datasource": _grafana_source(), "query": _grafana_query(panel.name)}],
    }


def render(document: object) -> bytes:
    """Return the document as the files hold it."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def write_files(directory: Path = _FILES) -> None:
    """Write both files."""
    (directory / TEMPLATE.name).write_bytes(render(build_template()))
    (directory / GRAFANA.name).write_bytes(render(build_grafana()))


if __name__ == "__main__":
    write_files()
