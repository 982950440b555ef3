"""Makes the node's Python environment on a host: prints {"ready": bool, "changed": [what, ...]}.

The request (JSON) is the only argument: the host's root, name and path of the two archives of installed packages,
`check` to change nothing, `local` where the archives are the control side's own. Needs neither pip nor an index.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any


def main(request: dict[str, Any]) -> None:
    environment = Path(request["root"]) / "env"
    python = environment / "bin" / "python"
    wanted = {
        "dependencies": f"{sys.version.split()[0]} {request['dependencies']['name']}",
        "node": request["node"]["name"],
    }
    stamps = {name: environment / f".{name}" for name in wanted}
    fits = {name: python.exists() and read(stamps[name]) == wanted[name] for name in wanted}
    changed = [
        name for name in wanted if not fits[name] or not fits["dependencies"]
    ]  # the node goes into a new one too
    if changed and not request["check"]:
        if "dependencies" in changed:
            make(environment, list(wanted))
        for name in changed:
            stamps[name].unlink(missing_ok=True)
            unpack(find_archive(request, name), environment / name)
            # What was compiled by another version of Python is of no use here; hosts run with PYTHONOPTIMIZE=2.
            run([str(python), "-m", "compileall", "-q", "-o", "2", str(environment / name)])
            stamps[name].write_text(wanted[name])
        for brought in [] if request["local"] else environment.parent.glob("*.tar.gz"):
            brought.unlink()
    print(json.dumps({"ready": not (changed and request["check"]), "changed": changed}))


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def make(environment: Path, parts: list[str]) -> None:
    """Begin anew: what an interrupted or older installation left is not worth a guess."""
    shutil.rmtree(environment, ignore_errors=True)
    environment.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    for place in environment.glob("lib/python*/site-packages"):
        (place / "testbed.pth").write_text("".join(f"{environment / part}\n" for part in parts))


def find_archive(request: dict[str, Any], name: str) -> Path:
    return (
        Path(request[name]["path"]) if request["local"] else Path(request["root"]) / f"{request[name]['name']}.tar.gz"
    )


def unpack(archive: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
    with tarfile.open(archive) as packed:
        packed.extractall(place, **safely)


def run(command: list[str]) -> None:
    # Bytecode belongs beside the modules: the node's processes look for it there.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed: {(done.stdout + done.stderr).strip()[-1000:]}")


if __name__ == "__main__":
    os.umask(0o022)
    main(json.loads(sys.argv[1]))
