"""A collected cell on disk, for tests: planned, and with the spools that its validators and load generator left."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from microchain.telemetry.line_protocol import FieldValue, encode_point
from msgspec import json

from control.cells import expand
from control.rundir import write_json
from control.spec_reader import load_experiment

__all__ = ["BEGINNING", "VALIDATORS", "CollectedCell"]

VALIDATORS = tuple(f"validator-{number}" for number in range(1, 5))
BEGINNING = 1_790_000_000_000_000_000
_EXPERIMENT = """\
name: small
description: One cell.
validators: 4
block_bytes: 8K
transaction_bytes: 1K
workload: {kind: rounds, rounds: 10, warmup: 1}
"""


class CollectedCell:
    """The cell of a run with a name of its own, so that tests share a server and not their points."""

    def __init__(self, root: Path) -> None:
        spec = root / "small.yml"
        spec.write_text(_EXPERIMENT)
        run = f"run-{secrets.token_hex(6)}"
        (self.cell,) = expand(load_experiment(spec), run, VALIDATORS, "rsa-2048")
        self.run = root / run
        self.directory = self.run / "cells" / self.cell.id
        self.directory.mkdir(parents=True)
        write_json(self.directory / "cell.json", self.cell)
        write_json(self.run / "cells.json", [self.cell])

    def line(
        self,
        validator: str,
        time: int,
        fields: Mapping[str, FieldValue | None],
        measurement: str = "transaction",
        **tags: str,
    ) -> str:
        """Return a point of this cell without its newline; ``time`` in ns after BEGINNING."""
        own = {"run": self.cell.run, "cell": self.cell.id, "validator": validator, "host": "local"}
        return encode_point(measurement, own | tags, fields, BEGINNING + time)[:-1]

    def points(self, validator: str, count: int, first: int = 0) -> list[str]:
        """Return ``count`` points of two series, 1 µs apart."""
        return [
            self.line(
                validator,
                number * 1000,
                {"id": f"{number:016x}", "height": number // 8, "local": number % 4 == 0, "block": None},
                event="accepted" if number % 2 else "committed",
            )
            for number in range(first, first + count)
        ]

    def write_spool(self, validator: str, lines: Iterable[str], segment: int = 0) -> None:
        """Write a segment of a validator's spool, or of the load generator's (``client``)."""
        directory = self.directory / ("client" if validator == "client" else f"nodes/{validator}/spool")
        directory.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line}\n" for line in lines)
        (directory / f"{BEGINNING:020d}-{segment:06d}.lp").write_text(text, encoding="utf-8")

    def record(self) -> dict[str, object]:
        """Return influxdb.json."""
        return json.decode((self.directory / "influxdb.json").read_bytes(), type=dict[str, object])
