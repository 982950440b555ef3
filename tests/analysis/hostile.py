"""A run whose every text is written by an enemy of the page that shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.analysis.synthetic import Plan, make_run, write

SCRIPT = "<script>document.title='owned'</script>"
IMAGE = '"><img src="https://example.invalid/x" onerror="document.title=1">'
REORDERED = "abc\u202edcba\x1b[31m\x00"
VALIDATOR = "<script>"
"""A validator's name: it stands in points, so it holds neither comma, space nor equals sign."""


def make_hostile_run(root: Path, *plans: Plan) -> Path:
    """A run with figures to be shown, and markup, control characters and very long words in all that is text."""
    path = make_run(root, *(plans or (Plan(), Plan(validators=8, cell="k8-b128k"))))
    _rename_validator(path)
    cells = [directory.name for directory in sorted((path / "cells").iterdir())]
    write(
        path / "environment.json",
        {
            "git": {"commit": f"{SCRIPT}", "dirty": True, "status": f"?? {IMAGE}\n", "diff": f"+{SCRIPT}\n" * 3},
            "versions": {SCRIPT: IMAGE, "word": "w" * 500},
            "host": {
                "cpu": f"{SCRIPT}{IMAGE}",
                "cores": 2,
                "memory_bytes": 4 << 30,
                "kernel": REORDERED,
                "board": None,
            },
            "hosts": {IMAGE: {"cpu": SCRIPT, "system": "</table></body>"}},
        },
    )
    write(
        path / "inventory.json",
        {"name": f"x; {SCRIPT}", "signature": IMAGE, "validators": [{"name": VALIDATOR, "host": SCRIPT}]},
    )
    write(path / "resolved.json", {"name": f"{SCRIPT} {'n' * 300}", "description": IMAGE, "seed": 1})
    write(
        path / "cells.json",
        [
            {"id": id, "validators": [VALIDATOR], "workload": {"kind": SCRIPT}, "seed": 5}
            for id in [*cells, "../../../etc", IMAGE]
        ],
    )
    for id in cells:
        write(
            path / "cells" / id / "outcome.json",
            {"status": "ok", "drained": True, "message": SCRIPT, "chain_id": IMAGE},
        )
    (path / "spec.yml").write_text(f"name: {SCRIPT}\n</pre></style>{IMAGE}\n{REORDERED}\n", "utf-8")
    (path / f"{SCRIPT[:8]} $(id) .txt").write_text("a file with a name", "utf-8")
    return path


def _rename_validator(path: Path) -> None:
    old = "validator-2"
    for file in [p for p in path.rglob("*") if p.is_file()]:
        file.write_bytes(file.read_bytes().replace(old.encode(), VALIDATOR.encode()))
    for directory in [p for p in path.rglob(old) if p.is_dir()]:
        shutil.move(directory, directory.with_name(VALIDATOR))
