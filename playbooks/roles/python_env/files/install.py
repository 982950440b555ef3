"""Makes the node's Python environment on a host: prints {"ready": bool, "changed": [what, ...]}.

The request (JSON) is the only argument: the host's root, the two directories of wheels, `check` to change nothing.
Needs neither ensurepip nor a package index: pip itself is one of the wheels.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any


def main(request: dict[str, Any]) -> None:
    environment = Path(request["root"]) / "env"
    python = environment / "bin" / "python"
    dependencies, node = Path(request["dependencies"]), Path(request["node"])
    version = sys.version.split()[0]
    wanted = {"dependencies": f"{version} {dependencies.name}", "node": node.name}
    stamps = {name: environment / f".{name}" for name in wanted}
    fits = {name: python.exists() and read(stamps[name]) == wanted[name] for name in wanted}
    changed = [
        name for name in wanted if not fits[name] or not fits["dependencies"]
    ]  # the node goes into a new one too
    if changed and not request["check"]:
        if "dependencies" in changed:
            make(environment)
        for name in changed:
            stamps[name].unlink(missing_ok=True)
            install(python, dependencies, {"dependencies": dependencies, "node": node}[name])
            stamps[name].write_text(wanted[name])
    print(json.dumps({"ready": not (changed and request["check"]), "changed": changed}))


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def make(environment: Path) -> None:
    """Begin anew: what an interrupted or older installation left is not worth a guess."""
    shutil.rmtree(environment, ignore_errors=True)
    environment.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)])


def install(python: Path, dependencies: Path, wheels: Path) -> None:
    pip = next(dependencies.glob("pip-*.whl")) / "pip"
    chosen = [str(path) for path in sorted(wheels.glob("*.whl")) if not path.name.startswith("pip-")]
    options = [
        "--quiet",
        "--no-index",
        "--no-deps",
        "--force-reinstall",
        "--no-cache-dir",
        "--no-compile",
        "--disable-pip-version-check",
    ]
    run([sys.executable, str(pip), "--python", str(python), "install", *options, *chosen])
    # Without docstrings: they would take 1.6 MB of each validator. Hosts run with PYTHONOPTIMIZE=2.
    run([str(python), "-m", "compileall", "-q", "-o", "2", str(python.parent.parent / "lib")])


def run(command: list[str]) -> None:
    # Bytecode belongs beside the modules: the node's processes look for it there.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed: {(done.stdout + done.stderr).strip()[-1000:]}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
