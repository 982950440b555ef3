"""Makes the node's Python environment on a host: prints {"ready": bool, "changed": [what, ...]}.

The request (JSON) is the only argument: the host's root, name and path of the two archives of wheels, `check` to change
nothing, `local` where the archives are the control side's own. Needs neither ensurepip nor a package index: pip is
one of the wheels.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

PIP = "pip.whl"


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
            make(environment)
        with tempfile.TemporaryDirectory(prefix="wheels-", dir=environment) as place:
            for name in changed:
                stamps[name].unlink(missing_ok=True)
                install(environment, unpack(find_archive(request, name), Path(place) / name))
                stamps[name].write_text(wanted[name])
        # Without docstrings: they would take 1.6 MB of each validator. Hosts run with PYTHONOPTIMIZE=2.
        run([str(python), "-m", "compileall", "-q", "-o", "2", str(environment / "lib")])
        for brought in [] if request["local"] else environment.parent.glob("*.tar"):
            brought.unlink()
    print(json.dumps({"ready": not (changed and request["check"]), "changed": changed}))


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def make(environment: Path) -> None:
    """Begin anew: what an interrupted or older installation left is not worth a guess."""
    shutil.rmtree(environment, ignore_errors=True)
    environment.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)])


def find_archive(request: dict[str, Any], name: str) -> Path:
    return Path(request[name]["path"]) if request["local"] else Path(request["root"]) / f"{request[name]['name']}.tar"


def unpack(archive: Path, place: Path) -> list[Path]:
    """Return the wheels of an archive, whose members are files in no directory."""
    place.mkdir()
    wheels = []
    with tarfile.open(archive) as packed:
        for member in packed:
            content = packed.extractfile(member)
            if content is None or not member.name.endswith(".whl") or "/" in member.name:
                sys.exit(f"{archive} holds {member.name}, which is no wheel: remove it, and deploy again")
            wheels.append(place / member.name)
            with wheels[-1].open("wb") as target:
                shutil.copyfileobj(content, target)
    return wheels


def install(environment: Path, wheels: list[Path]) -> None:
    """Install with the pip that is among the dependencies; the environment keeps its wheel, and does not have it."""
    for own in [path for path in wheels if path.name.startswith("pip-")]:
        wheels.remove(own)
        own.replace(environment / PIP)
    python = environment / "bin" / "python"
    options = [
        "--quiet",
        "--no-index",
        "--no-deps",
        "--force-reinstall",
        "--no-cache-dir",
        "--no-compile",
        "--disable-pip-version-check",
    ]
    pip = str(environment / PIP / "pip")
    run([sys.executable, pip, "--python", str(python), "install", *options, *map(str, wheels)])


def run(command: list[str]) -> None:
    # Bytecode belongs beside the modules: the node's processes look for it there.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed: {(done.stdout + done.stderr).strip()[-1000:]}")


if __name__ == "__main__":
    os.umask(0o022)
    main(json.loads(sys.argv[1]))
