"""``python -m control.enrol --state DIR``: takes the keys that hosts made into the deployment, on the control side.

A request on stdin lists the hosts of the inventory with their validators, and the bundles that were brought back (with
``--limit`` not of all). It signs certificates, makes what the load generator needs, and writes ``endpoints.json``.
The answer on stdout holds what changed and the certificates, and no secret.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from microchain.certificates import init_authority, issue_certificates
from microchain.consensus.genesis import GenesisError
from microchain.crypto.authority import AuthorityError
from microchain.crypto.signatures import KeyFileError
from microchain.genesis_file import parse_bundle
from microchain.keys import Bundle, create_keys, write_whole
from msgspec import Struct

from control.errors import ControlError
from control.inventory import Deployment, Device, Endpoint, HostKind

__all__ = [
    "AUTHORITY_DAYS",
    "CERTIFICATE_DAYS",
    "Enrolment",
    "EnrolmentError",
    "Host",
    "Validator",
    "enrol",
    "main",
    "read_certificates",
]

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 825


class EnrolmentError(ControlError):
    """Keys that can't be enrolled; the message says whose and why."""


class Validator(Struct, forbid_unknown_fields=True):
    """A validator and its ports on its host."""

    name: str
    peer_port: int
    api_port: int


class Host(Struct, forbid_unknown_fields=True):
    """A host of the inventory, and the address at which the others reach it."""

    name: str
    address: str
    validators: tuple[Validator, ...]
    kind: HostKind = "board"


class Enrolment(Struct, forbid_unknown_fields=True):
    """All hosts of the inventory, the bundles that were just brought back, and how many devices generate load."""

    hosts: tuple[Host, ...]
    bundles: tuple[Bundle, ...]
    devices: int
    signature: Literal["rsa-2048", "ed25519"]


def enrol(request: Enrolment, state: Path, *, check: bool = False) -> list[str]:
    """Bring ``state`` up to date; return the names of the files that had to be written, or with ``check`` would be.

    EnrolmentError for keys of another scheme, or a state that can't be used.
    """
    bundles = {bundle.name: _checked(bundle, request.signature) for bundle in request.bundles}
    placed = {v.name: host for host in request.hosts for v in host.validators}
    strangers = sorted(bundles.keys() - placed.keys())
    if strangers:
        raise EnrolmentError(f"keys came back for {', '.join(strangers)}, not in the inventory")
    if check:
        return _foresee(request, state, bundles)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    now = datetime.now(UTC)
    try:
        issuer, made = init_authority(state / "authority", "Microchain testbed", days=AUTHORITY_DAYS, now=now)
        devices = _make_devices(request, state / "devices")
        requests = [(bundle, [placed[name].address]) for name, bundle in bundles.items()]
        issued = issue_certificates(issuer, requests, state / "certificates", days=CERTIFICATE_DAYS, now=now)
    except (AuthorityError, KeyFileError) as error:
        raise EnrolmentError(f"{error}; './testbed teardown' and a new deploy begin afresh") from None
    changed = ["authority"] * made + [f"certificates/{name}.crt" for name in issued]
    if not (state / "token").exists():
        write_whole(state / "token", secrets.token_hex(32).encode())
        changed.append("token")
    for path, content in _describe(request, state, bundles | devices).items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(exist_ok=True)
            write_whole(path, content)
            changed.append(str(path.relative_to(state)))
    return changed


def _checked(bundle: Bundle, signature: str) -> Bundle:
    try:
        parse_bundle(bundle)
    except GenesisError as error:
        raise EnrolmentError(str(error)) from None
    if bundle.signature != signature:
        raise EnrolmentError(
            f"{bundle.name} has {bundle.signature} keys, {signature} ones are wanted; tear it down first"
        )
    return bundle


def _make_devices(request: Enrolment, directory: Path) -> dict[str, Bundle]:
    made = {}
    for name in _device_names(request):
        made[name], _ = create_keys(directory / name, name, role="device", signature=request.signature)
    return made


def _device_names(request: Enrolment) -> list[str]:
    return [f"device-{number}" for number in range(1, request.devices + 1)]


def _describe(request: Enrolment, state: Path, bundles: dict[str, Bundle]) -> dict[Path, bytes]:
    """Return the public files by path: a bundle for each key owner, and endpoints.json."""
    files = {state / "bundles" / f"{name}.json": msgspec.json.encode(bundle) for name, bundle in bundles.items()}
    known = bundles.keys() | {path.stem for path in (state / "bundles").glob("*.json")}
    deployment = Deployment(
        ca=str(state / "authority" / "ca.crt"),
        token_file=str(state / "token"),
        endpoints=tuple(_endpoint(host, v) for host in request.hosts for v in host.validators if v.name in known),
        devices=tuple(Device(name=name, keys=str(state / "devices" / name)) for name in _device_names(request)),
        signature=request.signature,
    )
    files[state / "endpoints.json"] = msgspec.json.format(msgspec.json.encode(deployment), indent=2)
    return files


def _endpoint(host: Host, validator: Validator) -> Endpoint:
    return Endpoint(
        name=validator.name,
        host=host.name,
        api=f"https://{host.address}:{validator.api_port}",
        peer=f"{host.address}:{validator.peer_port}",
        kind=host.kind,
    )


def _foresee(request: Enrolment, state: Path, bundles: dict[str, Bundle]) -> list[str]:
    """Return which files differ or are missing, without making any."""
    expected = [state / "token", state / "authority" / "ca.crt"]
    expected += [state / "devices" / name / "signing.pem" for name in _device_names(request)]
    expected += [state / "certificates" / f"{name}.crt" for name in bundles]
    missing = [path for path in expected if not path.exists()]
    described = _describe(request, state, bundles)
    missing += [path for path, content in described.items() if not path.exists() or path.read_bytes() != content]
    return [str(path.relative_to(state)) for path in missing]


def read_certificates(state: Path) -> dict[str, Any]:
    """Return the authority's certificate and those of the validators by name, as PEM, as far as there are any."""
    authority = state / "authority" / "ca.crt"
    certificates = {path.stem: path.read_text(encoding="ascii") for path in (state / "certificates").glob("*.crt")}
    return {
        "authority": authority.read_text(encoding="ascii") if authority.exists() else "",
        "certificates": certificates,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m control.enrol", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="the control side's directory of this deployment")
    parser.add_argument("--check", action="store_true", help="write nothing, only say what would be written")
    options = parser.parse_args(arguments)
    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=Enrolment)
        changed = enrol(request, options.state.resolve(), check=options.check)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        print(f"the request is malformed: {error}", file=sys.stderr)
        return 2
    except (ControlError, OSError) as error:
        print(error, file=sys.stderr)
        return getattr(error, "exit_code", 1)
    print(json.dumps({"changed": changed, **read_certificates(options.state)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
