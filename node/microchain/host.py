"""``python -m microchain.host COMMAND``: what a playbook asks of a host that has several validators, done in one go.

A request is a JSON object on stdin, the answer one on stdout; both hold only public data, but for the tokens in a
request. Everything lies below the host's root directory:

    token                                  of the API
    validators/NAME/keys/                  made here; private keys never leave
    validators/NAME/config.toml node.log   of the cell that is set
    validators/NAME/influx.token influx-ca.pem   how it streams telemetry, if it does
    validators/NAME/data/CELL/             ledger and spool
    cells/CELL/genesis.json                CELL is the run's and the cell's name
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from microchain.config import NAME_PATTERN
from microchain.crypto.signatures import KeyFileError
from microchain.keys import Bundle, create_keys, has_keys, write_whole

__all__ = ["HostError", "main"]

_CELL_PATTERN = r"^[a-zA-Z0-9][a-zA-Z0-9.-]{0,255}$"
_INSPECT_S = 120.0
_STATUS_S = 5.0

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
CellName = Annotated[str, Meta(pattern=_CELL_PATTERN)]


class HostError(Exception):
    """A request that can't be carried out; one sentence says why."""


class Validator(Struct, forbid_unknown_fields=True):
    """A validator of this host and its ports."""

    name: Name
    peer_port: int
    api_port: int


class _Request(Struct, forbid_unknown_fields=True, kw_only=True):
    root: Path
    validators: tuple[Validator, ...]

    def home(self, validator: Validator) -> Path:
        return self.root / "validators" / validator.name


class KeysRequest(_Request):
    """With ``check`` nothing is made, and the bundles that would be new are left out of the answer."""

    address: str
    signature: Literal["rsa-2048", "ed25519"]
    check: bool = False


class CertificatesRequest(_Request):
    authority: str
    certificates: dict[str, str]
    token: str
    check: bool = False


class Influx(Struct, forbid_unknown_fields=True):
    """The server that telemetry is streamed to; ``ca`` is its authority's certificate (PEM), or empty."""

    url: str
    org: str
    bucket: str
    token: str
    ca: str = ""


class CellRequest(_Request):
    """``cell`` names the data directory; ``run`` and ``cell_id`` are what telemetry is tagged with.

    Without ``influx`` telemetry stays in the spool until it is collected.
    """

    cell: CellName
    run: str
    cell_id: str
    host: str
    address: str
    genesis: str
    sample: float
    interval_s: float
    lease_s: float
    influx: Influx | None = None


class CollectRequest(_Request):
    cell: CellName
    archive: Path


class StatusRequest(_Request):
    address: str


class DiscardRequest(_Request):
    """Removes one cell, or all that cells have left; ``archives`` is where they were packed."""

    archives: Path
    cell: CellName | None = None


def make_keys(request: KeysRequest) -> dict[str, Any]:
    """Make the keys that are missing; the answer has the public bundle of each validator."""

    def make(validator: Validator) -> tuple[Bundle, list[str]] | None:
        keys = request.home(validator) / "keys"
        if request.check and not has_keys(keys, validator.name, hosts=[request.address]):
            return None
        return create_keys(keys, validator.name, signature=request.signature, hosts=[request.address])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(make, request.validators))
    changed = any(one is None or one[1] for one in made)
    return {"changed": changed, "bundles": [one[0] for one in made if one]}


def place_certificates(request: CertificatesRequest) -> dict[str, Any]:
    """Write token and certificates where they differ; with ``check`` only say which would be written."""
    missing = [v.name for v in request.validators if v.name not in request.certificates]
    if missing:
        raise HostError(f"there is no certificate for {', '.join(missing)}")
    wanted = {request.root / "token": (request.token, 0o600)}
    for validator in request.validators:
        keys = request.home(validator) / "keys"
        wanted[keys / "ca.crt"] = (request.authority, 0o644)
        wanted[keys / "tls.crt"] = (request.certificates[validator.name], 0o644)
    changed = [path for path, (text, mode) in wanted.items() if not _holds(path, text, mode)]
    for path in [] if request.check else changed:
        text, mode = wanted[path]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, text.encode(), mode)
    return {"changed": bool(changed), "files": changed}


def _holds(path: Path, text: str, mode: int) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text and path.stat().st_mode & 0o777 == mode


def set_cell(request: CellRequest) -> dict[str, Any]:
    """Give the validators, which are stopped, the genesis of a cell and an empty ledger."""
    _discard(request, request.cell)
    genesis = request.root / "cells" / request.cell / "genesis.json"
    genesis.parent.mkdir(mode=0o700, parents=True)
    genesis.write_text(request.genesis, encoding="utf-8")
    for validator in request.validators:
        home = request.home(validator)
        (home / "data" / request.cell).mkdir(mode=0o700, parents=True)
        (home / "node.log").unlink(missing_ok=True)
        (home / "node.log").touch()  # one that systemd makes is root's
        if request.influx is not None:
            write_whole(home / "influx.token", request.influx.token.encode())
            if request.influx.ca:
                write_whole(home / "influx-ca.pem", request.influx.ca.encode())
        (home / "config.toml").write_text(_format_config(request, validator, genesis), encoding="utf-8")
    return {"changed": True}


def _format_config(request: CellRequest, validator: Validator, genesis: Path) -> str:
    home = request.home(validator)
    sections: dict[str, dict[str, str | float]] = {
        "node": {
            "name": validator.name,
            "data": str(home / "data" / request.cell),
            "genesis": str(genesis),
            "keys": str(home / "keys"),
        },
        "listen": {
            "peer": f"{request.address}:{validator.peer_port}",
            "api": f"{request.address}:{validator.api_port}",
        },
        "api": {"token_file": str(request.root / "token")},
        "telemetry": {
            "run": request.run,
            "cell": request.cell_id,
            "host": request.host,
            "sample": request.sample,
            "interval_s": request.interval_s,
        },
        "lease": {"seconds": request.lease_s},
    }
    if request.influx is not None:
        sections["influx"] = _influx_section(request.influx, home)
    # A JSON string or number is one of TOML as well.
    return "\n".join(
        "\n".join([f"[{title}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items()), ""])
        for title, section in sections.items()
    )


def _influx_section(influx: Influx, home: Path) -> dict[str, str | float]:
    section: dict[str, str | float] = {
        "url": influx.url,
        "org": influx.org,
        "bucket": influx.bucket,
        "token_file": str(home / "influx.token"),
    }
    return section | {"ca_file": str(home / "influx-ca.pem")} if influx.ca else section


def collect(request: CollectRequest) -> dict[str, Any]:
    """Pack what the cell's validators, which are stopped, have to show into one archive, a directory for each.

    What can't be had of one (a ledger that was never begun, or is damaged) is among the ``problems`` of the answer.
    """
    there = [v for v in request.validators if (request.home(v) / "data" / request.cell).is_dir()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = list(pool.map(lambda validator: _write_digest(request, validator), there))
    request.archive.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tarfile.open(request.archive, "w:gz", compresslevel=1) as archive:
        for validator in there:
            home = request.home(validator)
            data = home / "data" / request.cell
            kept = [data / name for name in ("digest.json", "shipper.json", "rejected.lp")]
            for path in (home / "config.toml", home / "node.log", home / "node.log.1", *kept):
                if path.exists():
                    archive.add(path, f"{validator.name}/{path.name}")
            if (data / "spool").is_dir():
                archive.add(data / "spool", f"{validator.name}/spool")
    # For the group of its directory: the operator's user, who fetches it.
    request.archive.chmod(0o640)
    return {"changed": True, "validators": [v.name for v in there], "problems": [p for p in problems if p]}


def _write_digest(request: CollectRequest, validator: Validator) -> str:
    """Write the digest of one ledger; return what was wrong, or nothing."""
    home = request.home(validator)
    command = [sys.executable, "-m", "microchain.cli", "inspect", "--config", str(home / "config.toml"), "--digest"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_INSPECT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"{validator.name}: reading its ledger took more than {_INSPECT_S:.0f} s"
    if done.returncode:
        return f"{validator.name}: {done.stderr.decode(errors='replace').strip()[-500:]}"
    (home / "data" / request.cell / "digest.json").write_bytes(done.stdout)
    return ""


def discard(request: DiscardRequest) -> dict[str, Any]:
    """Remove the ledgers, spools and genesis of one cell, or, with the configuration, of all; keys stay."""
    packed = list(request.archives.glob(f"{request.cell or '*'}.tar.gz"))
    for archive in packed:
        archive.unlink()
    return {"changed": _discard(request, request.cell) or bool(packed)}


def _discard(request: _Request, cell: str | None) -> bool:
    homes = [path for path in (request.root / "validators").glob("*") if path.is_dir()]
    if cell is None:
        doomed = [request.root / "cells"]
        doomed += [home / name for home in homes for name in ("data", "config.toml", "node.log", "node.log.1")]
    else:
        doomed = [request.root / "cells" / cell]
        doomed += [home / "data" / cell for home in homes]
    # A token is on a host only while it is needed.
    doomed += [home / name for home in homes for name in ("influx.token", "influx-ca.pem")]
    there = [path for path in doomed if path.exists()]
    for path in there:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return bool(there)


def show_status(request: StatusRequest) -> dict[str, Any]:
    """Ask each validator's API how it is; one that does not listen is ``stopped``."""
    import asyncio  # takes longer than all that the other commands do

    return {"changed": False, "validators": asyncio.run(_ask_all(request))}


async def _ask_all(request: StatusRequest) -> list[dict[str, Any]]:
    import asyncio

    return await asyncio.gather(*(_ask(request, validator) for validator in request.validators))


async def _ask(request: StatusRequest, validator: Validator) -> dict[str, Any]:
    from microchain.client.node_client import NodeClient, NodeError, Unreachable

    url = f"https://{request.address}:{validator.api_port}"
    authority = request.home(validator) / "keys" / "ca.crt"
    try:
        async with NodeClient(url, ca_file=authority, timeout_s=_STATUS_S) as node:
            return {"name": validator.name, "state": "running", **await node.status()}
    except Unreachable:
        return {"name": validator.name, "state": "stopped"}
    except (NodeError, OSError) as error:
        return {"name": validator.name, "state": f"in trouble: {error}"}


_COMMANDS: dict[str, tuple[type[_Request], Callable[[Any], dict[str, Any]]]] = {
    "keys": (KeysRequest, make_keys),
    "certificates": (CertificatesRequest, place_certificates),
    "cell": (CellRequest, set_cell),
    "collect": (CollectRequest, collect),
    "discard": (DiscardRequest, discard),
    "status": (StatusRequest, show_status),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the request on stdin; return the exit code: 2 if it made no sense, 1 if it failed."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if len(words) != 1 or words[0] not in _COMMANDS:
        print(f"microchain.host: give one of {', '.join(_COMMANDS)}; the request is read from stdin", file=sys.stderr)
        return 2
    kind, command = _COMMANDS[words[0]]
    os.umask(0o077)
    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=kind, dec_hook=_decode_path)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        print(f"microchain.host {words[0]}: the request is malformed: {error}", file=sys.stderr)
        return 2
    try:
        answer = command(request)
    except (HostError, KeyFileError, OSError) as error:
        print(f"microchain.host {words[0]}: {error}", file=sys.stderr)
        return 1
    print(msgspec.json.encode(answer, enc_hook=str).decode())
    return 0


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str) and Path(value).is_absolute():
        return Path(value)
    raise ValueError(f"expected an absolute path, got {value!r}")


if __name__ == "__main__":
    sys.exit(main())
