"""What a node loads: a board has little memory, and the operator's libraries have no place on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

_LOAD_ALL = """
import importlib, json, pkgutil, sys
import microchain
for module in pkgutil.walk_packages(microchain.__path__, "microchain."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_no_module_of_the_node_pulls_in_what_only_the_operator_needs() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", _LOAD_ALL], capture_output=True, check=True, env=environment)
    loaded = set(json.loads(done.stdout))
    assert {"microchain", "aiohttp", "msgspec"} <= loaded
    operators = {"pandas", "numpy", "influxdb_client", "matplotlib", "rich", "yaml", "jinja2", "ansible", "fabric"}
    assert not loaded & (operators | {"control", "analysis", "emulator", "reactivex", "urllib3"})
