"""A project with a deployment, as `deploy` leaves it, for tests: inventory, bundles, devices and endpoints.json."""

from __future__ import annotations

from pathlib import Path

import msgspec

from control.inventory import Deployment, Device, Endpoint
from control.project import control_directory
from tests.cluster import TOKEN, make_keys

SPEC = """\
name: small
validators: [4]
block_bytes: 8K
transaction_bytes: 1K
workload: {kind: rounds, rounds: 3, warmup: 1, timeout_s: 20}
"""


def make_project(root: Path, validators: int = 4, apis: list[str] | None = None) -> Path:
    """Make a project's root with inventory ``local``, ``validators`` deployed (API base URLs ``apis``), one device."""
    (root / "inventory" / "local").mkdir(parents=True)
    state = control_directory("local", root)
    (state / "bundles").mkdir(parents=True)
    names = [f"validator-{number}" for number in range(1, validators + 1)]
    for name in names:
        _, bundle = make_keys(name, "ed25519", "validator")
        (state / "bundles" / f"{name}.json").write_bytes(msgspec.json.encode(bundle))
    device_keys, bundle = make_keys("device-1", "ed25519", "device")
    (state / "bundles" / "device-1.json").write_bytes(msgspec.json.encode(bundle))
    (state / "token").write_text(TOKEN)
    apis = apis or [f"http://127.0.0.1:{9200 + number}" for number in range(validators)]
    deployment = Deployment(
        ca="",
        token_file=str(state / "token"),
        endpoints=tuple(
            Endpoint(name=name, host="local", api=api, peer=f"127.0.0.1:{9100 + number}")
            for number, (name, api) in enumerate(zip(names, apis, strict=True))
        ),
        devices=(Device(name="device-1", keys=str(device_keys)),),
        signature="ed25519",
    )
    (state / "endpoints.json").write_bytes(msgspec.json.encode(deployment))
    return root


def endpoints(root: Path) -> Path:
    """Where the project's endpoints.json is."""
    return control_directory("local", root) / "endpoints.json"


def write_spec(root: Path, text: str = SPEC) -> Path:
    """Write an experiment file."""
    path = root / "experiment.yml"
    path.write_text(text)
    return path
