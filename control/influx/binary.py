"""Which ``influxd`` there is: on PATH, or built by us."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from control.errors import UsageError
from control.influx.process import read_version
from control.project import ROOT

__all__ = ["HOME", "VERSIONS", "binary_place", "find_binary", "find_built"]

HOME = ROOT / ".cache" / "influxdb"
VERSIONS = {1: "1.8.10", 2: "2.7.12"}
"""What is built for each generation."""


def binary_place(major: int) -> Path:
    """Return where a server that we build is kept: ``$TESTBED_INFLUXDB_CACHE``, or inside the project."""
    kept = os.environ.get("TESTBED_INFLUXDB_CACHE")
    return (Path(kept).resolve() if kept else HOME / "bin") / VERSIONS[major] / "influxd"


def find_built(major: int) -> Path | None:
    """Return the one that was built before, from either place."""
    places = (binary_place(major), HOME / "bin" / VERSIONS[major] / "influxd")
    return next((place for place in places if os.access(place, os.X_OK)), None)


def find_binary(major: int | None) -> tuple[Path, int] | None:
    """Return a server's program and its generation: the one on PATH, else one that was built, 2.x before 1.8.

    With ``major`` only that generation is taken. UsageError if the one on PATH is of a version that can't be used.
    """
    on_path = shutil.which("influxd")
    if on_path:
        try:
            found = int(read_version(Path(on_path))[0])
        except UsageError:
            if major is None and not any(map(find_built, VERSIONS)):
                raise
        else:
            if major in (None, found):
                return Path(on_path), found
    for wanted in (2, 1) if major is None else (major,):
        built = find_built(wanted)
        if built:
            return built, wanted
    return None
